"""Arrow tables to Parquet bytes and back, the same settings for every shard of a run."""

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cascade_batch.errors import IntegrityError


def to_bytes(table: pa.Table, float_columns: tuple[str, ...] = ()) -> bytes:
    """Parquet bytes of one table.

    Args:
        float_columns: Parquet paths of float arrays, stored byte-stream-split, which zstd packs
            far better than plain floats.
    """
    sink = io.BytesIO()
    if float_columns:
        plain = [name for name in table.column_names if not any(f.startswith(name) for f in float_columns)]
        options: dict[str, Any] = {"use_dictionary": plain, "use_byte_stream_split": list(float_columns)}
    else:
        options = {}
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, **options)
    return sink.getvalue()


def replaced(stored: pa.Table, rows: pa.Table, order: Sequence[int]) -> pa.Table:
    """Rows of `stored`, and of `rows` counted on after those, in this order."""
    return pa.concat_tables([stored, rows.cast(stored.schema)]).take(pa.array(order))


REOPEN = "`cascade-batch verify --reopen` re-opens the shard for the next render"


def from_bytes(data: bytes, key: str, next_step: str = REOPEN, columns: list[str] | None = None) -> pa.Table:
    """The table of one object; IntegrityError names the object if it is not whole Parquet, to its last bit.

    Read on the caller's thread: a short command that ends while Arrow's pools still start their
    threads is aborted by the C++ runtime (pyarrow 26, one exit in five on busy cores).
    """
    try:
        parquet = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        return parquet.read(columns=columns, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(
            "a committed table cannot be read",
            where=key,
            got=str(error).splitlines()[0],
            next_step=next_step,
        ) from None
