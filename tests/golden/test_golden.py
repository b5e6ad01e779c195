"""The same bits as ever, on every kind of CPU that is recorded; within one level of 255 on any other."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cascade_batch.model.numerics import NUMERICS_VERSION
from tests.golden.records import (
    AVX2,
    FOLDER,
    RAISE,
    RECORD,
    REMAKE,
    WHOLE,
    Rendered,
    complaint,
    most_levels_apart,
    render,
    with_kind,
)


@pytest.mark.parametrize("environment", [WHOLE, AVX2], ids=["this CPU", "AVX2 only"])
def test_bits_change_only_with_the_version_of_the_numerics(
    tmp_path: Path, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    record, found = json.loads(RECORD.read_text()), render(tmp_path, environment)
    if told := complaint(record, found):
        pytest.fail(f"{told}\n  where: {found.kind}", pytrace=False)
    assert most_levels_apart(found) <= 1, RAISE
    if found.kind not in record["kinds"]:
        with capsys.disabled():
            print(f"\nno bits are recorded of this kind; `make golden` adds it:\n  {found.kind}")


SAME = {"tiny": {"pixels": ["a"], "embeddings": ["b"]}}
OTHER = {"tiny": {"pixels": ["a"], "embeddings": ["c"]}}
FOUND = Rendered("a CPU", SAME, FOLDER)


@pytest.mark.parametrize(
    ("version", "kinds", "told"),
    [
        (NUMERICS_VERSION, {"a CPU": SAME, "another": OTHER}, None),
        (NUMERICS_VERSION, {"a CPU": OTHER}, RAISE),
        (NUMERICS_VERSION, {"another": OTHER}, None),
        (NUMERICS_VERSION - 1, {"a CPU": OTHER}, REMAKE),
        (NUMERICS_VERSION - 1, {"a CPU": SAME}, REMAKE),
        (NUMERICS_VERSION - 1, {"another": OTHER}, REMAKE),
    ],
)
def test_what_is_complained_of(version: int, kinds: dict, told: str | None) -> None:
    record = {"numerics": version, "kinds": kinds}
    assert complaint(record, FOUND) == told
    made = with_kind(record, FOUND)
    assert complaint(made, FOUND) is None
    assert made["kinds"]["a CPU"] == SAME
    assert ("another" in made["kinds"]) == ("another" in kinds and version == NUMERICS_VERSION)


def test_pictures_of_other_pixels_are_told_apart(tmp_path: Path) -> None:
    names = sorted(path.name for path in FOLDER.glob("*.png"))
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        (tmp_path / name).write_bytes((FOLDER / other).read_bytes())
    assert most_levels_apart(FOUND) == 0
    assert most_levels_apart(replace(FOUND, folder=tmp_path)) > 1
