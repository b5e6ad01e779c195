"""The checker sees what was drawn, drawn sharply or as a decoder renders; and no shape in what is none."""

import subprocess
import sys
import time

import numpy as np
import pytest

from jobs.evaluate.checker import look
from jobs.evaluate.judging import judge
from jobs.evaluate.prompts import expectation
from jobs.evaluate.validate import as_rendered, drawn, fully_said
from jobs.train_mini.drawing import draw
from jobs.train_mini.world import COLOURS, GROUND_COLOURS, PATTERNS, SHAPES, Scene, Thing
from tests.evaluate.pictures import on_white, random_scenes, wobbly
from tests.patience import PATIENCE_S


def shapes_in(picture: np.ndarray) -> list[str | None]:
    return [thing.shape for thing in look(picture).things]


@pytest.mark.parametrize("seed", range(4))
def test_drawn_and_rendered_scenes_are_judged_right(seed: int) -> None:
    """120 scenes in all, every second one as rendered too."""
    for number, scene in enumerate(random_scenes(30, seed)):
        expects, picture = expectation(fully_said(scene)), drawn(scene)
        for shown in (picture, as_rendered(picture, seed))[: 1 + number % 2]:
            verdict = judge(look(shown), expects)
            assert verdict.right, (verdict.why, scene)
            assert verdict.ground_right, scene
            assert verdict.size_right, scene
            assert verdict.place_right is not False, scene


@pytest.mark.parametrize("ground", GROUND_COLOURS)
def test_patterns_are_ground_at_every_shift(ground: str) -> None:
    for pattern in PATTERNS:
        for phase in (0.0, 0.5):
            seen = look(drawn(Scene((), ground, pattern, True, "one", phase=phase)))
            assert (seen.ground, seen.things) == (ground, ())


@pytest.mark.parametrize("ground", GROUND_COLOURS)
def test_colours_are_told_apart_on_every_ground(ground: str) -> None:
    for colour in COLOURS.keys() - {ground, "gray"}:
        thing = Thing("star", colour, "small", ((0.3, 0.6),), True, True, 1.0)
        seen = look(drawn(Scene((thing,), ground, "striped", True, "one")))
        assert [(t.shape, t.colour) for t in seen.things] == [("star", colour)]
        assert seen.things[0].centre == pytest.approx((0.3, 0.6), abs=0.005)


def test_what_is_none_of_the_shapes_has_no_name() -> None:
    assert shapes_in(on_white(ellipses=[(100, 180, 400, 330)])) == [None]
    assert shapes_in(on_white([(100, 200), (420, 200), (420, 290), (100, 290)])) == [None]
    assert shapes_in(on_white([(256, 100), (412, 256), (256, 412), (100, 256)])) == [None]  # on its corner
    assert shapes_in(on_white([(100, 150), (412, 150), (256, 420)])) == [None]  # points down
    ring = on_white(ellipses=[(130, 130, 380, 380)])
    ring[195:315, 195:315] = on_white()[0, 0]
    assert shapes_in(ring) == [None]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_wobbly_outline_is_the_shape_still_and_a_bent_one_is_none(shape: str) -> None:
    thing = Thing(shape, "red", "large", ((0.5, 0.5),), True, True, 1.0)
    picture = (255 * draw(Scene((thing,), "white", "plain", True, "one"), 512, 512)).astype(np.uint8)
    for seed in range(3):
        assert shapes_in(wobbly(picture, 0.05, seed)) == [shape]
        assert shapes_in(wobbly(picture, 0.25, seed)) != [shape]


def test_circles_that_touch_are_two() -> None:
    assert shapes_in(on_white(ellipses=[(100, 180, 252, 332), (248, 180, 400, 332)])) == ["circle"] * 2


def test_a_blotch_is_a_thing_and_a_speck_is_none() -> None:
    circle = (60, 60, 260, 260)
    assert shapes_in(on_white(ellipses=[circle, (400, 400, 412, 404)])) == ["circle"]
    assert len(look(on_white([(380, 400), (440, 410), (390, 430)], ellipses=[circle])).things) == 2


def test_noise_and_emptiness_hold_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    assert look(noise).things == ()
    assert look(np.zeros((384, 512, 3), dtype=np.uint8)).things == ()


def test_other_sizes_are_measured_in_the_same_shares() -> None:
    wide = np.pad(on_white(ellipses=[(206, 206, 306, 306)]), ((0, 0), (0, 256), (0, 0)), mode="edge")
    (thing,) = look(wide).things
    assert thing.centre == pytest.approx((1 / 3, 0.5), abs=0.005)
    assert thing.area == pytest.approx(np.pi * 50**2 / 512**2, rel=0.05)


def test_it_is_quick_and_knows_nothing_of_the_generator() -> None:
    picture = as_rendered(drawn(random_scenes(1, seed=2)[0]), seed=0)
    look(picture)
    start = time.process_time()
    look(picture)
    assert time.process_time() - start < 0.15
    code = "import sys, jobs.evaluate.judging; sys.exit(any('train_mini' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE_S).returncode == 0
