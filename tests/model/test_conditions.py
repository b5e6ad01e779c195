"""The table of what a prompt's row may bring besides text holds with all that follows from it."""

from dataclasses import fields
from pathlib import Path

import pytest

from cascade_batch.engine.batches import Conditions, DecoderBatch
from cascade_batch.errors import SpecError
from cascade_batch.model.conditions import CONDITIONS, Condition, Kind, check_together, of_stage, settled
from cascade_batch.model.parts import OPTIONAL, parts_for
from cascade_batch.model.stages import STAGES, C, PerPool
from cascade_batch.prompts.columns import COLUMNS, PLANNED
from cascade_batch.settings.values import RANGES

ROOT = Path(__file__).parents[2]
BATCHES = PerPool(Conditions, DecoderBatch)
NUMBERS = (Kind.REAL, Kind.FACTOR)

each = pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)


@each
def test_the_engine_has_a_field_for_it(condition: Condition) -> None:
    assert condition.field in {field.name for field in fields(BATCHES[condition.stage])}


def test_no_two_share_a_field_and_stage_c_has_no_other() -> None:
    for stage in STAGES:
        named = [condition.field for condition in of_stage(stage)]
        assert len(set(named)) == len(named)
    assert {condition.field for condition in of_stage(C)} == {field.name for field in fields(Conditions)}


@each
def test_its_column_is_one_of_ours_and_costs_nothing_to_plan(condition: Condition) -> None:
    assert condition.column in COLUMNS
    assert condition.column not in PLANNED


@each
def test_its_part_is_loaded_for_it_beside_stage_c(condition: Condition) -> None:
    assert parts_for([condition.column]) == ((condition.part,) if condition.part else ())
    assert condition.part is None or (condition.part in OPTIONAL and condition.stage == C)


@each
def test_numbers_alone_have_a_range(condition: Condition) -> None:
    assert (condition.kind in NUMBERS) == (condition.within is not None)
    assert RANGES.get(condition.column) == condition.within
    assert condition.neutral is None or condition.kind in NUMBERS


@each
def test_people_are_told_of_it(condition: Condition) -> None:
    told = "".join(file.read_text() for file in (ROOT / "README.md", *ROOT.glob("docs/*.md")))
    short = condition.column.removeprefix("negative_")  # the table says "`negative_...` likewise"
    assert f"`{condition.column}`" in told or (f"`{short}`" in told and "`negative_...`" in told)


def test_the_controlnet_for_super_resolution_needs_an_encoder_too() -> None:
    assert parts_for(["control_image"], with_super_resolution=True) == ("controlnet", "effnet_encoder")
    assert parts_for(["image"], with_super_resolution=True) == ("image_encoder",)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"init_image": "x"}, {"strength": 0.8}),
        ({"init_image": "x", "mask": "m"}, {"strength": 1.0}),
        ({"init_image": "x", "strength": 0.0}, {"strength": 0.0}),
        ({"control_image": "x"}, {"control_strength": 1.0}),
        ({"control_image": "x", "control_strength": 0.0}, {"control_strength": 0.0}),
        ({"strength": 9.0, "control_strength": 9.0}, {}),
    ],
)
def test_a_picture_has_a_strength_and_nothing_else_has(given: dict, expected: dict) -> None:
    found = settled(given)
    assert {name: found[name] for name in found if "strength" in name} == expected


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"mask"}, "a mask without a picture"),
        ({"strength", "prior_timesteps", "init_image"}, "strength and timesteps both say"),
    ],
)
def test_what_does_not_go_together_is_refused(given: set[str], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        check_together(given, "timesteps")
    check_together({"mask", "control_image", "strength"})
