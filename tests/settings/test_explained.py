"""`cascade-batch settings`: every key with its default and meaning, which may be read back as a spec."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml

from cascade_batch.cli import main
from cascade_batch.errors import SpecError
from cascade_batch.settings import LoraSpec, Spec, load_spec, spec_to_dict
from cascade_batch.settings.explained import explained_yaml, meanings, setting_keys


def classes(kind: Any = Spec) -> set[Any]:
    """Every class of the tree, with that of a list's entries."""
    hints = typing.get_type_hints(kind).values()
    below = {hint for hint in hints if dataclasses.is_dataclass(hint)}
    return {kind, LoraSpec}.union(*(classes(one) for one in below))


def test_every_key_has_a_meaning() -> None:
    for kind in classes():
        fields = [field.name for field in dataclasses.fields(kind)]
        assert list(meanings(kind)) == fields, kind
        assert all(text.endswith((".", "...")) for text in meanings(kind).values()), kind


def test_what_is_printed_is_the_spec_of_all_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["settings"]) == 0
    printed = capsys.readouterr().out
    assert printed == explained_yaml()
    assert load_spec(printed) == load_spec("") == Spec()
    assert max(map(len, printed.splitlines())) <= 110


def test_every_key_is_printed_once_with_its_default() -> None:
    lines = explained_yaml().splitlines()
    tree = yaml.safe_load("\n".join(line.replace("# decoder_guid", "decoder_guid") for line in lines))
    stated = spec_to_dict(Spec())
    stated["model"]["loras"] = []
    assert tree == stated


def test_the_preset_decides_the_guidance_of_an_edited_file() -> None:
    edited = explained_yaml().replace('preset: "diffusers"', 'preset: "original"')
    assert load_spec(edited) == load_spec("", ["sampler.preset=original"])
    assert load_spec(edited).render.decoder_guidance_scale == 1.1


def test_the_example_of_an_entry_can_be_taken() -> None:
    lines = [line.removeprefix("  # ") for line in explained_yaml().splitlines()]
    begin = lines.index("with entries such as:") + 1
    entry = [line for line in lines[begin : lines.index("  variant: null")] if line.startswith("  ")]
    (example,) = yaml.safe_load("\n".join(entry))
    assert load_spec("", [], {"model.loras": [example | {"uri": "a"}]}).model.loras == (LoraSpec(uri="a"),)


def test_every_key_is_one_that_set_takes() -> None:
    keys = list(setting_keys())
    assert len(set(keys)) == len(keys)
    for key in keys:
        with pytest.raises(SpecError, match=key):
            load_spec("", [f"{key}={{a: [1]}}"])


@pytest.mark.parametrize("setting", ["rendr.width=1", "render.widht=1", "render.width=wide", "seed=1e-4"])
def test_errors_about_keys_lead_to_the_list(setting: str) -> None:
    with pytest.raises(SpecError) as failure:
        load_spec("", [setting])
    assert failure.value.next_step.endswith("`cascade-batch settings` prints every key with its meaning")
