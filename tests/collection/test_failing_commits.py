"""A regeneration whose driver dies at its n-th write or Delta commit, for every n: the repeated command ends alike."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cascade_batch.collection import lease
from cascade_batch.collection.delta.table import DeltaTableAt
from cascade_batch.collection.paths import LEASE
from cascade_batch.storage import Storage
from tests.collection.conftest import TABLE
from tests.collection.regenerations import check, hashes, history, regenerate, told, write_table
from tests.run.failing import Died, Writes, failing_writes
from tests.run.remembered import Asked

CHANGED = TABLE | {"prompt": ["a blue circle", *TABLE["prompt"][1:]]}
"""`TABLE` with one prompt of six changed, which is merged into the edition before."""
COMMIT = ": commit"


@contextmanager
def failing(writes: Writes) -> Iterator[None]:
    """As `failing_writes`, a Delta commit counted as one write; the lease is renewed by hand alone."""
    commit = DeltaTableAt._commit

    def counted(table: DeltaTableAt, *arguments: Any) -> Any:
        return writes.put(lambda *_: commit(table, *arguments), table.storage, f"{table.folder}{COMMIT}", b"")

    with failing_writes(writes), pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeltaTableAt, "_commit", counted)
        patch.setattr(lease, "PERIOD_S", 1e6)
        yield


def attempt(prompts: Path, into: str, writes: Writes) -> int | None:
    """The exit code, None if the driver died; then its lease is over."""
    with failing(writes):
        try:
            return regenerate(prompts, into)
        except Died:
            return None
        finally:
            Storage(into).delete(LEASE)


def test_a_driver_that_dies_at_any_write(night: str, tmp_path: Path, asked: Asked) -> None:
    """Right before it: what is on storage is what there is right after the write before."""
    prompts, wanted = write_table(tmp_path, CHANGED), copied(night, "wanted")
    for n, key in enumerate(writes_of(prompts, wanted), 1):
        into = copied(night, str(n))
        assert attempt(prompts, into, Writes(n)) is None, key
        assert told(into) in (told(night), told(wanted)), f"{key}: whole or not at all"
        assert regenerate(prompts, into) == 0, key
        same(into, wanted, key)
        assert [edition.counts for edition in history(into)] == [
            edition.counts for edition in history(wanted)
        ]
    check(into)


def test_a_first_edition_whose_driver_dies_at_any_write(tmp_path: Path, asked: Asked) -> None:
    two = {name: values[:2] for name, values in TABLE.items()}
    prompts, wanted = write_table(tmp_path, two), str(tmp_path / "wanted")
    for n, key in enumerate(writes_of(prompts, wanted), 1):
        into = str(tmp_path / str(n))
        assert attempt(prompts, into, Writes(n)) is None, key
        assert regenerate(prompts, into) == 0, key
        same(into, wanted, key)
        assert len(history(into)) == 1
    check(into)


def test_an_answer_that_is_lost_changes_nothing(night: str, tmp_path: Path, asked: Asked) -> None:
    prompts, wanted = write_table(tmp_path, CHANGED), copied(night, "wanted")
    for n, key in enumerate(writes_of(prompts, wanted), 1):
        if not key.endswith(COMMIT):  # one of Delta's is known by its token
            into = copied(night, str(n))
            assert attempt(prompts, into, Writes(n, "after it landed", "one answer is lost")) == 0, key
            same(into, wanted, key)


def writes_of(prompts: Path, into: str) -> list[str]:
    writes = Writes()
    assert attempt(prompts, into, writes) == 0
    assert sum(key.endswith(COMMIT) for key in writes.keys) == 3, "a run begun, a run learnt, an edition"
    return writes.keys


def copied(night: str, name: str) -> str:
    return str(shutil.copytree(night, Path(night).parent / name))


def same(into: str, wanted: str, key: str) -> None:
    assert told(into) == told(wanted), key
    assert hashes(into) == hashes(wanted), key
