"""Where a run takes embeddings from instead of rendering them, `sources.parquet`: written once, before the plan.

A shard with rows there takes all its embeddings from there. Row groups hold whole shards, so that a step reads little
more than its own shard's.
"""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cascade_batch.errors import IntegrityError
from cascade_batch.run import paths
from cascade_batch.run.schemas import SOURCES
from cascade_batch.storage import Storage

GROUP_ROWS = 4096
"""A row group ends at the first shard border after so many rows: 0.3 MB, and a footer of 1 MB per 4 million images."""
_SHARD = SOURCES.get_field_index("shard")


def encode_sources(shards: Iterable[pa.Table]) -> bytes:
    """Parquet bytes of `SOURCES`, of the shards one after the other; equal rows give equal bytes."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, SOURCES, compression="zstd", write_page_checksum=True) as writer:
        waiting: list[pa.Table] = []
        for shard in shards:
            waiting.append(shard)
            if sum(table.num_rows for table in waiting) >= GROUP_ROWS:
                _write_group(writer, waiting)
                waiting = []
        _write_group(writer, waiting)
    return sink.getvalue()


def _write_group(writer: pq.ParquetWriter, shards: list[pa.Table]) -> None:
    if shards:
        rows = pa.concat_tables(shards)
        writer.write_table(rows, row_group_size=rows.num_rows)


def read_sources(storage: Storage, shard: int) -> pa.Table:
    """A shard's rows. Raises IntegrityError if it has none, or the object is not whole; ObjectMissing if it is gone."""
    with _opened(storage) as file:
        groups = [group for group in range(file.num_row_groups) if _may_hold(file.metadata, group, shard)]
        rows = file.read_row_groups(groups, use_threads=False).filter(pc.field("shard") == shard)
    if not rows.num_rows:
        raise IntegrityError("no sources of this shard", where=storage.url(paths.SOURCES), expected=shard)
    return rows


def shards_with_sources(storage: Storage) -> set[int]:
    """The shards that take their embeddings from elsewhere. Raises as `read_sources` does."""
    with _opened(storage) as file:
        return set(file.read(["shard"], use_threads=False)["shard"].unique().to_pylist())


def _may_hold(metadata: pq.FileMetaData, group: int, shard: int) -> bool:
    told = metadata.row_group(group).column(_SHARD).statistics
    return told is None or not told.has_min_max or told.min <= shard <= told.max


@contextmanager
def _opened(storage: Storage) -> Iterator[pq.ParquetFile]:
    try:
        with storage.open(paths.SOURCES) as file:
            yield pq.ParquetFile(file, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(
            "the list of embeddings to take from elsewhere cannot be read",
            where=storage.url(paths.SOURCES),
            got=str(error).splitlines()[0],
            next_step=f"delete {paths.SOURCES}; the next render makes it again from the same source",
        ) from None
