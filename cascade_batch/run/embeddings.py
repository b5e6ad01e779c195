"""Embedding shards, commit 1: one row per image, failed ones included.

The array of a row is 16 x h x w float32; float32 holds bfloat16 exactly.
"""

import hashlib
from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa

from cascade_batch.run import parquet, paths
from cascade_batch.run.listing import listed_shards
from cascade_batch.run.schemas import EMBEDDING_CHANNELS
from cascade_batch.storage import Storage

_FLOAT_COLUMNS = ("embedding.list.element", "pooled.list.element", "negative_pooled.list.element")


def embedding_sha256(embedding: np.ndarray) -> str:
    """sha256 of the little-endian float32 values in (channel, height, width) order."""
    return hashlib.sha256(np.ascontiguousarray(embedding, dtype="<f4").tobytes()).hexdigest()


def embedding_column(arrays: Sequence[np.ndarray | None], schema: pa.Schema) -> pa.Array:
    """Arrow column of (16, h, w) arrays, None for failed rows, of the run's embedding type.

    A failed row is null in lists of any size, and NaN in those of a fixed size: many readers cannot tell a null
    there from a list that is too short, and a mean over NaN is no number where one over zeros would look like one.
    """
    column_type = schema.field("embedding").type
    if pa.types.is_list(column_type):
        return pa.array([None if a is None else a.ravel() for a in arrays], column_type)
    is_tensor = isinstance(column_type, pa.FixedShapeTensorType)
    length = int(np.prod(column_type.shape)) if is_tensor else column_type.list_size
    values = np.full((len(arrays), length), np.nan, np.float32)
    for row, array in enumerate(arrays):
        if array is not None:
            values[row] = array.ravel()
    flat = pa.array(values.ravel())
    if not is_tensor:
        return pa.FixedSizeListArray.from_arrays(flat, length)
    missing = pa.array([a is None for a in arrays], pa.bool_())
    storage = pa.FixedSizeListArray.from_arrays(flat, length, mask=missing)
    return pa.ExtensionArray.from_storage(column_type, storage)


def embedding_arrays(table: pa.Table) -> list[np.ndarray | None]:
    """The (16, h, w) float32 arrays of an embedding shard of any format, None where one is null or NaN throughout."""
    column = table["embedding"].combine_chunks()
    storage = column.storage if isinstance(column, pa.ExtensionArray) else column
    heights, widths = table["height"].to_pylist(), table["width"].to_pylist()
    arrays: list[np.ndarray | None] = []
    for row, (height, width) in enumerate(zip(heights, widths, strict=True)):
        values = storage[row].values
        values = None if values is None else values.to_numpy(zero_copy_only=False)
        if values is None or np.isnan(values).all():
            arrays.append(None)
        else:
            arrays.append(values.reshape(EMBEDDING_CHANNELS, height, width))
    return arrays


def encode_embeddings(table: pa.Table) -> bytes:
    return parquet.to_bytes(table, _FLOAT_COLUMNS)


def read_embeddings(storage: Storage, shard: int) -> pa.Table:
    """A committed embedding shard; StorageError if it is not there, IntegrityError if it is not whole."""
    key = paths.embeddings_key(shard)
    return parquet.from_bytes(storage.read(key), key)


def committed_embeddings(storage: Storage, among: Collection[int] | None = None) -> set[int]:
    """Shards whose Stage C is done, by names alone; `among` as in `listed_shards`."""
    return listed_shards(storage, paths.EMBEDDINGS, among)
