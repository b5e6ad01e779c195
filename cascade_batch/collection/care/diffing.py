"""What changed between two editions, prompt by prompt, and why.

Columns are compared whole, by Arrow, one after the other: two editions of a million images take some hundreds of
megabytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cascade_batch.collection.care.records import RecordChange, record_changes
from cascade_batch.collection.columns import differing, places, valid
from cascade_batch.collection.delta.table import DeltaTableAt
from cascade_batch.collection.editions import Edition
from cascade_batch.collection.schemas import EDITION

ADDED, WITHDRAWN, CHANGED, CARRIED = "added", "withdrawn", "changed", "carried"
KINDS = (ADDED, WITHDRAWN, CHANGED, CARRIED)

VALUES = {
    "prompt": "prompt",
    "negative_prompt": "negative prompt",
    "seed": "seed",
    "width": "size",
    "height": "size",
    "prior_steps": "steps",
    "prior_guidance_scale": "guidance",
    "decoder_steps": "steps",
    "decoder_guidance_scale": "guidance",
    "conditions": "conditions",
}
"""Columns that a row asks with, and what they are called where they changed."""


class PromptChange(NamedTuple):
    """One prompt that is not as it was."""

    prompt_id: str
    why: tuple[str, ...]
    """Of changed prompts what changed, of `carried` ones the columns; else empty."""


@dataclass(frozen=True)
class Diff:
    """Two editions beside each other."""

    before: Edition
    after: Edition
    record: tuple[RecordChange, ...]
    """What the editions were asked for that decides every picture."""
    columns_added: tuple[str, ...]
    columns_dropped: tuple[str, ...]
    images: dict[str, int]
    """By kind."""
    prompt_ids: pa.Array = field(repr=False)
    """Of both editions."""
    kinds: np.ndarray = field(repr=False)
    """Of each prompt, its place in `KINDS`, -1 where nothing changed."""
    whys: np.ndarray = field(repr=False)
    """Of each prompt, its place in `reasons`."""
    reasons: list[tuple[str, ...]] = field(repr=False)

    def count(self, kind: str) -> int:
        """Prompts of one kind."""
        return int((self.kinds == KINDS.index(kind)).sum())

    def counts_of_reasons(self, kind: str) -> dict[str, int]:
        """Prompts of one kind by what changed, the most frequent first; a prompt counts for each of its reasons."""
        counts: dict[str, int] = {}
        places, times = np.unique(self.whys[self.kinds == KINDS.index(kind)], return_counts=True)
        for place, prompts in zip(places.tolist(), times.tolist(), strict=True):
            for name in self.reasons[place]:
                counts[name] = counts.get(name, 0) + prompts
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def prompts(self, kind: str, limit: int | None = None) -> Iterator[PromptChange]:
        """Prompts of one kind, in the order of the later edition."""
        for place in np.flatnonzero(self.kinds == KINDS.index(kind))[:limit].tolist():
            yield PromptChange(self.prompt_ids[place].as_py(), self.reasons[self.whys[place]])


def diff(table: DeltaTableAt, before: Edition, after: Edition) -> Diff:
    """Compare two editions of a collection's table.

    Raises StorageError if one of them cannot be read any more.
    """
    pair = _Pair(table, before.number, after.number)
    record = record_changes(before, after)
    changed, reasons = _changed(pair, record)
    carried = [name for name in pair.common if name not in EDITION.names]
    of_carried = {name: pair.differing(name) for name in carried}
    in_a, in_b = pair.is_in(pair.prompts_a), pair.is_in(pair.prompts_b)
    kinds = np.full(len(pair.prompt_ids), -1)
    both_changed = pair.of_prompts(changed) | (in_a & in_b & pair.counts_differ)
    carried_only = np.logical_or.reduce([*of_carried.values(), np.zeros(len(changed), bool)]) & ~changed
    kinds[pair.of_prompts(carried_only)] = KINDS.index(CARRIED)
    kinds[both_changed] = KINDS.index(CHANGED)
    kinds[in_b & ~in_a] = KINDS.index(ADDED)
    kinds[in_a & ~in_b] = KINDS.index(WITHDRAWN)
    why = _Whys(len(kinds))
    for name, images in reasons.items():
        why.add(name, pair.of_prompts(images) & (kinds == KINDS.index(CHANGED)))
    why.add("number of images", pair.counts_differ & (kinds == KINDS.index(CHANGED)))
    for name, images in of_carried.items():
        why.add(name, pair.of_prompts(images) & (kinds == KINDS.index(CARRIED)))
    counts = (pair.new, pair.withdrawn, int(changed.sum()), int(carried_only.sum()))
    return Diff(
        before,
        after,
        record,
        tuple(name for name in pair.b.names if name not in pair.common),
        tuple(name for name in pair.a.names if name not in pair.common),
        dict(zip(KINDS, counts, strict=True)),
        pair.prompt_ids,
        kinds,
        why.codes,
        why.names,
    )


def _changed(pair: "_Pair", record: tuple[RecordChange, ...]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Of the images of both editions, which show or ask for something else, (n,) bool, and of each reason, whom."""
    reasons: dict[str, np.ndarray] = {}
    for column, name in VALUES.items():
        differs = pair.differing(column)
        reasons[name] = reasons.get(name, np.zeros(len(differs), bool)) | differs
    asked = np.logical_or.reduce(list(reasons.values()))
    keys = {"c": pair.differing("stage_c_key"), "ba": pair.differing("stage_ba_key")}
    explained = asked.copy()
    for change in record:
        reasons[change.name] = reasons.get(change.name, np.zeros(len(asked), bool)) | keys[change.stage]
        explained |= keys[change.stage]
    status = pair.differing("status") | pair.differing("stale")
    bytes_differ = pair.differing("image_sha256") & pair.both_valid("image_sha256")
    reasons["failed or not"] = status
    reasons["rendered again"] = bytes_differ & ~keys["ba"] & ~status
    reasons["stage key"] = (keys["c"] | keys["ba"]) & ~explained & ~status
    return np.logical_or.reduce([keys["c"], keys["ba"], *reasons.values()]), reasons


