"""Going back: a new edition with the rows of an old one, whose pictures are known again."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from cascade_batch.collection import paths
from cascade_batch.collection.care import garbage
from cascade_batch.collection.care.diffing import ADDED, CARRIED, CHANGED, WITHDRAWN, diff
from cascade_batch.collection.care.living import Objects, needed_by, union
from cascade_batch.collection.columns import is_among
from cascade_batch.collection.editions import RESTORED, Counts, Edition, editions_of
from cascade_batch.collection.lease import Lease
from cascade_batch.collection.place import Collection
from cascade_batch.collection.regenerating.learning import known_rows, source_of
from cascade_batch.collection.schemas import KNOWN
from cascade_batch.errors import CascadeError, IntegrityError, SpecError


def history_of(collection: Collection) -> list[Edition]:
    """All editions, the newest first. Raises SpecError if there is none yet."""
    history = editions_of(collection.table)
    if not history:
        raise SpecError(
            "the collection has no edition yet",
            where=collection.uri,
            next_step=f"cascade-batch regenerate PROMPTS --into {collection.uri}",
        )
    return history


def edition_of(history: list[Edition], number: int) -> Edition:
    """Raises SpecError for a number that is no edition's."""
    found = next((edition for edition in history if edition.number == number), None)
    if found is None:
        numbers = [str(edition.number) for edition in history[:10]]
        raise SpecError(
            "no such edition",
            got=number,
            expected=", ".join(numbers) + (", ..." if len(history) > len(numbers) else ""),
        )
    return found


def restore(collection: Collection, number: int, lease: Lease) -> Edition | None:
    """Commit an edition whose rows are those of an older one; None if the newest one is that already.

    Killed anywhere, it may be repeated: the commit of the edition comes last.

    Raises:
        SpecError: there is no such edition, or gc has given up some of its pictures.
        LostLease, Conflict: another has taken over.
    """
    table, history = collection.table, history_of(collection)
    old, newest = edition_of(history, number), history[0]
    if newest.number == number or (newest.kind == RESTORED and newest.of == number):
        return None
    after = table.version()
    needed = _needed(collection, old)
    lease.check()
    _check_whole(needed, garbage.save(collection, needed), collection, number)
    lease.check()
    _know_again(collection, number)
    edition = _record(collection, newest, old, after + 1)
    lease.check()
    table.restore(number, after=after, metadata={"edition": edition.to_json()}, token=uuid.uuid4().hex)
    return edition


def _needed(collection: Collection, old: Edition) -> pa.Array:
    try:
        return needed_by(collection, old)
    except IntegrityError as error:
        raise _gone(old.number, "its rows can be read no more", error) from None


def _check_whole(needed: pa.Array, lost: pa.Array, collection: Collection, number: int) -> None:
    there = Objects.below(collection.storage, paths.RUNS, f"{paths.TABLE}/").keys
    missing = union([needed.filter(pa.array(~is_among(needed, there))), lost])
    if len(missing):
        what = f"{len(missing):,} of its {len(needed):,} pictures, embedding shards and data files are gone"
        raise _gone(number, what, missing[0])


def _gone(number: int, got: str, first: object) -> CascadeError:
    return SpecError(
        f"edition {number} cannot be restored: gc has swept it, or somebody else has",
        where=str(first).splitlines()[0],
        got=got,
        expected="an edition that is still whole",
        next_step="cascade-batch collection history COLLECTION names those that are",
    )


def _know_again(collection: Collection, number: int) -> None:
    """Bring back into `known` what gc had taken out of it to sweep it."""
    known = collection.known
    after = known.version()
    rows = collection.table.read(["run", "image_uri", "rendered_in"], version=number)
    have = known.read(["image_uri"], version=after)["image_uri"].drop_null().combine_chunks()
    uris = rows["image_uri"].combine_chunks()
    rows = rows.filter(pa.array(~is_among(uris, have))).filter(pc.field("image_uri").is_valid())
    found = [
        _from_manifests(collection, run, rows.filter(pc.field("run") == run))
        for run in rows["run"].unique().to_pylist()
        if run
    ]
    if found and (again := pa.concat_tables(found)).num_rows:
        told = {"restored": number}
        known.append(again, after=after, metadata=told, token=uuid.uuid4().hex)


def _from_manifests(collection: Collection, run: str, rows: pa.Table) -> pa.Table:
    """`KNOWN` of these pictures of one run, as far as its manifests stand."""
    wanted = rows["image_uri"].combine_chunks()
    rendered_in = rows["rendered_in"][0].as_py()
    found = [KNOWN.empty_table()]
    for known in known_rows(source_of(collection, run, rendered_in)):
        found.append(known.filter(pa.array(is_among(known["image_uri"], wanted))))
    return pa.concat_tables(found)


def _record(collection: Collection, newest: Edition, old: Edition, number: int) -> Edition:
    changes = diff(collection.table, newest, old)
    counts = Counts(
        images=old.counts.images,
        failed=old.counts.failed,
        stale=old.counts.stale,
        reused=old.counts.images - old.counts.failed + old.counts.stale,
        new=changes.images[ADDED],
        withdrawn=changes.images[WITHDRAWN],
        changed=changes.images[CHANGED],
        carried=changes.images[CARRIED],
    )
    now = datetime.now(UTC).isoformat()
    return replace(
        old, number=number, kind=RESTORED, name=None, created=now, counts=counts, run=None, of=old.number
    )
