"""Pictures with one thing wrong are judged wrong, and the judge says what."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from jobs.evaluate import wrongs
from jobs.evaluate.checker import Seen, Thing, look
from jobs.evaluate.judging import Verdict, judge
from jobs.evaluate.prompts import expectation
from jobs.evaluate.validate import as_rendered, drawn, fully_said
from tests.evaluate.pictures import random_scenes

EACH = 4
REASONS = {
    wrongs.swapped_relation: {"position"},
    wrongs.wrong_count: {"count"},
    wrongs.wrong_colour: {"colour"},
    wrongs.swapped_colours: {"colour"},
    wrongs.wrong_shape: {"shape"},
    wrongs.missing: {"missing"},
    wrongs.extra: {"extra", "count"},
    wrongs.blank: {"missing"},
}


def test_every_way_of_being_wrong_is_tested() -> None:
    assert set(REASONS) == set(wrongs.WRONGS)


@pytest.mark.parametrize("change", REASONS, ids=lambda change: change.__name__)
def test_a_wrong_picture_is_judged_wrong(change) -> None:
    rng = Random(3)
    pairs = [(scene, change(scene, rng)) for scene in random_scenes(100, seed=8)]
    for scene, wrong in [pair for pair in pairs if pair[1]][:EACH]:
        expects, picture = expectation(fully_said(scene)), drawn(wrong)
        assert judge(look(picture), expects).why in REASONS[change]
        assert judge(look(as_rendered(picture, 0)), expects).why in REASONS[change]


def test_noise_is_wrong() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    assert judge(look(noise), expectation(random_scenes(1, seed=1)[0])).why == "missing"


def seen(*things: tuple[str | None, str, float, float]) -> Seen:
    return Seen("white", tuple(Thing(s, c, (x, y), 0.04, 0.95) for s, c, x, y in things))


def asked(*things: tuple[str, str | None], relation: str | None = None, place: str | None = None) -> dict:
    return {
        "things": [{"shape": s, "count": 1, "colour": c, "size": None, "area": None} for s, c in things],
        "relation": relation,
        "place": place,
        "ground": None,
    }


def test_a_shapeless_thing_is_one_too_many() -> None:
    expects = asked(("star", None))
    assert judge(seen(("star", "red", 0.5, 0.5)), expects) == Verdict(True, "", None, None, None)
    assert judge(seen(("star", "red", 0.5, 0.5), (None, "red", 0.8, 0.8)), expects).why == "extra"
    assert judge(seen((None, "red", 0.5, 0.5)), expects).why == "shape"


@pytest.mark.parametrize(
    ("second", "right"),
    [
        ((0.7, 0.5), True),
        ((0.52, 0.5), False),
        ((0.2, 0.5), False),
        ((0.55, 0.9), False),
        ((0.6, 0.55), True),
    ],
)
def test_left_of_means_clearly_and_mainly_left(second: tuple[float, float], right: bool) -> None:
    shown = seen(("star", "red", 0.45, 0.5), ("heart", "blue", *second))
    assert judge(shown, asked(("star", None), ("heart", None), relation="left")).right is right
    assert judge(shown, asked(("heart", "blue"), ("star", "red"), relation="right")).right is right


def test_ground_size_and_place_are_told_apart_from_the_verdict() -> None:
    scene = next(s for s in random_scenes(100, seed=5) if s.place and s.place != "middle")
    other = {"ground": next(g for g in ("black", "pink") if g not in (scene.ground, scene.things[0].colour))}
    small = tuple(replace(t, size="small" if t.size != "small" else "large") for t in scene.things)
    expects = expectation(fully_said(scene))
    shown = judge(look(drawn(replace(scene, things=small, **other))), expects)
    assert (shown.right, shown.ground_right, shown.size_right, shown.place_right) == (
        True,
        False,
        False,
        True,
    )
    moved = tuple(replace(t, centres=((0.5, 0.5),)) for t in scene.things)
    assert judge(look(drawn(replace(scene, things=moved))), expects).place_right is False
