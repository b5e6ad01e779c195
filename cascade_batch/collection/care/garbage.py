"""gc: first what nothing refers to is marked, and leaves what is known; after the grace period it is swept.

No picture of a kept edition is ever among it, whatever the clocks say: what is swept is compared with the editions
anew, before it is decided on. Nothing that is decided on can come back, for a picture that is marked is known no more,
and `restore` and gc decide on a set by one create-only write. So a gc that was stopped, and wakes after others went
on, can only delete what was given up for good.
"""

import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
import pyarrow as pa

from cascade_batch.collection.care import marks
from cascade_batch.collection.care.living import Census, Objects, needed_by, union
from cascade_batch.collection.care.marks import SAVED, SWEPT, MarkSet
from cascade_batch.collection.columns import is_among
from cascade_batch.collection.editions import Edition, editions_of
from cascade_batch.collection.lease import Lease
from cascade_batch.collection.paths import GC, KNOWN, TABLE
from cascade_batch.collection.place import Collection
from cascade_batch.errors import CascadeError, SpecError
from cascade_batch.run import paths as run_paths

DELETERS = 16
"""Deletions at once; the lease is looked at between as many times a hundred."""
CLOCK = f"{GC}clock"


@dataclass(frozen=True)
class Collected:
    """What a gc has done, or what it would do."""

    kept: tuple[int, ...]
    given_up: tuple[int, ...]
    """Editions that are marked by this gc: once swept, they cannot be read any more, or not whole."""
    forgotten: int
    """Rows of `known` that leave it."""
    marked: int
    marked_bytes: int
    whole_runs: tuple[str, ...]
    """Runs that go altogether; of all gcs until they are swept."""
    waiting_runs: tuple[str, ...]
    """Runs that no edition has, and that are too young to be garbage."""
    waiting: int
    """Objects that are marked for less than the grace period."""
    swept: int
    swept_bytes: int


@dataclass(frozen=True)
class _Plan:
    census: Census = field(repr=False)
    sets: list[MarkSet] = field(repr=False)

    @cached_property
    def new(self) -> Objects:
        dead = self.census.dead
        return dead.where(~is_among(dead.keys, union(found.keys for found in self.sets)))

    @cached_property
    def given_up(self) -> tuple[int, ...]:
        told = {edition.number for edition in self.census.kept} | fates(self.census.collection).keys()
        return _lost(self.census, [e for e in self.census.history if e.number not in told], self.new)

    def is_ripe(self, found: MarkSet, now: float) -> bool:
        """Whether it is decided already, or was marked long enough ago."""
        age = now - (np.nan if found.modified is None else found.modified)
        return not found.is_undecided or age >= self.census.grace_s

    def condemned(self, found: MarkSet) -> Objects:
        """What of a set is to be deleted: what is dead now, and was when it was decided on."""
        listed = found.keys
        if found.decision:
            listed = marks.read_list(self.census.collection.storage, found.decision["list"])
        return self.census.dead.where(is_among(self.census.dead.keys, listed))

    def told(self, swept: Sequence[Objects], waiting: Sequence[Objects]) -> Collected:
        return Collected(
            kept=tuple(edition.number for edition in self.census.kept),
            given_up=self.given_up,
            forgotten=self.census.forgotten.num_rows,
            marked=len(self.new),
            marked_bytes=self.new.bytes,
            whole_runs=tuple(self.census.whole_runs),
            waiting_runs=tuple(self.census.waiting_runs.to_pylist()),
            waiting=sum(map(len, waiting)),
            swept=sum(map(len, swept)),
            swept_bytes=sum(objects.bytes for objects in swept),
        )


def survey(collection: Collection, keep: int, grace_s: float) -> Collected:
    """What `collect` would do now. Reads only, so ages are those by this computer's clock."""
    now = time.time()
    plan = _plan(collection, keep, now, grace_s)
    ripe = [plan.condemned(found) for found in plan.sets if plan.is_ripe(found, now)]
    waiting = [plan.condemned(found) for found in plan.sets if not plan.is_ripe(found, now)]
    (ripe if not grace_s else waiting).append(plan.new)
    return plan.told(ripe, waiting)


def collect(collection: Collection, keep: int, grace_s: float, lease: Lease) -> Collected:
    """Mark what the newest `keep` editions do not refer to, and sweep what was marked `grace_s` ago.

    Killed anywhere, it is finished by the next one.

    Raises:
        SpecError: there is no edition to keep.
        LostLease: another has taken over; nothing is wrong.
    """
    storage = collection.storage
    marks.drop_leftovers(storage)
    plan = _plan(collection, keep, _store_time(collection), grace_s)
    new, given_up = plan.new, plan.given_up  # before anything is written
    lease.check()
    _forget(plan.census, new)
    if len(new):
        lease.check()
        marks.write_marks(storage, new.keys, given_up)
    now, swept, waiting = _store_time(collection), [], []
    for found in marks.mark_sets(storage):
        objects = plan.condemned(found)
        if not plan.is_ripe(found, now):
            waiting.append(objects)
            continue
        lease.check()
        decided = _decided(plan, found, objects)
        if decided is not None:
            _sweep(collection, objects, lease)
            swept.append(objects)
            marks.finish(storage, decided)
    return plan.told(swept, waiting)


