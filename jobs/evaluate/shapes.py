"""Which ideal shape a blob of pixels looks like, whatever its place and size; upright shapes only.

A mask and the ideals are laid over each other with their centres of mass at the origin and areas of 1, and
compared by intersection over union.
"""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

MIN_FIT = 0.86
"""Below this intersection over union a blob is no shape. Ideals are at most 0.82 alike (circle and square)."""
REACH = 1.1
"""The frame goes so far from the centre, in square roots of the area."""
FRAME = 64
_DRAWN = 600


def shape_of(mask: np.ndarray) -> tuple[str | None, float]:
    """The most similar ideal of a boolean mask (H, W), None if no ideal is similar, and the similarity 0..1."""
    framed = _framed(mask)
    fits = {name: _overlap(framed, ideal) for name, ideal in ideals().items()}
    best = max(fits, key=fits.__getitem__)
    return (best if fits[best] >= MIN_FIT else None), fits[best]


@cache
def ideals() -> dict[str, np.ndarray]:
    """Every shape in the common frame (FRAME, FRAME), float 0..1."""
    y, x = np.mgrid[-1.5 : 1.5 : _DRAWN * 1j, -1.5 : 1.5 : _DRAWN * 1j]
    turns = np.arange(10) * np.pi / 5
    star = np.where(np.arange(10) % 2 == 0, 1.0, 0.4)
    masks = {
        "circle": np.hypot(x, y) < 1,
        "square": np.maximum(abs(x), abs(y)) < 1,
        "triangle": _polygon([(0, -1), (3**0.5 / 2, 0.5), (-(3**0.5) / 2, 0.5)]),
        "star": _polygon(np.stack([star * np.sin(turns), -star * np.cos(turns)], axis=1)),
        "cross": np.minimum(abs(x), abs(y)) < np.where(np.maximum(abs(x), abs(y)) < 1, 1 / 3, -1),
        # Two discs over a triangle.
        "heart": (np.hypot(abs(x) - 0.45, y) < 0.5) | ((y > 0) & (abs(x) + y / 1.15 < 1)),
    }
    return {name: _framed(mask) for name, mask in masks.items()}


def _polygon(corners: np.ndarray | list[tuple[float, float]]) -> np.ndarray:
    image = Image.new("1", (_DRAWN, _DRAWN))
    ImageDraw.Draw(image).polygon(
        [tuple((v + 1.5) / 3 * _DRAWN for v in corner) for corner in corners], fill=1
    )
    return np.array(image)


def _framed(mask: np.ndarray) -> np.ndarray:
    """The mask sampled in the common frame."""
    ys, xs = np.nonzero(mask)
    steps = np.linspace(-REACH, REACH, FRAME) * len(ys) ** 0.5
    grid = np.meshgrid(ys.mean() + steps, xs.mean() + steps, indexing="ij")
    return ndimage.map_coordinates(mask.astype(np.float32), grid, order=1)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())
