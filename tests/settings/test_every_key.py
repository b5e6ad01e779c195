"""Every key of the spec against values that nobody meant: refused by name, or taken for what they say."""

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cascade_batch.cli.entry import main
from cascade_batch.errors import SpecError
from cascade_batch.settings import Spec, load_spec, spec_from_dict, spec_to_dict
from tests.prompts.writing import write

SETTINGS = [
    *(
        "",
        "null",
        "''",
        "'  '",
        "x",
        "DDPM",
        "AUTO",
        "Float32",
        "NaN",
        ".nan",
        ".inf",
        "-.inf",
        "1e400",
        "1e3",
    ),
    *(
        "-1",
        "-0.0",
        "0",
        "1",
        "1.5",
        "1.0e-300",
        "1.0e+300",
        "1" * 300,
        "true",
        "[]",
        "[1]",
        "{}",
    ),
    *(
        "{a: 1}",
        '"\\0"',
        '"\\ud800"',
        "'a\nb'",
        "2001-01-01",
        "2001-99-99",
        "!!binary aGk=",
        "&a [*a]",
    ),
]
"""As they stand behind `--set key=`."""
HUGE = 16**5000


def leaves(kind: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key and its type; a list of LoRAs is one."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        key, hint = f"{path}.{field.name}".strip("."), hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from leaves(hint, key)
        else:
            yield key, hint


KEYS = dict(leaves(Spec))
FREE_TEXTS = {key for key, hint in KEYS.items() if str in (hint, *typing.get_args(hint))} - {
    *("model.dtype.c", "model.dtype.ba", "sampler.preset", "text.long_prompts", "log.level", "log.format"),
    *("pools.c.batch", "pools.ba.batch"),
    *(f"sampler.{stage}.{key}" for stage in ("c", "ba") for key in ("method", "result")),
}
"""Names and addresses, which may be almost anything."""


def value_at(spec: Spec, key: str) -> Any:
    found: Any = spec_to_dict(spec)
    for part in key.split("."):
        found = found[part]
    return found


def tree_of(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


@pytest.mark.parametrize("key", KEYS)
def test_a_setting_is_refused_by_name_or_taken_for_what_it_says(key: str) -> None:
    for setting in SETTINGS:
        try:
            taken = value_at(load_spec("", [f"{key}={setting}"]), key)
        except SpecError as error:
            named = key in str(error)
        else:
            named = is_meant(key, setting, taken)
        assert named, setting


@pytest.mark.parametrize(
    "setting", ["1" * 5000, "[" * 1500, "2001-99-99"], ids=["digits", "brackets", "date"]
)
def test_what_the_parser_itself_stumbles_over_is_text(setting: str) -> None:
    with pytest.raises(SpecError, match="wrong type in the spec\n  where: seed"):
        load_spec("", [f"seed={setting}"])


def is_meant(key: str, setting: str, taken: Any) -> bool:
    if setting in ("", "null"):
        return taken is None
    if setting in ("[]", "{}"):
        return len(taken) == 0
    if setting == "true":
        return taken is True and KEYS[key] in (bool, bool | None)
    if isinstance(taken, str):
        said = key in FREE_TEXTS and "\ud800" not in taken
        free = key in ("render.negative_prompt", "prompts.uri", "output.uri") and not taken
        return said and (
            free or key == "render.negative_prompt" or (bool(taken.strip()) and "\0" not in taken)
        )
    return float(taken) == float(setting) and np.isfinite(taken) and -0.0 <= taken <= 1.5


@pytest.mark.parametrize("key", KEYS)
def test_a_value_from_python_likewise(key: str) -> None:
    wrong = [b"x", 1j, object(), {1}, (1,), [None], HUGE, -HUGE, 1e39, float("nan"), np.float32("inf")]
    wrong += [np.datetime64("2001-01-01"), torch.tensor([1.0, 2.0]), torch.tensor(float("nan")), np.int64(-3)]
    for value in wrong:
        with pytest.raises(SpecError) as caught:
            spec_from_dict(tree_of(key, value))
        assert key in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "plain"),
    [
        ("render.width", np.int64(512), 512),
        ("render.prior_guidance_scale", np.float32(2.5), 2.5),
        ("render.prior_guidance_scale", torch.tensor(4), 4.0),
        ("sampler.c.shift", torch.tensor(2.0), 2.0),
        ("text.weighting", np.bool_(True), True),
        ("model.name", Path("a/b"), "a/b"),
        ("model.stage_c", np.str_("lite"), "lite"),
        ("model.dtype.ba", torch.float16, "float16"),
        ("model.dtype", torch.bfloat16, {"c": "bfloat16", "ba": "bfloat16"}),
        ("output.uri", Path("run"), "run"),
    ],
)
def test_what_numpy_torch_and_pathlib_give_is_taken(key: str, value: Any, plain: Any) -> None:
    found = value_at(spec_from_dict(tree_of(key, value)), key)
    assert (found, type(found)) == (plain, type(plain))


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("[" * 1500, "not valid YAML"),
        ("seed: 2001-99-99", "not valid YAML"),
        ("model: {loras: [{uri: '', weight: 1}]}", "model.loras[0].uri"),
        ("model: {loras: [{uri: a, weight: .nan}]}", "model.loras[0].weight"),
        ("model: {loras: [{uri: a, tokens: {'': dog}}]}", "model.loras[0].tokens"),
        ("model: {loras: [{uri: a, tokens: {'[b]': ''}}]}", "model.loras[0].tokens.[b]"),
        ("prompts: {columns: {'': caption}}", "prompts.columns"),
        ("pools: {c: {gpus: 1.5}}", "pools.c.gpus"),
        ("pools: {ba: {gpus: 1.0e-9}}", "pools.ba.gpus"),
        ("pools: {c: {batch: 100000}}", "pools.c.batch"),
        ("pools: {c: {threads: 100000}}", "pools.c.threads"),
        ("sampler: {stage_a_scale: 0}", "sampler.stage_a_scale"),
        (f"model: {{name: {'a' * 300}}}", "model.name"),
    ],
)
def test_what_needs_a_tree_of_its_own(text: str, needle: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(text)
    assert needle in str(caught.value)


WORTH_A_RUN = ["", "null", "'  '", "x", "NaN", "0", "1", '"\\0"', "'a\nb'"]
"""Settings that some key takes, whatever the table: these go through the whole `plan` command."""


def test_what_is_taken_can_be_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = write(tmp_path, "prompts.parquet", {"prompt": ["a", "b"]})
    for key in KEYS.keys() - {"prompts.uri"}:
        for setting in WORTH_A_RUN:
            model = [] if key == "model.name" else ["--model", "tiny"]
            code = main(["plan", prompts, *model, "--set", f"{key}={setting}"])
            said = capsys.readouterr().err
            assert code in (0, 2), (key, setting, said)
            assert code == 0 or key.split(".")[-1] in said, (key, setting, said)