class _Pair:
    """Two versions, joined on `image_id`; columns are read when they are asked for."""

    def __init__(self, table: DeltaTableAt, a: int, b: int) -> None:
        self._table, self._versions = table, (a, b)
        self.a, self.b = table.schema(a), table.schema(b)
        self.common = [name for name in self.b.names if name in self.a.names]
        ids = [table.read(["image_id", "prompt_id"], version=v) for v in (a, b)]
        self._ids = [t["image_id"].combine_chunks() for t in ids]
        found = places(self._ids[1], self._ids[0])
        self._in_b = np.flatnonzero(found >= 0)
        self._in_a = found[self._in_b]
        both = pa.chunked_array([*ids[1]["prompt_id"].chunks, *ids[0]["prompt_id"].chunks], pa.string())
        self.prompt_ids = both.unique()
        self.prompts_a, self.prompts_b = (self._places(t["prompt_id"]) for t in ids)
        self.new = len(found) - len(self._in_b)
        self.withdrawn = len(self._ids[0]) - len(np.unique(self._in_a))

    def _places(self, prompt_ids: pa.ChunkedArray) -> np.ndarray:
        return places(prompt_ids, self.prompt_ids)

    def is_in(self, places: np.ndarray) -> np.ndarray:
        """Whether each prompt is among these places."""
        found = np.zeros(len(self.prompt_ids), bool)
        found[places] = True
        return found

    @property
    def counts_differ(self) -> np.ndarray:
        """Whether images of a prompt came or went, by prompt."""
        kept_a, kept_b = np.zeros(len(self.prompts_a), bool), np.zeros(len(self.prompts_b), bool)
        kept_a[self._in_a], kept_b[self._in_b] = True, True
        return self.is_in(self.prompts_a[~kept_a]) | self.is_in(self.prompts_b[~kept_b])

    def of_prompts(self, images: np.ndarray) -> np.ndarray:
        """Whether one of a prompt's images is among these, by prompt."""
        return self.is_in(self.prompts_b[self._in_b[images]])

    def differing(self, column: str) -> np.ndarray:
        """Whether the value of each image of both versions differs, (n,) bool."""
        return differing(*self._values(column))

    def both_valid(self, column: str) -> np.ndarray:
        a, b = self._values(column)
        return valid(a) & valid(b)

    def _values(self, column: str) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        places = (self._in_a, self._in_b)
        a, b = (self._read(column, side).take(pa.array(places[side])) for side in (0, 1))
        return a, b

    def _read(self, column: str, side: int) -> pa.ChunkedArray:
        """In the order of the ids, whatever order a reader gives rows in."""
        read = self._table.read(["image_id", column], version=self._versions[side])
        if read["image_id"].combine_chunks().equals(self._ids[side]):
            return read[column]
        return read[column].take(pa.array(places(self._ids[side], read["image_id"])))


class _Whys:
    """Several reasons for each of many prompts: one number a prompt, and what each number stands for."""

    def __init__(self, count: int) -> None:
        self.codes = np.zeros(count, np.int64)
        self.names: list[tuple[str, ...]] = [()]

    def add(self, name: str, holds: np.ndarray) -> None:
        if not holds.any():
            return
        found, self.codes = np.unique(self.codes * 2 + holds, return_inverse=True)
        self.names = [self.names[code // 2] + ((name,) if code % 2 else ()) for code in found.tolist()]
