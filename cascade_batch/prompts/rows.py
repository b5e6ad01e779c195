"""Reading rows of a prompt table in canonical columns, whatever the file's own types and layout.

Only the row groups and columns that are needed are read. The last row groups stay in memory, because
consecutive shards of a process often come from one.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cascade_batch.errors import IntegrityError, PromptTableError
from cascade_batch.model.conditions import CONDITIONS
from cascade_batch.prompts.columns import AS_STORED, COLUMNS, sources
from cascade_batch.prompts.encodings import decoded
from cascade_batch.prompts.footers import read_footer
from cascade_batch.run.prompt_table import PromptFile, PromptTable
from cascade_batch.storage import Storage

PLANNING_ROWS = 2**18
"""Rows that planning reads at once: few requests for files of many row groups, little memory for others."""

PAGE = 2**16
"""Bytes read at once where only the first row of a column is wanted."""

_reading = threading.Lock()


def read_rows(table: PromptTable, file_index: int, first_row: int, rows: int) -> pa.Table:
    """A range of rows: `prompt_id`, our other columns, then the carried ones.

    `prompt_id` is filled; in our other columns null still means the run's default. Types are those of
    `COLUMNS` and of `table.carried`. A prompt that is not valid UTF-8 is null, so that its row fails alone.

    Raises:
        PromptTableError: the file cannot be read.
        IntegrityError: it is no longer the file that was opened.
    """
    file = table.files[file_index]
    key = (table.root, file.path, file.footer_sha256, table.query)
    with _reading:  # a Parquet reader is not for two threads, and both would read the same row group
        parquet = _opened(*key)
        groups = _row_groups(parquet, first_row, rows)
        pieces = [_cached_group(*key, group).slice(start, count) for group, start, count in groups]
    try:
        stored = pa.concat_tables(pieces) if pieces else parquet.schema_arrow.empty_table()
        return _canonical(stored, table, file, first_row)
    except (pa.ArrowException, OverflowError) as error:
        raise _unreadable(table.where(file), error) from None


def iter_planned(table: PromptTable, file_index: int, limit: int) -> Iterator[tuple[int, pa.Table]]:
    """(first row, table) of the columns that planning needs, over the first `limit` rows of a file.

    Columns have our names and the file's types without dictionaries; `id` is text.
    """
    return _iter_columns(table, file_index, limit, table.files[file_index].planned)


def first_prompts(table: PromptTable, rows: int, files: int) -> list[str]:
    """The texts of the table's first `rows` rows in its first `files` files; rows without a text are left out.

    Reads that column alone, and of it no row group beyond those rows.
    """
    texts: list[str | None] = []
    for index in range(min(files, len(table.files))):
        if len(texts) >= rows:
            break
        for _, batch in _iter_columns(table, index, rows - len(texts), ("prompt",)):
            texts += _valid_text(batch["prompt"].cast(pa.string())).to_pylist()
    return [text for text in texts if text is not None]


def first_carried(table: PromptTable, file_index: int, names: Sequence[str]) -> pa.Table:
    """The first row of a file, or none, in some carried columns alone; of each no more is read than that takes."""
    file = table.files[file_index]
    parquet = _open(table.root, file.path, file.footer_sha256, table.query, read_ahead=False)
    found = sources(parquet.schema_arrow.names, table.columns)
    wanted = [found[name] for name in names if name in found]
    try:
        batch = next(parquet.iter_batches(1, columns=wanted, use_threads=False), None) if wanted else None
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise _unreadable(table.where(file), error) from None
    stored = pa.table({}) if batch is None else pa.Table.from_batches([batch])
    kinds = {name: table.carried.field(name).type for name in names}
    found = found if stored.num_columns else {}
    return pa.table({n: _column(stored, found, n, kind) for n, kind in kinds.items()}).combine_chunks()


def prompt_ids(file: PromptFile, first_row: int, rows: int, ids: pa.ChunkedArray | None) -> pa.ChunkedArray:
    """The ids of a range of rows as text: the column's, or `<path relative to the root>:<row>`."""
    if ids is not None:
        return ids.cast(pa.string())
    numbers = pa.array(np.arange(first_row, first_row + rows)).cast(pa.string())
    joined = pc.call_function("binary_join_element_wise", [pa.scalar(file.path), numbers, pa.scalar(":")])
    return pa.chunked_array([joined])


def _iter_columns(
    table: PromptTable, file_index: int, limit: int, names: Sequence[str]
) -> Iterator[tuple[int, pa.Table]]:
    file = table.files[file_index]
    parquet = _open(table.root, file.path, file.footer_sha256, table.query)
    found = sources(parquet.schema_arrow.names, table.columns)
    wanted = [found[name] for name in names]
    first = 0
    for groups in _runs(parquet.metadata, limit):
        stored = _read(parquet, table.where(file), groups, wanted)
        stored = stored.slice(0, limit - first)
        columns = [decoded(stored[found[name]]) for name in names]
        yield first, pa.table(columns, names=list(names))
        first += stored.num_rows


