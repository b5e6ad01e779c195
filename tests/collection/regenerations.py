"""Regenerations in this process, and what two collections of one table must have in common."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_batch.cli import main
from cascade_batch.collection.editions import Edition, editions_of
from cascade_batch.collection.place import open_collection
from cascade_batch.pipeline.runners.local import LocalRunner
from cascade_batch.prompts import rows
from cascade_batch.run import paths
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import is_absolute
from cascade_batch.workers import committing, context
from tests.run.runs import QUICK

FAST = (*QUICK, "--set=pools.c.batch=2", "--set=pools.ba.batch=2")
PLACES = ("run", "image_uri", "embedding_uri", "embedding_row", "rendered_in")
"""Columns that tell where a picture lies, and so depend on the collection's history."""

Rows = Sequence[dict[str, Any]]


@contextmanager
def no_runner() -> Iterator[None]:
    def refuse(*_: object) -> None:
        raise AssertionError("a runner is made")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalRunner, "__init__", refuse)
        yield


def forget_what_a_process_remembers() -> None:
    for remembered in (
        context.open_run,
        committing._check_numerics_once,
        rows._opened,
        rows._cached_group,
    ):
        remembered.cache_clear()


def regenerate(prompts: Path, into: str, *flags: str) -> int:
    """The exit code of one command in this process, which starts it as ignorant as a new one."""
    forget_what_a_process_remembers()
    return main(["regenerate", str(prompts), "--into", into, "--runner", "local", *FAST, *flags])


def write_table(folder: Path, columns: dict[str, Any], name: str = "prompts") -> Path:
    """A prompt table of one file, which replaces the one of that name."""
    path = folder / f"{name}.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def newest(into: str) -> Edition:
    return history(into)[0]


def history(into: str) -> list[Edition]:
    return editions_of(open_collection(into).table)


def rows_of(into: str, edition: int | None = None) -> list[dict[str, Any]]:
    """Of the newest edition, or of another one, in the order of their images' ids."""
    stored = open_collection(into).table.read(version=edition)
    return stored.sort_by("image_id").to_pylist()


def told(into: str, edition: int | None = None) -> list[dict[str, Any]]:
    """The rows without where their pictures lie: what every collection of one table has."""
    found = rows_of(into, edition)
    return [{name: value for name, value in row.items() if name not in PLACES} for row in found]


def by_prompt(into: str, edition: int | None = None) -> dict[str, dict[str, Any]]:
    """Rows of a table of one image a prompt."""
    return {row["prompt_id"]: row for row in rows_of(into, edition)}


def picture(into: str, uri: str) -> bytes:
    """The PNG that an edition refers to."""
    if is_absolute(uri):
        return Path(uri).read_bytes()
    return Storage(into).read(uri)


def hashes(into: str, edition: int | None = None) -> dict[str, str]:
    """sha256 of every picture as it stands on storage, by image id."""
    found = {row["image_id"]: row["image_uri"] for row in rows_of(into, edition)}
    return {image: hashlib.sha256(picture(into, uri)).hexdigest() for image, uri in found.items() if uri}


def runs_of(into: str) -> list[str]:
    """Names of the runs that lie in a collection, in order."""
    keys = [info.key for info in Storage(into).list("runs/")]
    return sorted({key.removesuffix(f"/{paths.RUN}") for key in keys if key.endswith(f"/{paths.RUN}")})


def check(into: str) -> None:
    """Every edition verifies, and every run in the collection by itself."""
    assert main(["collection", "verify", into, "--all"]) == 0
    for run in runs_of(into):
        assert main(["verify", f"{into}/{run}"]) == 0, run
