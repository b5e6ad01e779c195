"""Data files of a Delta table: Parquet, written and read through `Storage`, some rows at a time.

Read on the caller's thread alone, as `run.parquet` does and for the reason that stands there.
"""

import io
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.acero as acero
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cascade_batch.errors import IntegrityError
from cascade_batch.storage import ObjectMissing, Storage

TARGET_BYTES = 32 * 2**20
"""A file is ended once it is as large; by less than one group of rows it may be larger."""
GROUP_ROWS = 32_768
GROUP_BYTES = 64 * 2**20  # in memory
BATCH_ROWS = 16_384
WHOLE_BYTES = 4 * 2**20
"""A remote file of at most this size is read by one request, whichever columns are wanted."""


@dataclass(frozen=True)
class DataFile:
    """`key` below the table's folder, `size` in bytes."""

    key: str
    size: int
    rows: int


class DataFileWriter:
    """Writes rows, in the order that they come in, to as many new files as they need; `close` returns those."""

    def __init__(self, storage: Storage, folder: str, schema: pa.Schema) -> None:
        self._storage, self._folder, self._schema = storage, folder, schema
        self._waiting: list[pa.Table] = []
        self._sink = io.BytesIO()
        self._file: pq.ParquetWriter | None = None
        self._rows = 0
        self._written: list[DataFile] = []

    def write(self, rows: pa.Table) -> None:
        """Rows of the writer's schema."""
        for start in range(0, rows.num_rows, GROUP_ROWS):
            self._waiting.append(rows.slice(start, GROUP_ROWS))
            if (
                sum(map(len, self._waiting)) >= GROUP_ROWS
                or sum(w.nbytes for w in self._waiting) >= GROUP_BYTES
            ):
                self._end_group()

    def close(self) -> list[DataFile]:
        self._end_group()
        self._end_file()
        return self._written

    def _end_group(self) -> None:
        if not self._waiting:
            return
        if self._file is None:
            self._file = pq.ParquetWriter(
                self._sink, self._schema, compression="zstd", write_page_checksum=True
            )
        group = pa.concat_tables(self._waiting)
        self._file.write_table(group, row_group_size=max(1, group.num_rows))
        self._rows += group.num_rows
        self._waiting = []
        if self._sink.tell() >= TARGET_BYTES:
            self._end_file()

    def _end_file(self) -> None:
        if self._file is None:
            return
        self._file.close()
        data, name = self._sink.getvalue(), f"part-{uuid.uuid4()}.zstd.parquet"
        self._storage.put(f"{self._folder}/{name}", data)
        self._written.append(DataFile(name, len(data), self._rows))
        self._sink, self._file, self._rows = io.BytesIO(), None, 0


class Source:
    """Batches for another library to read, and what went wrong in making them, which it would tell in its own words."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches = batches
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._batches
        except BaseException as error:
            self.error = error
            raise


def selected(schema: pa.Schema, columns: Iterable[str]) -> pa.Schema:
    return pa.schema([schema.field(name) for name in columns])


def fitting(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows as this schema has them. Raises ValueError for other columns."""
    if rows.schema.names != schema.names:
        raise ValueError(f"columns {rows.schema.names}, not {schema.names}")
    return rows.cast(schema)


def table_of(
    storage: Storage,
    folder: str,
    schema: pa.Schema,
    columns: list[str],
    where: pc.Expression | None,
    file: DataFile,
) -> pa.Table:
    """Columns of one file, of the rows that `where` holds for. Raises as `read_batches` does."""
    batches = batches_of(storage, folder, [file], schema, columns, where)
    return pa.Table.from_batches(batches, schema=selected(schema, columns))


def batches_of(
    storage: Storage,
    folder: str,
    files: Iterable[DataFile],
    schema: pa.Schema,
    columns: list[str] | None,
    where: pc.Expression | None,
) -> Iterator[pa.RecordBatch]:
    """Columns of a table of this schema, all if None, of those of its rows that `where` holds for."""
    wanted = schema.names if columns is None else columns
    asked = (
        "" if where is None else str(where)
    )  # names every column that it needs, perhaps parts of others' names
    read = pa.schema([field for field in schema if field.name in wanted or field.name in asked])
    for file in files:
        for rows in read_batches(storage, folder, file, read, where):
            yield from rows.select(wanted).to_batches()


def read_batches(
    storage: Storage, folder: str, file: DataFile, schema: pa.Schema, where: pc.Expression | None = None
) -> Iterator[pa.Table]:
    """Rows of one file as small tables; columns that it lacks are null.

    Args:
        schema: the columns that are wanted, and what they are.

    Raises:
        IntegrityError: the file is gone or damaged.
    """
    key = f"{folder}/{file.key}"
    try:
        source = _opened(storage, key, file)
        parquet = pq.ParquetFile(source, page_checksum_verification=True)
        there = [name for name in schema.names if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(BATCH_ROWS, columns=there, use_threads=False):
            rows = _as(pa.Table.from_batches([batch]), schema)
            yield rows if where is None else _filtered(rows, where)
    except ObjectMissing:
        raise _gone(storage, key) from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(
            "a data file of the table cannot be read",
            where=storage.url(key),
            got=str(error).splitlines()[0],
            next_step="restore the file from a copy, or go back to an edition without it",
        ) from None


def _opened(storage: Storage, key: str, file: DataFile) -> pa.NativeFile | io.IOBase:
    if storage.is_local or file.size > WHOLE_BYTES:
        return storage.open(key)
    return pa.BufferReader(storage.read(key))


def _gone(storage: Storage, key: str) -> IntegrityError:
    return IntegrityError(
        "a data file of the table is gone",
        where=storage.url(key),
        next_step="restore the file from a copy, or go back to an edition without it",
    )


def _as(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Where each batch is read as the Delta table has it, whoever wrote the file."""
    columns = [
        rows[field.name].cast(field.type)
        if field.name in rows.column_names
        else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    if not schema.names:
        return rows.select([])
    return pa.Table.from_arrays(columns, schema=schema)


def _filtered(rows: pa.Table, where: pc.Expression) -> pa.Table:
    """As `Table.filter`, which starts threads."""
    steps = [
        acero.Declaration("table_source", acero.TableSourceNodeOptions(rows)),
        acero.Declaration("filter", acero.FilterNodeOptions(where)),
    ]
    return acero.Declaration.from_sequence(steps).to_table(use_threads=False)
