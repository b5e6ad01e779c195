"""Every way in which a run's objects get damaged: each does it, and says what `verify` must find."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from cascade_batch.run import parquet, paths
from cascade_batch.run.manifest import read_manifest
from cascade_batch.storage import Storage

SHARDS = 13
FAILED = SHARDS - 1
"""The shard of the prompt that is null."""

Found = set[tuple[str, str]]
Damage = Callable[[Storage, int], Found]  # (storage, shard) to the kinds and keys of the differences


def copied(source: str, target: str) -> str:
    for info in Storage(source).list():
        Storage(target).put(info.key, Storage(source).read(info.key))
    return target


def pictures(storage: Storage, shard: int) -> list[str]:
    return [info.key for info in storage.list(f"{paths.IMAGES}{paths.shard_name(shard)}/")]


def flip(storage: Storage, key: str, position: int) -> None:
    data = bytearray(storage.read(key))
    data[position] ^= 1
    storage.put(key, bytes(data))


def truncate(storage: Storage, key: str) -> None:
    storage.put(key, storage.read(key)[:-20])


def rewrite(storage: Storage, shard: int, /, **columns: list) -> None:
    """Another manifest in the place of a shard's."""
    table = read_manifest(storage, shard)
    for name, values in columns.items():
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    storage.put(paths.manifest_key(shard), parquet.to_bytes(table))


def picture_deleted(storage: Storage, shard: int) -> Found:
    key = pictures(storage, shard)[0]
    storage.delete(key)
    return {("missing", key)}


def picture_flipped(storage: Storage, shard: int) -> Found:
    key = pictures(storage, shard)[1]
    flip(storage, key, 1000)
    return {("damaged", key)}


def picture_truncated(storage: Storage, shard: int) -> Found:
    key = pictures(storage, shard)[0]
    truncate(storage, key)
    return {("damaged", key)}


def pictures_swapped(storage: Storage, shard: int) -> Found:
    one, other = pictures(storage, shard)
    first, second = storage.read(one), storage.read(other)
    storage.put(one, second)
    storage.put(other, first)
    return {("damaged", one), ("damaged", other)}


def embedding_deleted(storage: Storage, shard: int) -> Found:
    storage.delete(paths.embeddings_key(shard))
    return {("missing", paths.embeddings_key(shard))}


def embedding_flipped(storage: Storage, shard: int) -> Found:
    key = paths.embeddings_key(shard)
    with storage.open(key) as file:
        column = pq.read_metadata(file).row_group(0).column(1)
    assert column.path_in_schema.startswith("embedding")
    flip(storage, key, column.data_page_offset + column.total_compressed_size // 2)
    return {("damaged", key)}


def embedding_truncated(storage: Storage, shard: int) -> Found:
    truncate(storage, paths.embeddings_key(shard))
    return {("damaged", paths.embeddings_key(shard))}


def embedding_of_another_shard(storage: Storage, shard: int) -> Found:
    key = paths.embeddings_key(shard)
    storage.put(key, storage.read(paths.embeddings_key(FAILED - 1)))
    return {("inconsistent", key)}


def manifest_truncated(storage: Storage, shard: int) -> Found:
    truncate(storage, paths.manifest_key(shard))
    return {("damaged", paths.manifest_key(shard))}


def manifest_and_picture(storage: Storage, shard: int) -> Found:
    picture_flipped(storage, shard)
    return manifest_truncated(storage, shard)


def manifest_of_another_shard(storage: Storage, shard: int) -> Found:
    key = paths.manifest_key(shard)
    storage.put(key, storage.read(paths.manifest_key(FAILED - 1)))
    return {("inconsistent", key)}


def rows_lost(storage: Storage, shard: int) -> Found:
    key = paths.manifest_key(shard)
    storage.put(key, parquet.to_bytes(read_manifest(storage, shard).slice(1)))
    return {("inconsistent", key)}


DAMAGES: list[Damage] = [
    picture_deleted,
    picture_flipped,
    picture_truncated,
    pictures_swapped,
    embedding_deleted,
    embedding_flipped,
    embedding_truncated,
    embedding_of_another_shard,
    manifest_truncated,
    manifest_and_picture,
    manifest_of_another_shard,
]
