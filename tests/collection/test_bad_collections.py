"""Places, tables and runs that are no use to a collection: told before anything is written or spent."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from cascade_batch.cli import main
from cascade_batch.collection import place
from cascade_batch.collection.delta.table import DeltaTableAt
from cascade_batch.run import paths
from cascade_batch.storage import Storage, remote
from cascade_batch.storage.remote import RemoteObjects
from tests.collection.conftest import TABLE
from tests.collection.regenerations import history, no_runner, regenerate, write_table

BAD_INPUT = 2


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    folder = tmp_path / "prompts"
    folder.mkdir()
    return write_table(folder, TABLE)


def refused(
    capsys: pytest.CaptureFixture[str], prompts: Path, into: str, *told: str, flags: tuple[str, ...] = ()
) -> None:
    """The command says what, where and how to go on; nothing is rendered and nothing is written."""
    before = everything(into)
    capsys.readouterr()
    with no_runner():
        assert regenerate(prompts, into, *flags) == BAD_INPUT
    said = capsys.readouterr().err
    assert "where:" in said
    assert [word for word in told if word not in said] == [], said
    assert everything(into) == before


def everything(into: str) -> dict[str, bytes]:
    """All objects but those that say who was there and how it ended."""
    storage = Storage(into)
    keys = [info.key for info in storage.list()]
    return {key: storage.read(key) for key in keys if key != "lease.json" and not key.startswith("outcomes/")}


def test_a_collection_of_another_format(
    prompts: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, "FORMAT", 7)
        place.create_or_open(store)
    refused(capsys, prompts, store, "format 7", "format 1", "version of cascade-batch", f"{store}/table")
    for command in (["history"], ["show"], ["verify"], ["restore", "1"], ["gc", "--keep=1", "--delete"]):
        assert main(["collection", command[0], store, *command[1:]]) == BAD_INPUT, command


@pytest.mark.parametrize("below", ["table", "known", ""])
def test_a_delta_table_that_someone_else_wrote(
    below: str, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = tmp_path / "collection"
    write_deltalake(str(into / below), pa.table({"a": [1, 2]}))
    refused(capsys, prompts, str(into), "Delta table", str(into))
    assert DeltaTable(str(into / below)).version() == 0


def test_a_commit_that_someone_else_made_to_our_table_is_no_edition(
    night: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It moves the number of the next edition, and what it took away comes back."""
    DeltaTable(f"{night}/table").delete("prompt_id = 'prompt 0'")
    prompts = write_table(tmp_path, TABLE | {"category": ["x"] * 6})
    with no_runner():
        assert regenerate(prompts, night) == 0
    assert [edition.number for edition in history(night)] == [3, 1]
    assert len(DeltaTableAt(Storage(night), "table").read(["image_id"])) == 6


