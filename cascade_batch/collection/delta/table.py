"""One Delta Lake table: its versions, its rows, and commits that land at the version they were made for or not at all.

delta-rs replays the log, makes commits and checkpoints. Data files that hold changed rows are rewritten here, some rows
at a time and in their order, where delta-rs would take a gigabyte for a million rows. No deletion vectors: not every
reader honours them. Nothing is deleted here, and logs are kept: every version can be read until its files go.

Stores: local disks and S3 are tested; gs:// and abfs:// go to delta-rs with the credentials of its environment
variables (GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_NAME, ...) and were not tried. It knows no AWS_CA_BUNDLE.
"""

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import (
    CommitProperties,
    DeltaTable,
    PostCommitHookProperties,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction, Transaction

from cascade_batch.collection.delta.commits import KEY, Commit, Conflict, commit_of, to_text, token_of
from cascade_batch.collection.delta.data_files import (
    TARGET_BYTES,
    DataFile,
    DataFileWriter,
    Source,
    batches_of,
    fitting,
    selected,
    table_of,
)
from cascade_batch.collection.delta.merging import Upserts, merged
from cascade_batch.collection.delta.stores import check_store, delta_options, delta_uri
from cascade_batch.collection.delta.types import cast_for_delta, held_by_delta
from cascade_batch.collection.paths import LOG
from cascade_batch.errors import CascadeError, IntegrityError, StorageError
from cascade_batch.storage import ObjectInfo, ObjectMissing, Storage
from cascade_batch.storage.failures import sanitise

__all__ = ["Commit", "Conflict", "DataFile", "DeltaTableAt", "cast_for_delta", "held_by_delta"]

KEPT = {
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
    "delta.enableExpiredLogCleanup": "false",
    "delta.checkpointInterval": "10",
}
"""By default Delta forgets old versions after 30 days."""
FENCING_TRIES = 20

_HOOKS = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)
_How = dict[str, Any]
_Changes = tuple[list[DataFile], list[DataFile]]
"""Files that are new, and files that are no more."""


