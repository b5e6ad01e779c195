"""The images that are asked for, beside what a collection has and what its newest edition says.

Columns are compared whole, by Arrow, and one after the other: a table of a million images takes hundreds of megabytes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import pyarrow as pa
import pyarrow.types as t

from cascade_batch.collection.columns import Column, differing, places, taken, true, valid
from cascade_batch.collection.delta.table import DeltaTableAt, cast_for_delta
from cascade_batch.collection.regenerating.known import Known
from cascade_batch.collection.regenerating.spool import Spool


class State(IntEnum):
    """What an image needs."""

    PICTURE = 0
    """Nothing: its picture is known."""
    EMBEDDING = 1
    """Stage B and A: its embedding is known."""
    NOTHING = 2
    """Both stages."""
    REFUSED = 3
    """Nothing that would help: its row cannot be asked for."""
    LEFT = 4
    """Nothing now: it failed before, and failed rows are left alone."""


@dataclass(frozen=True)
class Before:
    """The newest edition's row of each image that is asked for."""

    at: np.ndarray
    """Its place in the edition, -1 where there is none, (n,) int64."""
    read: Callable[[list[str]], pa.Table]
    """Columns of the whole edition, always in one order; they are not kept, for the sake of memory."""
    withdrawn: pa.Array
    """Image ids that are asked for no more."""

    def column(self, name: str) -> Column:
        """Of each image that is asked for, the value before; null where there is none."""
        return taken(self.read([name])[name], self.at)

    def has_status(self, status: str) -> np.ndarray:
        return self.column("status").to_numpy() == status

    @property
    def is_there(self) -> np.ndarray:
        return self.at >= 0


def before(table: DeltaTableAt, version: int, image_ids: pa.ChunkedArray) -> Before:
    """What the edition of this version says of these images."""
    files = table.data_files(version)

    def read(columns: list[str]) -> pa.Table:
        of_file, _ = table.readers(columns, version=version)
        return pa.concat_tables(map(of_file, files)) if files else table.read(columns, version=version)

    ids = read(["image_id"])["image_id"]
    at = places(image_ids, ids)
    is_gone = np.ones(len(ids), bool)
    is_gone[at[at >= 0]] = False
    return Before(at, read, ids.filter(pa.array(is_gone)).combine_chunks())


def states(spool: Spool, known: Known, earlier: Before, retry_failed: bool) -> np.ndarray:
    """The `State` of every image of the spool, (n,) int8."""
    keys = spool.columns(["stage_c_key", "stage_ba_key", "error_code"])
    found = np.full(spool.rows, State.NOTHING, np.int8)
    found[known.pictures(keys["stage_ba_key"])] = State.PICTURE
    others = np.flatnonzero(found != State.PICTURE)
    found[others[known.embeddings(keys["stage_c_key"].take(pa.array(others)))]] = State.EMBEDDING
    found[valid(keys["error_code"])] = State.REFUSED
    if not retry_failed:
        failed = earlier.has_status("failed")
        same = ~differing(earlier.column("stage_ba_key"), keys["stage_ba_key"])
        same &= ~differing(earlier.column("stage_c_key"), keys["stage_c_key"])
        found[failed & same & np.isin(found, (State.EMBEDDING, State.NOTHING))] = State.LEFT
    return found


def unchanged_pictures(spool: Spool, known: Known, earlier: Before) -> np.ndarray:
    """Whether the edition before shows each image's picture already, (n,) bool."""
    uris = earlier.column("image_uri")
    good = earlier.has_status("ok") & ~true(earlier.column("stale"))
    same = ~differing(earlier.column("stage_ba_key"), spool.columns(["stage_ba_key"])["stage_ba_key"])
    return good & same & known.has(uris)


def carried_differs(spool: Spool, earlier: Before, names: Sequence[str], schema: pa.Schema) -> np.ndarray:
    """Whether one of these columns is another than in the edition before, (n,) bool; False for new images.

    Args:
        names: columns that decide no picture.
        schema: of an edition.
    """
    found = np.zeros(spool.rows, bool)
    for some in _together(pa.schema([schema.field(name) for name in names])):
        wanted = cast_for_delta(spool.columns(some.names), some)
        stored = earlier.read(some.names)
        for name in some.names:
            found |= differing(wanted[name], taken(stored[name], earlier.at))
    return found & earlier.is_there


def _together(schema: pa.Schema) -> Iterator[pa.Schema]:
    """Columns to compare at once: numbers, which are small, and each of the others."""
    small = [field for field in schema if t.is_primitive(field.type)]
    yield from (pa.schema([field]) for field in schema if field not in small)
    if small:
        yield pa.schema(small)
