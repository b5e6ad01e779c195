"""The embedding of a scene says what is where, at every size."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from cascade_batch.engine.networks.blocks import resize
from cascade_batch.model.geometry import embedding_side
from jobs.train_mini.drawing import draw
from jobs.train_mini.embedding import COLOUR_WEIGHT, DEPTH, DEPTH_WEIGHT, GAIN, embed
from jobs.train_mini.world import COLOURS, SHAPES, Scene, training_scene

SIDES = [(1024, 1024), (512, 768), (640, 384)]
"""(height, width)."""


def scenes(count: int) -> list[Scene]:
    rng = Random(4)
    return [training_scene(rng) for _ in range(count)]


def colour_of(channels: np.ndarray) -> str:
    levels = (channels + 1) * 127.5
    return min(COLOURS, key=lambda name: float(np.abs(levels - np.array(COLOURS[name])).sum()))


def places(cells: int) -> np.ndarray:
    """Centres of the cells along a side as Stage B stretches them, corner to corner."""
    latents = 32 * cells / 6
    return np.linspace(0.5 / latents, 1 - 0.5 / latents, cells)


@pytest.mark.parametrize(("height", "width"), SIDES)
def test_it_has_the_size_that_rendering_asks_for(height: int, width: int) -> None:
    assert embed(scenes(2), height, width).shape == (2, 16, embedding_side(height), embedding_side(width))


def test_the_cell_at_a_things_centre_tells_its_shape_and_colour() -> None:
    for scene, field in zip(scenes(100), embed(scenes(100), 1024, 1024).numpy() / GAIN, strict=True):
        assert colour_of(field[:3, 0, 0]) == scene.ground
        for thing in scene.things:
            for x, y in thing.centres:
                row, column = np.abs(places(24) - y).argmin(), np.abs(places(24) - x).argmin()
                cell = field[:, row, column]
                assert SHAPES[cell[7:13].argmax()] == thing.shape
                assert colour_of(cell[4:7] / COLOUR_WEIGHT) == thing.colour
                assert np.abs(cell[13:15]).max() < 0.6 / 24 / thing.radius
                assert cell[DEPTH] > 0.2


def test_every_cell_of_a_thing_points_to_its_centre() -> None:
    for scene, field in zip(scenes(50), embed(scenes(50), 1024, 1024).numpy() / GAIN, strict=True):
        y, x = np.meshgrid(places(24), places(24), indexing="ij")
        inside = field[7:13].max(0) > 1.999
        centres = [(cx, cy, thing.radius) for thing in scene.things for cx, cy in thing.centres]
        assert inside.sum() >= 8 * len(centres)
        for row, column in zip(*np.nonzero(inside), strict=True):
            pointed = [
                np.hypot(
                    x[row, column] + field[13, row, column] * radius - cx,
                    y[row, column] + field[14, row, column] * radius - cy,
                )
                for cx, cy, radius in centres
            ]
            assert min(pointed) < 1e-4


def test_far_from_things_there_is_only_ground() -> None:
    seen = 0
    for scene, field in zip(scenes(50), embed(scenes(50), 1024, 1024).numpy(), strict=True):
        y, x = np.meshgrid(places(24), places(24), indexing="ij")
        away = [np.hypot(x - cx, y - cy) / thing.radius for thing in scene.things for cx, cy in thing.centres]
        far = np.min(away, axis=0) > 3
        seen += far.sum()
        assert not field[4:15, far].any()
        assert np.allclose(field[DEPTH, far], -DEPTH_WEIGHT * GAIN)
    assert seen > 5000


def test_depth_draws_the_outline() -> None:
    """Stretched to pixels, its sign tells inside from outside nearly everywhere."""
    wrong = []
    for scene, field in zip(scenes(30), embed(scenes(30), 1024, 1024), strict=True):
        depth = resize(field[None, DEPTH, :, :, None], 128, 128)[0, :, :, 0].numpy()
        plain = draw(replace(scene, pattern="plain"), 128, 128)
        ground = np.array(COLOURS[scene.ground]) / 255
        inside = np.abs(plain - ground).max(-1) > 0.15
        wrong.append(((depth > 0) != inside).sum() / inside.sum())
    assert np.median(wrong) < 0.1
    assert np.quantile(wrong, 0.9) < 0.25  # the points of a small star are finer than a cell
