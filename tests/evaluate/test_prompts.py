"""The prompt tables are those of the code, are fair, and a right picture of every prompt is judged right."""

import json
from collections import Counter
from itertools import product

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.evaluate.checker import look
from jobs.evaluate.judging import judge
from jobs.evaluate.prompts import (
    PROMPTS,
    SAMPLED,
    Prompt,
    area_limits,
    expectation,
    make_prompts,
    prompts_table,
    sampled,
)
from jobs.evaluate.scenes import ASKED_OF_ONE
from jobs.evaluate.validate import drawn
from jobs.train_mini.captions import KNOWN_WORDS
from jobs.train_mini.world import (
    COUNTS,
    OBJECT_COLOURS,
    RELATIONS,
    SHAPES,
    UNSAID_GROUNDS,
    breaks_hold_out,
    is_held_out,
)

TASKS = ("single object", "two objects", "counting", "colors", "position", "color attribution")


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return make_prompts()


def of_task(prompts: list[Prompt], task: str) -> list[Prompt]:
    return [prompt for prompt in prompts if prompt.task == task]


def test_the_tables_are_those_that_the_code_makes(prompts: list[Prompt]) -> None:
    assert pq.read_table(PROMPTS).equals(prompts_table(prompts))
    assert pq.read_table(SAMPLED).equals(prompts_table(sampled(prompts)))
    assert pq.read_schema(PROMPTS).field("held_out").type == pa.bool_()


def test_a_hundred_prompts_of_every_task_none_twice(prompts: list[Prompt]) -> None:
    assert Counter(prompt.task for prompt in prompts) == dict.fromkeys(TASKS, 100)
    assert len({prompt.prompt for prompt in prompts}) == len({prompt.id for prompt in prompts}) == 600
    assert Counter(prompt.task for prompt in sampled(prompts)) == dict.fromkeys(TASKS, 6)


def test_held_out_combinations_have_their_share(prompts: list[Prompt]) -> None:
    pairs = [(a, relation, b) for a, relation, b in product(SHAPES, RELATIONS, SHAPES) if a != b]
    unseen = {
        "counting": sum(is_held_out(*words) for words in product(COUNTS, SHAPES)),
        "colors": sum(is_held_out(*words) for words in product(OBJECT_COLOURS, SHAPES)),
        "position": sum(is_held_out(*words) for words in pairs),
    }
    unseen["color attribution"] = unseen["colors"]
    assert all(unseen.values())
    for task in TASKS:
        share = sum(prompt.held_out for prompt in of_task(prompts, task)) / 100
        assert share == pytest.approx(min(0.5, unseen.get(task, 0) * ASKED_OF_ONE / 100), abs=0.05)
    asked = [p for p in prompts if all(thing.said_colour for thing in p.scene.things)]
    assert all(breaks_hold_out(prompt.scene) == prompt.held_out for prompt in asked)


def test_every_task_asks_for_its_own(prompts: list[Prompt]) -> None:
    for prompt in prompts:
        expects = expectation(prompt.scene)
        things, colours = expects["things"], [thing["colour"] for thing in expects["things"]]
        assert len({thing["shape"] for thing in things}) == len(things)
        if prompt.task in ("single object", "two objects"):
            assert set(colours) == {None}
        if prompt.task in ("colors", "color attribution"):
            assert None not in colours
        assert (expects["relation"] is not None) or prompt.task != "position"
        assert len(things) == (2 if prompt.task in ("two objects", "position", "color attribution") else 1)
        assert things[0]["count"] in ((2, 3, 4, 5) if prompt.task == "counting" else (1,))
    attributions = [expectation(prompt.scene) for prompt in of_task(prompts, "color attribution")]
    assert all(len({thing["colour"] for thing in expects["things"]}) == 2 for expects in attributions)
    for task in ("counting", "position"):
        said = [prompt.scene.things[0].said_colour for prompt in of_task(prompts, task)]
        assert sum(said) == pytest.approx(50, abs=5)


def test_prompts_are_worded_as_captions_and_ask_for_what_can_be_seen(prompts: list[Prompt]) -> None:
    for prompt in prompts:
        assert set(prompt.prompt.rstrip(".").split()) <= KNOWN_WORDS
        expects = expectation(prompt.scene)
        assert expects["ground"] is None or expects["ground"] not in {t["colour"] for t in expects["things"]}
        assert prompt.scene.said_ground or prompt.scene.ground in UNSAID_GROUNDS


def test_a_right_picture_of_every_twelfth_prompt_is_judged_right(prompts: list[Prompt]) -> None:
    table = pq.read_table(PROMPTS).to_pylist()
    for prompt, row in list(zip(prompts, table, strict=True))[::12]:
        verdict = judge(look(drawn(prompt.scene)), json.loads(row["expects"]))
        assert verdict.right, prompt
        assert False not in (verdict.ground_right, verdict.size_right, verdict.place_right), prompt


@pytest.mark.parametrize("shape", SHAPES)
def test_areas_of_sizes_meet_without_a_gap(shape: str) -> None:
    small, medium, large = (area_limits(shape, size) for size in ("small", "medium", "large"))
    assert (small[0], small[1], medium[1], large[1]) == (0.0, medium[0], large[0], 1.0)
    assert small[1] < medium[1] < 0.1