def fates(collection: Collection) -> dict[int, str]:
    """Editions of which something is marked, or was swept, by number."""
    storage = collection.storage
    found = {number: "marked" for s in marks.mark_sets(storage) for number in s.editions if s.is_undecided}
    swept = [d for d in marks.decisions(storage) if d["decision"] == SWEPT]
    return found | {number: SWEPT for decision in swept for number in decision["editions"]}


def save(collection: Collection, keys: pa.Array) -> pa.Array:
    """Take back the marks of objects that are needed again. Returns those of them that are given up for good.

    Whole sets of marks are taken back; the next gc marks what else was in them anew.
    """
    storage, lost = collection.storage, []
    for found in marks.mark_sets(storage):
        if not is_among(keys, found.keys).any():
            continue
        told = {"decision": SAVED, "at": datetime.now(UTC).isoformat()}
        decision = marks.decide(storage, found.number, told) if found.is_undecided else found.decision
        if decision and decision["decision"] == SWEPT:
            lost.append(keys.filter(pa.array(is_among(keys, marks.read_list(storage, decision["list"])))))
    return union(lost)


def _plan(collection: Collection, keep: int, now: float, grace_s: float) -> _Plan:
    history = editions_of(collection.table)
    if keep < 1:
        raise SpecError("the newest edition is always kept", where="--keep", got=keep, expected="1 or more")
    if not history:
        raise SpecError("the collection has no edition yet", where=collection.uri)
    return _Plan(Census.take(collection, history, keep, now, grace_s), marks.mark_sets(collection.storage))


def _store_time(collection: Collection) -> float:
    """Seconds since the epoch by the store's own clock, NaN if it does not tell: then nothing is ever old."""
    collection.storage.put(CLOCK, b"")
    info = collection.storage.info(CLOCK)
    return np.nan if info is None or info.modified is None else info.modified


def _lost(census: Census, editions: Sequence[Edition], objects: Objects) -> tuple[int, ...]:
    """Editions that need one of these objects, or cannot be read as it is."""
    lost = []
    for edition in editions:
        try:
            needed = needed_by(census.collection, edition)
        except CascadeError:
            lost.append(edition.number)
            continue
        if is_among(objects.keys, needed).any():
            lost.append(edition.number)
    return tuple(lost)


def _forget(census: Census, new: Objects) -> None:
    """Let `known` forget what is to go, so that no later regeneration takes it, or goes on with a run that goes."""
    known, rows, after = census.collection.known, census.forgotten, census.known_version
    images = rows["image_uri"].drop_null()
    alone = rows.filter(rows["image_uri"].is_null())["embedding_uri"]
    for gone, on in ((images, "image_uri"), (alone, "embedding_uri")):
        if len(gone):
            told = {"forgotten": len(gone)}
            after = known.delete(gone.unique(), on=on, after=after, metadata=told, token=uuid.uuid4().hex)
    nothing = known.schema(after).empty_table()
    for run in sorted(set(new.runs.to_pylist()) & set(census.unfinished_runs)):
        # As if all was learnt that there is: the next regeneration of these images begins a run of another name.
        after = known.append(nothing, after=after, metadata={"learnt": run}, token=uuid.uuid4().hex)


def _decided(plan: _Plan, found: MarkSet, objects: Objects) -> MarkSet | None:
    """The set once it is decided that it goes; None if somebody has saved it in the last moment."""
    storage = plan.census.collection.storage
    decision = found.decision
    if decision is None:
        editions = found.editions
        if len(objects) < len(found.keys):  # some of them are alive again
            history = [e for e in plan.census.history if e.number in editions]
            editions = _lost(plan.census, history, objects)
        told = {"decision": SWEPT, "at": datetime.now(UTC).isoformat(), "editions": list(editions)}
        told |= {"objects": len(objects), "bytes": objects.bytes}
        told["list"] = marks.write_list(storage, found.number, objects.keys)
        decision = marks.decide(storage, found.number, told)
    if decision["decision"] != SWEPT:
        return None
    return MarkSet(found.number, found.modified, decision, found.keys, found.editions)


def _sweep(collection: Collection, objects: Objects, lease: Lease) -> None:
    """Delete them. A run that goes altogether never reads as finished, and until its last object goes it is a run."""
    keys = objects.keys.to_pylist()
    with ThreadPoolExecutor(DELETERS) as deleters:
        for rank in range(4):
            now = [key for key in keys if _rank(key) == rank]
            for start in range(0, len(now), 100 * DELETERS):
                lease.check()
                list(deleters.map(collection.storage.delete, now[start : start + 100 * DELETERS]))


def _rank(key: str) -> int:
    """What says that a run is finished goes first, then what says that shards are done, and `run.json` last."""
    if key.startswith((f"{TABLE}/", f"{KNOWN}/")):
        return 2
    inside = key.split("/", 2)[-1]
    if inside == run_paths.OUTCOME or inside.startswith(run_paths.TABLE):
        return 0
    if inside.startswith(run_paths.MANIFEST):
        return 1
    return 3 if inside == run_paths.RUN else 2
