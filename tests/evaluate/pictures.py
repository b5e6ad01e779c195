"""Pictures for the checker's tests: other shapes than it knows, and random scenes."""

from collections.abc import Sequence
from random import Random

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from jobs.train_mini.world import Scene, any_scene

WHITE, RED = (245, 245, 245), (220, 40, 40)


def random_scenes(count: int, seed: int) -> list[Scene]:
    rng = Random(seed)
    return [any_scene(rng) for _ in range(count)]


def on_white(
    *polygons: list[tuple[int, int]], ellipses: Sequence[tuple[int, int, int, int]] = (), side: int = 512
) -> np.ndarray:
    """Red polygons and ellipses, given by corners and boxes in pixels, on white."""
    image = Image.new("RGB", (side, side), WHITE)
    pen = ImageDraw.Draw(image)
    for corners in polygons:
        pen.polygon(corners, fill=RED)
    for box in ellipses:
        pen.ellipse(box, fill=RED)
    return np.array(image)


def wobbly(picture: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Every point moved smoothly; how far, is in the mean square a share of a large thing's size."""
    noise = np.random.default_rng(seed).normal(size=(2, *picture.shape[:2]))
    size = 0.3 * len(picture)
    way = ndimage.gaussian_filter(noise, (0, size / 8, size / 8))
    y, x = np.indices(picture.shape[:2]) + way * share * size / np.sqrt((way**2).sum(0).mean())
    bands = [
        ndimage.map_coordinates(picture[..., band], [y, x], order=1, mode="nearest") for band in range(3)
    ]
    return np.stack(bands, axis=-1)
