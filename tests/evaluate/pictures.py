"""Pictures for the checker's tests: other shapes than it knows, and random scenes."""

from collections.abc import Sequence
from random import Random

import numpy as np
from PIL import Image, ImageDraw

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