def test_a_run_as_a_collection_and_other_things_in_its_place(
    night: str, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next(Path(night, "runs").iterdir())
    refused(capsys, prompts, str(run), "no room for a collection", "a run", "import")
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    refused(capsys, prompts, str(other), "no room for a collection", "notes.txt", "new folder")
    assert main(["collection", "history", str(other)]) == BAD_INPUT
    assert "not a collection" in capsys.readouterr().err


def test_prompts_among_which_the_collection_would_lie(
    night: str, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its Parquet files would be prompts of the next edition."""
    refused(capsys, prompts.parent, str(prompts.parent / "collection"), "prompts")
    refused(capsys, tmp_path, night)
    refused(capsys, Path(night), night)
    refused(capsys, Path(night, "runs"), night)
    assert not (prompts.parent / "collection").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--set=render.prior_steps=0"], "prior_steps"),
        (["--model=/nowhere/at/all"], "/nowhere/at/all"),
        (["--set=output.uri=x"], "output.uri"),
        (["--set=prompts.embeddings_from=x"], "import RUN"),
        (["--set=prompts.columns.prompt=text"], "text"),
    ],
)
def test_bad_values_are_told_before_there_is_a_collection(
    flags: list[str], told: str, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, prompts, str(tmp_path / "collection"), told, flags=tuple(flags))


BAD_COLUMNS: dict[str, tuple[dict[str, Any], str]] = {
    "one of ours": ({"image_uri": ["x"] * 6}, "image_uri"),
    "one of the edition's": ({"stale": [True] * 6}, "stale"),
    "in upper case": ({"Prompt_ID": ["x"] * 6}, "Prompt_ID"),
    "two alike": ({"weight": [1] * 6, "Weight": [2] * 6}, "Weight"),
    "many digits": ({"sum": pa.array([1] * 6, pa.decimal256(50))}, "'sum'"),
    "nanoseconds": ({"at": pa.array([1] * 6, pa.timestamp("ns"))}, "'at'"),
}


@pytest.mark.parametrize("columns", BAD_COLUMNS)
def test_columns_that_an_edition_cannot_hold(
    columns: str, night: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, told = BAD_COLUMNS[columns]
    texts = {"prompt": ["something new"] * 6}
    refused(capsys, write_table(tmp_path, TABLE | texts | bad, "bad"), night, told)
    assert len(history(night)) == 1


def test_ids_that_stand_twice(night: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = write_table(tmp_path, TABLE | {"id": ["a", "b", "c", "d", "e", "a"]}, "bad")
    refused(capsys, bad, night, "'a'")


def test_what_is_imported_must_be_a_run_that_has_something(
    night: str, made: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next(Path(night, "runs").iterdir())
    empty, old = tmp_path / "empty", tmp_path / "old"
    for target in (empty, old):
        shutil.copytree(run, target)
    shutil.rmtree(empty / "manifest")
    record = json.loads((old / paths.RUN).read_text())
    (old / paths.RUN).write_text(json.dumps(record | {"format": 99}))
    before = everything(night)
    cases = {
        str(tmp_path / "nowhere"): "",
        str(empty): "nothing",
        str(old): "99",
        made: "",
        str(tmp_path): "",
    }
    for place_, told in cases.items():
        code = main(["import", place_, "--into", night])
        said = capsys.readouterr().err
        assert code in (1, BAD_INPUT), (place_, said)
        assert told in said
        assert place_ in said
        assert everything(night) == before


def test_a_store_that_overwrites_is_none_for_collections(
    prompts: Path, moto_root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create = RemoteObjects.put
    for answer in ("overwrites", "cannot"):
        with pytest.MonkeyPatch.context() as patch:
            if answer == "overwrites":
                patch.setattr(RemoteObjects, "create", lambda store, key, data: create(store, key, data))
            else:
                patch.setattr(remote, "CREATE_ONLY_PROTOCOLS", ())
            refused(capsys, prompts, moto_root, "conditional writes", "If-None-Match", moto_root)
        assert Storage(moto_root).list() == []
    refused_scheme = "memory://bucket/collection"
    with no_runner():
        assert regenerate(prompts, refused_scheme) == BAD_INPUT
    assert "Delta Lake" in capsys.readouterr().err


def test_a_bucket_that_is_not_there(
    prompts: Path, moto_root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with no_runner():
        assert regenerate(prompts, "s3://no-such-bucket/collection") == BAD_INPUT
        assert main(["collection", "history", "s3://no-such-bucket/collection"]) == BAD_INPUT
    assert "no-such-bucket" in capsys.readouterr().err


@pytest.mark.parametrize("hours", [-30, 30])
def test_clocks_that_are_off_by_hours_change_nothing(
    night: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Of the drivers: editions are numbered, not dated."""
    import time

    real = time.time
    prompts = write_table(tmp_path, TABLE | {"category": ["x"] * 6})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + 3600 * hours)
        assert regenerate(prompts, night) == 0
        assert regenerate(prompts, night) == 0
        assert main(["collection", "verify", night, "--all"]) == 0
    with no_runner():
        assert regenerate(prompts, night) == 0
        assert regenerate(write_table(tmp_path, TABLE), night) == 0
    assert [edition.number for edition in history(night)] == [3, 2, 1]
