"""The embedding that Stage C paints and Stage B reads: what is where, cell by cell.

Published embeddings come out of a network that was trained to tell what a picture shows (EfficientNet), so they
hold meaning more than edges. Here the meaning is known, because pictures are drawn from scenes, and is written down
directly. The 16 channels of a cell:

    0-2    the ground's colour, red, green, blue, -1 to 1
    3      how much of the cell has the second tone of the ground's pattern
    4-6    the colour of the thing around here
    7-12   its shape, one channel for each of SHAPES
    13-14  how far its centre is to the left and up, in radii
    15     how deep the cell lies inside a thing, positive inside, over SOFT cells at its edge

Channels 4 to 14 fade to zero away from things. Values are of order one where they speak, so that they come out
of the noise together. Cells lie where Stage B will look for them, which stretches an embedding corner to corner.
"""

import numpy as np
import torch
from torch import Tensor

from cascade_batch.model.geometry import embedding_side
from jobs.train_mini.drawing import pattern_share, rgb, shape_distance
from jobs.train_mini.world import SHAPES, Scene

CHANNELS, DEPTH = 16, 15
GRID = 128
"""Cells of Stage B's first level along 1024 px."""
REACH = 1.3
"""Things speak as far as their corners reach, in radii, and fade over one cell more."""
GAIN = 1.6
"""Brings the mean square towards the noise's 1."""
SHAPE_WEIGHT, COLOUR_WEIGHT, TONE_WEIGHT, DEPTH_WEIGHT = 2.0, 1.5, 1.5, 2.0
SOFT = 2
"""Cells over which a thing's edge fades."""


def embed(scenes: list[Scene], height: int, width: int) -> Tensor:
    """Embeddings (scenes, 16, h, w), float32, of `height` x `width` pictures."""
    return GAIN * torch.from_numpy(np.stack([_field(scene, height, width) for scene in scenes]))


def _field(scene: Scene, height: int, width: int) -> np.ndarray:
    side = min(height, width)
    ys, xs = (_places(pixels) * pixels / side for pixels in (height, width))
    field = np.zeros((CHANNELS, len(ys), len(xs)), dtype=np.float32)
    field[:3] = 2 * rgb(scene.ground)[:, None, None] - 1
    cell = ys[1] - ys[0]
    if scene.pattern != "plain":
        field[3] = TONE_WEIGHT * pattern_share(scene.pattern, scene.phase, ys, xs, cell)
    field[DEPTH] = -DEPTH_WEIGHT
    nearest = np.full((len(ys), len(xs)), np.inf)
    for thing in scene.things:
        for x, y in thing.centres:
            left, up = x * width / side - xs[None, :], y * height / side - ys[:, None]
            away = np.hypot(left, up) / thing.radius
            speaks = np.clip((REACH - away) * thing.radius / cell + 1.0, 0, 1) * (away < nearest)
            nearest = np.minimum(nearest, away)
            here = speaks > 0
            field[4:15, here] = (speaks * _told(thing.shape, thing.colour, thing.radius, left, up))[:, here]
            outside = shape_distance(thing.shape, -left / thing.radius, -up / thing.radius) * thing.radius
            field[DEPTH] = np.maximum(field[DEPTH], DEPTH_WEIGHT * np.clip(-outside / (SOFT * cell), -1, 1))
    return field


def _told(shape: str, colour: str, radius: float, left: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Channels 4 to 14 of a thing, (11, rows, columns)."""
    told = np.zeros((11, len(up), left.shape[1]), dtype=np.float32)
    told[:3] = COLOUR_WEIGHT * (2 * rgb(colour) - 1)[:, None, None]
    told[3 + SHAPES.index(shape)] = SHAPE_WEIGHT
    told[9], told[10] = left / radius, up / radius
    return told


def _places(pixels: int) -> np.ndarray:
    """Where the cells' centres lie along a side, as fractions."""
    latents = GRID * pixels / 1024
    return np.linspace(0.5 / latents, 1 - 0.5 / latents, embedding_side(pixels))
