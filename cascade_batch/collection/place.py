"""Collections as they stand on storage: made where there is room for one, opened where one is."""

from dataclasses import dataclass

from cascade_batch.collection import paths
from cascade_batch.collection.delta.stores import check_store, holds_delta
from cascade_batch.collection.delta.table import DeltaTableAt
from cascade_batch.collection.lease import RELEASED
from cascade_batch.collection.schemas import EDITION, FORMAT, KNOWN
from cascade_batch.errors import SpecError
from cascade_batch.run.paths import RUN
from cascade_batch.storage import Storage

FORMAT_KEY = "cascade_batch.format"
"""Property of both Delta tables: the version of the collection's layout."""


@dataclass(frozen=True)
class Collection:
    """One collection. Its format is one that we write."""

    storage: Storage
    table: DeltaTableAt
    """Editions, each a version, of `schemas.edition_schema`."""
    known: DeltaTableAt
    """`schemas.KNOWN`."""

    @property
    def uri(self) -> str:
        return self.storage.uri


def create_or_open(uri: str) -> Collection:
    """The collection at a place, made if there is room for it; two processes may make the same one.

    Raises SpecError for a place that holds something else, and for a store that cannot keep a collection.
    """
    check_store(uri)
    storage = Storage(uri)
    if not _has_table(storage):
        storage.check_writable()
        _check_room(storage)
        _check_conditional_writes(storage)
        for folder, schema in ((paths.KNOWN, KNOWN), (paths.TABLE, EDITION)):
            if DeltaTableAt(storage, folder).exists():
                _check_format(DeltaTableAt(storage, folder))
            DeltaTableAt.create(storage, folder, schema, {FORMAT_KEY: str(FORMAT)})
    return open_collection(uri)


def open_collection(uri: str) -> Collection:
    """The collection at a place. Raises SpecError if there is none, or one of another format."""
    check_store(uri)
    storage = Storage(uri)
    found = Collection(storage, DeltaTableAt(storage, paths.TABLE), DeltaTableAt(storage, paths.KNOWN))
    if not _has_table(storage):
        raise SpecError(
            "not a collection", where=uri, got=_what_is(storage), expected=f"{paths.TABLE}/{paths.LOG}"
        )
    _check_format(found.table)
    if not found.known.exists():
        raise SpecError(
            "the collection is damaged", where=found.known.url, got="nothing", expected="a Delta table"
        )
    _check_format(found.known)
    return found


def is_there(uri: str) -> bool:
    """Whether there is a table of editions at a place, whoever made it."""
    check_store(uri)
    return _has_table(Storage(uri))


def is_collection(uri: str) -> bool:
    """Whether a collection is at a place, of whichever format."""
    storage = Storage(uri)
    if not holds_delta(uri):
        return False
    return _has_table(storage) and FORMAT_KEY in DeltaTableAt(storage, paths.TABLE).configuration()


def is_free(uri: str) -> bool:
    """Whether there is nothing at a place, where a collection would be made."""
    check_store(uri)
    return not Storage(uri).list()


def _has_table(storage: Storage) -> bool:
    return DeltaTableAt(storage, paths.TABLE).exists()


def _check_format(table: DeltaTableAt) -> None:
    found = table.configuration().get(FORMAT_KEY)
    if found is None:
        raise SpecError(
            "a Delta table that this program did not make",
            where=table.url,
            expected="a place for a collection alone",
            next_step="name another folder",
        )
    if found != str(FORMAT):
        raise SpecError(
            "a collection of another format",
            where=table.url,
            got=f"format {found}",
            expected=f"format {FORMAT}",
            next_step="use the version of cascade-batch that made it, or a newer one",
        )


def _check_room(storage: Storage) -> None:
    """Raises SpecError for a folder that holds anything else than parts of a collection."""
    if storage.exists(RUN):
        raise _taken(
            storage, "a run", "`cascade-batch import` makes its pictures known to a collection elsewhere"
        )
    foreign = next((info.key for info in storage.list() if not paths.is_ours(info.key)), None)
    if foreign is not None:
        what = "a Delta table" if foreign.startswith(paths.LOG) else foreign
        raise _taken(storage, what, "name an empty or a new folder")


def _taken(storage: Storage, got: str, next_step: str) -> SpecError:
    return SpecError(
        "no room for a collection",
        where=storage.uri,
        got=got,
        expected="a folder that holds nothing else",
        next_step=next_step,
    )


def _check_conditional_writes(storage: Storage) -> None:
    """Raises SpecError, and leaves nothing behind, where an object can be overwritten by who wants to create it."""
    made = not storage.exists(paths.LEASE)
    if made:
        storage.create(paths.LEASE, RELEASED)
    if storage.probe_create_only(paths.LEASE):
        return
    if made:
        storage.delete(paths.LEASE)
    raise SpecError(
        "a collection needs a store with conditional writes",
        where=storage.uri,
        got="a create-only write (If-None-Match) that overwrote an object, or was not understood",
        expected="S3, or a server, or a disk with hard links, that keeps an object from being created twice: "
        "else two commits of one edition could both seem to have won",
        next_step="choose another store for the collection; runs need none",
    )


def _what_is(storage: Storage) -> str:
    if storage.exists(RUN):
        return "a run"
    found = storage.list()
    return f"{len(found)} other objects, {found[0].key} among them" if found else "nothing"