class DeltaTableAt:
    """The Delta table in one folder of a storage. Cheap to make (no I/O), picklable; nothing is remembered.

    Every method raises StorageError for what the store refuses, and IntegrityError for a table that is none or damaged.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        check_store(storage.uri)
        self.storage, self.folder = storage, folder.strip("/")

    def __repr__(self) -> str:
        return f"DeltaTableAt({self.url!r})"

    @property
    def url(self) -> str:
        return self.storage.url(self.folder)

    @classmethod
    def create(
        cls, storage: Storage, folder: str, schema: pa.Schema, configuration: Mapping[str, str]
    ) -> "DeltaTableAt":
        """An empty table at version 0, or the one that is there already if it says the same of itself.

        Raises IntegrityError for another's table.
        """
        table = cls(storage, folder)
        if not table.exists():
            table._create(schema, {**KEPT, **configuration})
        found = table.configuration()
        if any(found.get(name) != value for name, value in configuration.items()):
            raise IntegrityError(
                "another Delta table is there already",
                where=table.url,
                got=found,
                expected=dict(configuration),
            )
        return table

    def _create(self, schema: pa.Schema, configuration: Mapping[str, str]) -> None:
        try:
            DeltaTable.create(
                delta_uri(self.url),
                held_by_delta(schema),
                configuration=configuration,
                storage_options=delta_options(self.url),
                commit_properties=CommitProperties(
                    max_commit_retries=0
                ),  # else as version 1, after another's
                raise_if_key_not_exists=False,
            )
        except Exception as error:  # noqa: BLE001  delta-rs raises plain Exception too
            if not self.exists():  # else another process has just made it
                raise self._failure(error) from None

    def exists(self) -> bool:
        """Whether there is a Delta table, whoever made it."""
        first = f"{self.folder}/{LOG}{0:020d}.json"  # another's log may have lost its beginning
        return self.storage.exists(first) or bool(self.storage.list(f"{self.folder}/{LOG}"))

    def configuration(self) -> dict[str, str]:
        """The table's properties."""
        return dict(self._open().metadata().configuration)

    def version(self) -> int:
        """The newest version."""
        return self._open().version()

    def history(self, newest: int | None = None) -> list[Commit]:
        """All commits, or so many of the newest, newest first; each is a request to the store."""
        table = self._open()
        return [commit_of(told, told["version"]) for told in self._asked(lambda: table.history(newest))]

    def schema(self, version: int | None = None) -> pa.Schema:
        return _schema_of(self._open(version))

    def files(self, version: int | None = None) -> list[str]:
        """Keys of a version's data files, below the table's folder."""
        return [file.key for file in self.data_files(version)]

    def data_files(self, version: int | None = None) -> list[DataFile]:
        return _files_of(self._open(version))

    def unneeded(self, versions: Collection[int]) -> list[ObjectInfo]:
        """Objects in the table's folder that none of these versions, nor the newest, reads; the log is none of them.

        A writer at work has files here that no version names yet.
        """
        needed = {f"{self.folder}/{key}" for version in (None, *versions) for key in self.files(version)}
        log = f"{self.folder}/{LOG}"
        found = self.storage.list(f"{self.folder}/")
        return [info for info in found if info.key not in needed and not info.key.startswith(log)]

    def read(
        self,
        columns: list[str] | None = None,
        *,
        version: int | None = None,
        where: pc.Expression | None = None,
    ) -> pa.Table:
        """Rows of a version, the newest by default, that `where` holds for."""
        table = self._open(version)
        schema = _schema_of(table)
        found = list(self._batches(table, columns, where))
        return pa.Table.from_batches(found, schema=schema if columns is None else selected(schema, columns))

    def batches(
        self,
        columns: list[str] | None = None,
        *,
        version: int | None = None,
        where: pc.Expression | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The same, some rows at a time; memory holds part of one file."""
        return self._batches(self._open(version), columns, where)

    def readers(
        self, columns: list[str], *, version: int, where: pc.Expression | None = None
    ) -> tuple[Callable[[DataFile], pa.Table], list[DataFile]]:
        """The same in pieces, for other processes: what reads a data file, and the files."""
        table = self._open(version)
        return partial(table_of, self.storage, self.folder, _schema_of(table), columns, where), _files_of(
            table
        )

    def _batches(
        self, table: DeltaTable, columns: list[str] | None, where: pc.Expression | None
    ) -> Iterator[pa.RecordBatch]:
        return batches_of(self.storage, self.folder, _files_of(table), _schema_of(table), columns, where)

    def append(self, rows: pa.Table, *, after: int, metadata: Mapping[str, Any], token: str) -> int:
        """Add rows of the table's columns. Returns the new version. Raises Conflict."""

        def added(table: DeltaTable) -> _Changes:
            writer = DataFileWriter(self.storage, self.folder, _schema_of(table))
            writer.write(fitting(rows, _schema_of(table)))
            return writer.close(), []

        return self._change(added, after, metadata, token)

    def merge(
        self,
        changed: pa.Table,
        withdrawn: pa.Array | pa.ChunkedArray,
        *,
        on: str,
        after: int,
        metadata: Mapping[str, Any],
        token: str,
    ) -> int:
        """Replace rows by those with the same value in the column `on`, add the new ones, remove the withdrawn.

        Files that hold no such row stay. Returns the new version. Raises Conflict.
        """

        def exchanged(table: DeltaTable) -> _Changes:
            upserts = Upserts(fitting(changed, _schema_of(table)), withdrawn, on)
            return merged(self.storage, self.folder, _files_of(table), upserts)

        return self._change(exchanged, after, metadata, token)

    def delete(
        self,
        gone: pa.Array | pa.ChunkedArray,
        *,
        on: str,
        after: int,
        metadata: Mapping[str, Any],
        token: str,
    ) -> int:
        """Remove the rows whose column `on` holds one of these values. Returns the new version. Raises Conflict."""
        none = self.schema(after).empty_table()
        return self.merge(none, gone, on=on, after=after, metadata=metadata, token=token)

    def overwrite(
        self,
        rows: Iterable[pa.RecordBatch],
        schema: pa.Schema,
        *,
        after: int,
        metadata: Mapping[str, Any],
        token: str,
    ) -> int:
        """Replace all rows, and the schema, by delta-rs's own writer, which alone can raise the table's protocol.

        Within a file rows are about in order. Returns the new version. Raises Conflict, what `rows` raises, and
        ValueError for a schema that is not as `held_by_delta` tells, since delta-rs would narrow unsigned integers.
        """
        if held_by_delta(schema) != schema:
            raise ValueError(f"not as Delta holds it: {schema}")
        source = Source(rows)

        def write(table: DeltaTable, how: _How) -> None:
            write_deltalake(
                table,
                pa.RecordBatchReader.from_batches(schema, source),
                mode="overwrite",
                schema_mode="overwrite",
                target_file_size=TARGET_BYTES,
                writer_properties=WriterProperties(compression="ZSTD"),
                **how,
            )

        try:
            return self._commit(write, after, metadata, token)
        except CascadeError as error:
            raise source.error or error from None

    def restore(self, version: int, *, after: int, metadata: Mapping[str, Any], token: str) -> int:
        """A new version with the rows and the schema of an old one. Raises Conflict."""
        return self._commit(lambda table, how: table.restore(version, **how), after, metadata, token)

    def fence(self, *, token: str) -> int:
        """An empty commit: whoever has read an older version cannot commit any more.

        Its metadata is {"fence": true}.
        """
        for _ in range(FENCING_TRIES):
            with suppress(Conflict):
                return self._change(lambda _: ([], []), self.version(), {"fence": True}, token)
        raise StorageError("others write to the table without an end", where=self.url)

    def _change(
        self,
        changes: Callable[[DeltaTable], "_Changes"],
        after: int,
        metadata: Mapping[str, Any],
        token: str,
    ) -> int:
        """A commit of new files and gone ones, which `changes` makes."""
        if self._landed(after, token):
            return after + 1
        added, gone = changes(self._open(after))
        actions = [*map(_add_action, added), *map(_remove_action, gone)]

        def write(table: DeltaTable, how: _How) -> None:
            table.create_write_transaction(actions, "append", table.schema(), **how)

        return self._commit(write, after, metadata, token)

    def _commit(
        self,
        write: Callable[[DeltaTable, "_How"], object],
        after: int,
        metadata: Mapping[str, Any],
        token: str,
    ) -> int:
        """One commit right behind `after`. One that landed although it seemed to fail is known by its token."""
        if self._landed(after, token):
            return after + 1
        table, failure = self._open(after), None
        properties = CommitProperties(
            custom_metadata={KEY: to_text(metadata, token)},
            max_commit_retries=0,  # else delta-rs would move it behind others' commits
            app_transactions=[Transaction(token, after + 1)],
        )
        try:
            write(table, {"commit_properties": properties, "post_commithook_properties": _HOOKS})
        except Exception as error:  # noqa: BLE001  delta-rs raises anything, also when only a checkpoint failed
            failure = error
        if self._landed(after, token):
            return after + 1
        newest = self.version()
        if newest > after:
            raise Conflict.at(self.url, after, newest)
        raise self._failure(failure or RuntimeError("the commit is not in the log"))

    def _landed(self, after: int, token: str) -> bool:
        """Whether the commit behind this version is the one of this token."""
        try:
            return token_of(self.storage.read(f"{self.folder}/{LOG}{after + 1:020d}.json")) == token
        except ObjectMissing:
            return False

    def _open(self, version: int | None = None) -> DeltaTable:
        uri = delta_uri(self.url)
        return self._asked(lambda: DeltaTable(uri, version=version, storage_options=delta_options(uri)))

    def _asked(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except Exception as error:  # noqa: BLE001  delta-rs raises plain Exception too
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> CascadeError:
        """What delta-rs raised, in our words."""
        if isinstance(error, CascadeError):
            return error
        got = sanitise(f"{type(error).__name__}: {error}")
        if isinstance(error, TableNotFoundError):
            return IntegrityError("there is no Delta table", where=self.url, got=got)
        if isinstance(error, DeltaError):
            return IntegrityError("the Delta table cannot be read or written", where=self.url, got=got)
        return StorageError("storage: the Delta table cannot be reached", where=self.url, got=got)


def _schema_of(table: DeltaTable) -> pa.Schema:
    return held_by_delta(pa.schema(table.schema().to_arrow()))


def _files_of(table: DeltaTable) -> list[DataFile]:
    told = pa.table(table.get_add_actions()).select(["path", "size_bytes", "num_records"])
    return [DataFile(*row.values()) for row in told.to_pylist()]


def _add_action(file: DataFile) -> AddAction:
    return AddAction(file.key, file.size, {}, _now(), True, json.dumps({"numRecords": file.rows}))


def _remove_action(file: DataFile) -> RemoveAction:
    return RemoveAction(file.key, True, _now(), file.size, {})


def _now() -> int:
    return int(time.time() * 1000)
