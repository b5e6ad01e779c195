"""Parquet footers: all that opening a prompt table reads, one request per file."""

import hashlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from cascade_batch.errors import PromptTableError
from cascade_batch.prompts.chunks import RowGroup, encrypted_file, null_count, row_groups
from cascade_batch.storage import Storage

TAIL = 64 * 1024
"""Bytes of the first read at a file's end; a longer footer costs a second read."""
MAGIC = b"PAR1"
ENCRYPTED_MAGIC = b"PARE"


@dataclass(frozen=True)
class Footer:
    """A Parquet footer, and the sha256 of its bytes as stored.

    What is asked of `metadata` is its schema and its counts alone: see `thrift`.
    """

    metadata: pq.FileMetaData
    schema: pa.Schema
    row_groups: tuple[RowGroup, ...]
    sha256: str
    where: str


@dataclass(frozen=True)
class Summary:
    """What opening keeps of a footer; thousands of whole ones would be heavy."""

    rows: int
    sha256: str
    layout: bytes
    """The serialised Arrow schema without metadata, equal for files written alike."""
    null_prompts: int | None


def read_footer(storage: Storage, path: str) -> Footer:
    """The footer of one Parquet file. Raises PromptTableError if it is not one, or one that cannot be read."""
    where, footer = storage.url(path), _footer_bytes(storage, path)
    try:
        metadata = pq.read_metadata(pa.BufferReader(footer))
        schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise PromptTableError("a Parquet footer cannot be read", where=where, got=_line(error)) from None
    groups = row_groups(footer, metadata.num_columns, where)
    return Footer(metadata, schema, groups, hashlib.sha256(footer).hexdigest(), where)


def _footer_bytes(storage: Storage, path: str) -> bytes:
    """The footer, its length and the magic."""
    tail = storage.read_tail(path, TAIL)
    if tail[-4:] == ENCRYPTED_MAGIC:
        raise encrypted_file(storage.url(path), "an encrypted footer")
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
    return tail[-length:]


def summarise(footer: Footer, prompt_column: str) -> Summary:
    """The parts of a footer that a prompt table keeps. Raises PromptTableError for counts that contradict."""
    layout = footer.schema.remove_metadata().serialize().to_pybytes()
    nulls = null_count(footer.row_groups, prompt_column, footer.where)
    return Summary(footer.metadata.num_rows, footer.sha256, layout, nulls)


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
