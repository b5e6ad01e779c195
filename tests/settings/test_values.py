"""One set of rules for a table's rows, a spec's defaults and a call's arguments."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cascade_batch.errors import CascadeError, SpecError
from cascade_batch.settings import RenderSpec, spec_from_dict, values
from tests.prompts.writing import opened, planned, write

MOST = float(np.finfo(np.float32).max)
EDGES: dict[str, tuple[list[Any], list[Any]]] = {
    "num_images": ([1, 1_000_000], [0, -1, 1_000_001]),
    "width": ([256, 4096], [0, -8, 248, 257, 4104]),
    "height": ([256, 4096], [0, -8, 248, 1004, 4104]),
    "prior_steps": ([1, 1000], [0, -20, 1001, 2**40]),
    "decoder_steps": ([1, 1000], [0, -10, 1001, 2**40]),
    "prior_guidance_scale": ([0.0, 4.0, MOST], [-0.5, float("nan"), float("inf"), float("-inf"), 1e39]),
    "decoder_guidance_scale": ([0.0, 1.1, MOST], [-0.5, float("nan"), float("inf"), float("-inf"), 1e39]),
    "seed": ([0, 2**63 - 1], [-1]),
}
"""Column -> values at its edges that are fine, and some that are not."""


def by_table(folder: Path, name: str, value: Any) -> None:
    planned(opened(write(folder, "prompts.parquet", {"prompt": ["a", "b"], name: [None, value]})))


def by_spec(_folder: Path, name: str, value: Any) -> None:
    spec_from_dict({name: value} if name == "seed" else {"render": {name: value}})


def by_call(_folder: Path, name: str, value: Any) -> None:
    (values.real if name.endswith("scale") else values.whole)(name, value)


def is_fine(check: Any, *given: Any) -> bool | None:
    """Whether it passes; a refusal that does not name the column counts as neither."""
    try:
        check(*given)
    except CascadeError as error:
        return False if given[1] in str(error) else None
    return True


@pytest.mark.parametrize("name", EDGES)
def test_a_row_a_default_and_an_argument_have_the_same_range(tmp_path: Path, name: str) -> None:
    fine, wrong = EDGES[name]
    for value in fine + wrong:
        checks = [by_table, by_spec]
        if name not in ("width", "height"):  # whose step of 8 `geometry.check_sides` adds
            checks.append(by_call)
        assert {is_fine(check, tmp_path, name, value) for check in checks} == {value in fine}, value


def test_every_default_of_a_row_has_a_range() -> None:
    assert set(vars(RenderSpec())) - {"negative_prompt"} <= values.RANGES.keys()


@pytest.mark.parametrize("three", [3, np.int8(3), np.uint64(3), np.array(3), torch.tensor(3)])
def test_whole_numbers_of_numpy_and_torch(three: Any) -> None:
    found = values.whole("prior_steps", three)
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize("half", [0.5, np.float16(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5)])
def test_numbers_of_numpy_and_torch(half: Any) -> None:
    found = values.real("strength", half)
    assert (found, type(found)) == (0.5, float)


NO_NUMBERS = [
    None,
    True,
    np.bool_(True),
    torch.tensor(True),
    "3",
    b"3",
    3j,
    [3],
    (),
    {},
    np.array([3]),
    object(),
]


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number(value: Any) -> None:
    for check, name in ((values.whole, "prior_steps"), (values.real, "sca")):
        with pytest.raises(SpecError, match=rf"not a (whole )?number\n  where: {name}\n  got: "):
            check(name, value)


def test_a_float_is_no_whole_number_as_in_a_table(tmp_path: Path) -> None:
    for value in (1024.0, np.float32(512), torch.tensor(512.0)):
        with pytest.raises(SpecError, match="not a whole number"):
            values.integer(value, "width")
    assert is_fine(by_table, tmp_path, "width", 1024.0) is False


def test_an_error_names_a_number_that_python_does_not_print() -> None:
    with pytest.raises(SpecError, match="a number of 16610 bits"):
        values.whole("seed", 10**5000)


@pytest.mark.parametrize("good", ["", "   ", "a\0b", "🐈", "a" * 1_000_000, np.str_("a cat")])
def test_texts(good: str) -> None:
    found = values.text(good, "prompt")
    assert (found, type(found)) == (good, str)


@pytest.mark.parametrize("bad", [None, 3, b"a cat", ["a cat"], Path("a"), "half \ud83d a cat"], ids=repr)
def test_no_texts(bad: Any) -> None:
    with pytest.raises(SpecError, match=r"where: prompt\n  got: "):
        values.text(bad, "prompt")


@pytest.mark.parametrize(
    "bad",
    [[], [[]], 3, "abc", [None], [[1, 2], [3]], [float("nan")], [float("inf")], [1e39], {}, [1j]],
    ids=repr,
)
def test_no_arrays(bad: Any) -> None:
    with pytest.raises(SpecError, match="where: image_embeds"):
        values.numbers("image_embeds", bad, (1, 2))
