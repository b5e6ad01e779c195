"""The rows of a new edition: those that changed are merged into the edition before, or all of them are written."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cascade_batch.collection.columns import chosen, differing, places, taken, true, valid
from cascade_batch.collection.delta.table import DeltaTableAt, cast_for_delta
from cascade_batch.collection.regenerating.comparing import Before, State, carried_differs, unchanged_pictures
from cascade_batch.collection.regenerating.known import REFERENCES, Found, Known
from cascade_batch.collection.regenerating.spool import Spool
from cascade_batch.run.schemas import ASKED

Failure = tuple[str | None, str | None]
"""`error_code`, `error_message`."""
ROWS_AT_ONCE = 2**17
"""Rows that are made at once; what is known of them lies anywhere, and is read for each such part anew."""
_COMPARED_VALUES = tuple(name for name, _ in ASKED)
"""Of our columns, those that may differ though the picture does not: guidance that is off, a picture's source."""


@dataclass(frozen=True)
class Fates:
    """What became of every image: whether it has a picture, else why not."""

    good: np.ndarray
    codes: pa.Array
    messages: pa.Array


def fates(spool: Spool, states: np.ndarray, earlier: Before, failures: Mapping[str, Failure]) -> Fates:
    """Of every image of the spool.

    Args:
        failures: by `stage_ba_key`: what could not be rendered now.
    """
    asked = spool.columns(["stage_ba_key", "error_code", "error_message"])
    good = states == State.PICTURE
    bad = pa.array(np.flatnonzero(~good))
    now = asked.take(bad).to_pylist()
    before = zip(
        *(earlier.column(name).take(bad).to_pylist() for name in ("error_code", "error_message")), strict=True
    )
    found = [_failure(row, was, failures) for row, was in zip(now, before, strict=True)]
    places = np.full(len(good), -1, np.int64)
    places[~good] = np.arange(len(found))
    at = pa.array(places, mask=good)
    return Fates(good, *(pa.array(told, pa.string()).take(at) for told in _columns(found)))


def _columns(failures: list[Failure]) -> tuple[list[str | None], list[str | None]]:
    return [code for code, _ in failures], [message for _, message in failures]


def _failure(row: Mapping[str, str | None], before: Failure, failures: Mapping[str, Failure]) -> Failure:
    """A row that is refused says why; else it failed now, or it failed before and was left alone."""
    if row["error_code"] is not None or row["stage_ba_key"] is None:
        return row["error_code"], row["error_message"]
    return failures.get(row["stage_ba_key"], before)


@dataclass(frozen=True)
class Changes:
    """How the images differ from the edition before, (n,) bool each."""

    new: np.ndarray
    pictures: np.ndarray
    """They have another picture, or none any more, or fail otherwise; new ones too."""
    carried: np.ndarray
    """Only other columns differ."""
    withdrawn: pa.Array
    """Ids of images that are asked for no more."""

    @property
    def rows(self) -> np.ndarray:
        """The images whose rows are to be written."""
        return self.pictures | self.carried

    def __bool__(self) -> bool:
        return bool(self.rows.any() or len(self.withdrawn))


@dataclass(frozen=True)
class NewRows:
    """Makes the rows of an edition from the images that are asked for."""

    spool: Spool
    known: Known
    earlier: Before
    fates: Fates
    table: DeltaTableAt
    version: int
    """Of the edition before."""
    schema: pa.Schema
    """Of the new one, as Delta holds it."""
    keep_stale: bool

    @cached_property
    def found(self) -> Found:
        """What is known of each image's picture."""
        return self.known.found(self.spool.columns(["stage_ba_key"])["stage_ba_key"])

    @cached_property
    def stale(self) -> np.ndarray:
        """Whether each image shows its last good picture, for want of the one that is asked for, (n,) bool."""
        bad = ~self.fates.good
        if not self.keep_stale or not bad.any():
            return np.zeros(len(bad), bool)
        return bad & valid(self.earlier.column("image_uri"))

    def changes(self, carried: list[str], same_schema: bool) -> Changes:
        """What differs from the edition before; `carried`: the prompt table's own columns."""
        there = self.earlier.is_there
        same = unchanged_pictures(self.spool, self.known, self.earlier) & self.fates.good
        same |= ~self.fates.good & ~differing(self.earlier.column("error_code"), self.fates.codes) & there
        same &= self.stale == true(self.earlier.column("stale"))
        if same_schema:
            names = [*_COMPARED_VALUES, *carried]
            differs = carried_differs(self.spool, self.earlier, names, self.schema)
        else:
            differs = there
        return Changes(~there, ~same, same & differs, self.earlier.withdrawn)

    def of(self, images: np.ndarray) -> pa.Table:
        """The rows of these images, by their places in the spool, ascending."""
        asked, at = self.spool.take(images), pa.array(images)
        columns = {name: asked[name] for name in asked.column_names}
        found = self.found.rows(REFERENCES, images)
        stale = self.stale[images]
        if stale.any():
            found = self._with_stale(found, asked["image_id"], stale)
        columns |= {name: found[name] for name in REFERENCES}
        columns["status"] = chosen(self.fates.good[images], "ok", "failed")
        columns["error_code"], columns["error_message"] = (
            self.fates.codes.take(at),
            self.fates.messages.take(at),
        )
        columns["stale"] = pa.array(stale)
        table = pa.table({field.name: columns[field.name] for field in self.schema})
        return cast_for_delta(table, self.schema)

    def all(self) -> Iterator[pa.Table]:
        """Every row, some at a time; an empty table if there are none."""
        if not self.spool.rows:
            yield self.schema.empty_table()
        for start in range(0, self.spool.rows, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, self.spool.rows)
            yield self.of(np.arange(start, stop))

    def _with_stale(self, found: pa.Table, image_ids: pa.ChunkedArray, stale: np.ndarray) -> pa.Table:
        """The references, with those of the edition before where its picture stays out."""
        wanted = image_ids.filter(pa.array(stale)).combine_chunks()
        columns = ["image_id", *REFERENCES]
        before = self.table.read(columns, version=self.version, where=pc.field("image_id").isin(wanted))
        at = places(image_ids, before["image_id"])
        return pa.table({name: chosen(stale, taken(before[name], at), found[name]) for name in REFERENCES})
