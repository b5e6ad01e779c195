"""Parquet footers: all that opening a prompt table reads, one request per file."""

import hashlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from cascade_batch.errors import PromptTableError
from cascade_batch.storage import Storage

TAIL = 64 * 1024
"""Bytes of the first read at a file's end; a longer footer costs a second read."""
MAGIC = b"PAR1"


@dataclass(frozen=True)
class Footer:
    """A Parquet footer, and the sha256 of its bytes as stored."""

    metadata: pq.FileMetaData
    sha256: str


@dataclass(frozen=True)
class Summary:
    """What opening keeps of a footer; thousands of whole ones would be heavy."""

    rows: int
    sha256: str
    layout: bytes
    """The serialised Arrow schema without metadata, equal for files written alike."""
    null_prompts: int | None


def read_footer(storage: Storage, path: str) -> Footer:
    """The footer of one Parquet file. Raises PromptTableError if it is not one."""
    tail = storage.read_tail(path, TAIL)
    if len(tail) < 12 or tail[-4:] != MAGIC:
        raise PromptTableError(
            "not a whole Parquet file",
            where=storage.url(path),
            got=tail[-4:],
            expected=f"{MAGIC!r} at its end",
        )
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > len(tail):
        tail = storage.read_tail(path, length)
    footer = tail[-length:]
    try:
        metadata = pq.read_metadata(pa.BufferReader(footer))
    except (pa.ArrowException, OSError) as error:
        raise PromptTableError(
            "a Parquet footer cannot be read", where=storage.url(path), got=error
        ) from None
    return Footer(metadata, hashlib.sha256(footer).hexdigest())


def summarise(footer: Footer, prompt_column: str) -> Summary:
    """The parts of a footer that a prompt table keeps."""
    metadata = footer.metadata
    layout = metadata.schema.to_arrow_schema().remove_metadata().serialize().to_pybytes()
    return Summary(metadata.num_rows, footer.sha256, layout, _nulls(metadata, prompt_column))


def _nulls(metadata: pq.FileMetaData, column: str) -> int | None:
    """Null values of a flat column by the footer's statistics, None if those do not say."""
    paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    if column not in paths:
        return None
    total = 0
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(paths.index(column)).statistics
        if statistics is None or not statistics.has_null_count:
            return None
        total += statistics.null_count
    return total
