"""Manifest shards, commit 2: one row per image; a shard whose manifest stands is done."""

from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from cascade_batch.errors import StorageError
from cascade_batch.run import parquet, paths
from cascade_batch.run.listing import listed_shards
from cascade_batch.storage import Storage

READERS = 16
"""Manifest shards read at once; they are small, so latency decides."""
_ROWS_PER_PART = 100_000
_SHARDS_PER_WAVE = 512


def committed_shards(storage: Storage, among: Collection[int] | None = None) -> set[int]:
    """Shards that are done, by names alone; `among` as in `listed_shards`."""
    return listed_shards(storage, paths.MANIFEST, among)


def read_manifest(storage: Storage, shard: int, columns: list[str] | None = None) -> pa.Table:
    """A committed manifest shard, whole or some columns of it."""
    key = paths.manifest_key(shard)
    return parquet.from_bytes(storage.read(key), key, columns=columns)


def read_manifests(
    storage: Storage, shards: Iterable[int], columns: list[str] | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """Manifest shards in the order given, read several at a time; memory holds one wave of them."""
    todo = list(shards)
    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(todo), _SHARDS_PER_WAVE):
            wave = todo[start : start + _SHARDS_PER_WAVE]
            yield from zip(wave, readers.map(lambda s: read_manifest(storage, s, columns), wave), strict=True)


def read_table(storage: Storage, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """A finished run's manifest, one part of `table/` after the other.

    Raises:
        StorageError: the run is not finished.
    """
    parts = storage.list(paths.TABLE)
    if not parts:
        raise StorageError(
            "this run has no table of its images yet",
            where=storage.url(paths.TABLE),
            next_step="finish it: repeat its render command",
        )
    for part in parts:
        yield parquet.from_bytes(storage.read(part.key), part.key, columns=columns)


def write_table(storage: Storage, shards: Iterable[int], schema: pa.Schema) -> int:
    """The whole manifest in few large files under `table/`: derived, for analysts. Returns its failed rows."""
    failed = 0
    for number, part in enumerate(parts(read_manifests(storage, sorted(shards)), schema)):
        storage.put(paths.table_key(number), parquet.to_bytes(part))
        failed += part["status"].to_pylist().count("failed")
    return failed


def with_carried(ours: pa.Table, rows: pa.Table, row: pa.ChunkedArray, carried: pa.Schema) -> pa.Table:
    """Our columns of a manifest shard, then those that the prompt table brings.

    Args:
        rows: the shard's prompt rows.
        row: of each image, its prompt's place in `rows`.
    """
    for field in carried:
        ours = ours.append_column(field, rows[field.name].take(row).cast(field.type))
    return ours


def parts(manifests: Iterable[tuple[int, pa.Table]], schema: pa.Schema) -> Iterator[pa.Table]:
    """Large tables in order; a run without images still has one, so that its columns can be read."""
    empty = pa.table([pa.nulls(0, field.type) for field in schema], schema=schema)
    waiting, rows, parts = [empty], 0, 0
    for _, table in manifests:
        waiting.append(table)
        rows += table.num_rows
        if rows >= _ROWS_PER_PART:
            yield pa.concat_tables(waiting)
            waiting, rows, parts = [empty], 0, parts + 1
    if rows or not parts:
        yield pa.concat_tables(waiting)