def _canonical(stored: pa.Table, table: PromptTable, file: PromptFile, first_row: int) -> pa.Table:
    found = sources(stored.column_names, table.columns)
    ours = {
        name: kind
        for name, (_, _, kind) in COLUMNS.items()
        if name not in CONDITIONS or name in table.conditions
    }
    kinds = ours | {f.name: f.type for f in table.carried}
    columns = {}
    for name, kind in kinds.items():
        if name == "id":
            ids = decoded(stored[found[name]]) if name in found else None
            columns["prompt_id"] = prompt_ids(file, first_row, stored.num_rows, ids)
        else:
            columns[name] = _column(stored, found, name, kind)
    for name in ("prompt", "negative_prompt"):
        columns[name] = _valid_text(columns[name])
    order = ["prompt_id", *(name for name in columns if name != "prompt_id")]
    return pa.table({name: columns[name] for name in order}).combine_chunks()


def _column(
    stored: pa.Table, found: Mapping[str, str], name: str, kind: pa.DataType | None
) -> pa.ChunkedArray:
    """A column without encodings, of a type or AS_STORED; nulls where the file has none."""
    column = stored[found[name]] if name in found else pa.chunked_array([pa.nulls(stored.num_rows)])
    return decoded(column) if kind is AS_STORED else decoded(column).cast(kind)


def _valid_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Null where the bytes are not UTF-8, which Parquet writers do not check."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return pa.chunked_array(
            [[_text_or_none(raw) for raw in column.cast(pa.binary()).to_pylist()]], pa.string()
        )
    return column


def _text_or_none(raw: bytes | None) -> str | None:
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return None


@lru_cache(maxsize=4)
def _opened(root: str, path: str, footer_sha256: str, query: str) -> pq.ParquetFile:
    return _open(root, path, footer_sha256, query)


def _open(root: str, path: str, footer_sha256: str, query: str, read_ahead: bool = True) -> pq.ParquetFile:
    """`read_ahead` fetches whole columns of a row group at once, else they are read as far as they are asked for."""
    storage = Storage(root, query)
    footer = read_footer(storage, path)
    if footer.sha256 != footer_sha256:
        raise IntegrityError(
            "table_changed: a prompt file is no longer the one that was planned",
            where=storage.url(path),
            got=f"footer sha256 {footer.sha256[:12]}",
            expected=footer_sha256[:12],
            next_step="restore the file, or start a new run for the new table",
        )
    return pq.ParquetFile(
        storage.open(path),
        metadata=footer.metadata,
        pre_buffer=read_ahead,
        buffer_size=0 if read_ahead else PAGE,
        page_checksum_verification=True,
    )


@lru_cache(maxsize=2)
def _cached_group(root: str, path: str, footer_sha256: str, query: str, group: int) -> pa.Table:
    return _read(_opened(root, path, footer_sha256, query), f"{root}/{path}", [group], None)


def _read(parquet: pq.ParquetFile, where: str, groups: Sequence[int], columns: list[str] | None) -> pa.Table:
    """On the caller's thread, since what Arrow throws on a thread of its own ends the process."""
    try:
        stored = parquet.read_row_groups(list(groups), columns=columns, use_threads=False)
        stored.validate()
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise _unreadable(where, error) from None
    rows = sum(parquet.metadata.row_group(group).num_rows for group in groups)
    if stored.num_rows != rows:
        raise _unreadable(where, f"{stored.num_rows} rows where its footer says {rows}")
    return stored


def _unreadable(where: str, error: object) -> PromptTableError:
    return PromptTableError(
        "a prompt file cannot be read",
        where=where,
        got=(str(error) or type(error).__name__).splitlines()[0],
        next_step="restore the file, or write it again; its data does not match its footer",
    )


def _row_groups(parquet: pq.ParquetFile, first_row: int, rows: int) -> list[tuple[int, int, int]]:
    """(row group, first row in it, rows) that cover a range of rows."""
    sizes = [parquet.metadata.row_group(g).num_rows for g in range(parquet.metadata.num_row_groups)]
    ends = np.cumsum(sizes, dtype=np.int64)
    found = []
    for group, (end, size) in enumerate(zip(ends.tolist(), sizes, strict=True)):
        start, stop = max(first_row, end - size), min(first_row + rows, end)
        if start < stop:
            found.append((group, start - (end - size), stop - start))
    return found


def _runs(metadata: pq.FileMetaData, limit: int) -> Iterator[list[int]]:
    """Consecutive row groups of about PLANNING_ROWS rows together, until `limit` rows are covered."""
    run, rows, total = [], 0, 0
    for group in range(metadata.num_row_groups):
        if total >= limit:
            break
        run.append(group)
        rows += metadata.row_group(group).num_rows
        total += metadata.row_group(group).num_rows
        if rows >= PLANNING_ROWS:
            yield run
            run, rows = [], 0
    if run:
        yield run
