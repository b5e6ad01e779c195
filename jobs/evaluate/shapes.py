"""Which ideal shape a blob of pixels looks like, whatever its place and size; upright shapes only.

A mask and the ideals are laid over each other with their centres of mass at the origin and areas of 1. The
ideal of the greatest intersection over union is the shape, if the outlines lie close enough together. That is
measured as the area between them over the outline's length, because the same wobble costs a star, which is all
outline, twice the overlap that it costs a circle.
"""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

MAX_WOBBLE = 0.045
"""Mean distance of outlines, in square roots of the area, above which a blob is no shape. Of a hundred rough things
that a half-trained model drew, those up to 0.05 were plainly their shape to the eye, those from 0.056 were not.
"""
REACH = 1.1
"""The frame goes so far from the centre, in square roots of the area."""
FRAME = 64
_PIXEL = 2 * REACH / (FRAME - 1)
"""Side of the frame's pixels, in square roots of the area."""
_DRAWN = 600


def shape_of(mask: np.ndarray) -> tuple[str | None, float]:
    """The most similar ideal of a boolean mask (H, W), None if its outline is too far off, and how far it is."""
    framed = _framed(mask)
    best = max(ideals(), key=lambda name: _overlap(framed, ideals()[name]))
    wobble = _wobble(framed, ideals()[best])
    return (best if wobble <= MAX_WOBBLE else None), wobble


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


def _wobble(framed: np.ndarray, ideal: np.ndarray) -> float:
    """Area between two outlines over the length of the second; a soft mask's length is its total variation."""
    length = np.hypot(*np.gradient(ideal)).sum()
    return float(np.abs(framed - ideal).sum() / length * _PIXEL)
