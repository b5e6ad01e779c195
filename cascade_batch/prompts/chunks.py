"""What a Parquet footer says of its row groups' columns: whether they can be read, and how many values are null."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import pyarrow as pa

from cascade_batch.errors import PromptTableError
from cascade_batch.prompts.thrift import CompactReader

# Field ids of parquet.thrift
_STATISTICS, _NULL_COUNT = 12, 3
_PATH, _CODEC, _VALUES = 3, 4, 5
_FILE, _META, _CRYPTO, _CRYPTO_COLUMN, _CRYPTO_PATH = 1, 3, 8, 2, 1
_COLUMNS, _GROUP_ROWS = 1, 3
_ROWS, _GROUPS = 3, 4
_COLUMN = {
    _FILE: None,
    _META: {_PATH: None, _CODEC: None, _VALUES: None, _STATISTICS: {_NULL_COUNT: None}},
    _CRYPTO: {_CRYPTO_COLUMN: {_CRYPTO_PATH: None}},
}
_FOOTER = {_ROWS: None, _GROUPS: {_COLUMNS: _COLUMN, _GROUP_ROWS: None}}

CODECS = ("uncompressed", "snappy", "gzip", "lzo", "brotli", "lz4", "zstd", "lz4_raw")
"""By their numbers in a footer."""


@dataclass(frozen=True)
class Chunk:
    """One column of one row group."""

    path: str
    """Its name, and those of its fields, joined by dots."""
    codec: int
    values: int
    nulls: int | None
    encrypted: bool
    elsewhere: str
    """The file that holds its values, where it is not the footer's own."""


@dataclass(frozen=True)
class RowGroup:
    rows: int
    chunks: tuple[Chunk, ...]


def row_groups(footer: bytes, columns: int, where: str) -> tuple[RowGroup, ...]:
    """The row groups of a footer.

    Args:
        footer: its bytes, from the first on; what follows the footer does not matter.
        columns: how many the schema has, counted as leaves.

    Raises PromptTableError for one that contradicts itself, or whose columns are encrypted, of a codec that cannot be
    read, or in other files.
    """
    try:
        tree = CompactReader(footer).struct(_FOOTER)
        groups = tuple(_group(group) for group in tree[_GROUPS])
        _check_counts(groups, tree[_ROWS], columns)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PromptTableError(
            "a Parquet footer cannot be read",
            where=where,
            got=f"{type(error).__name__}: {error}",
            next_step="write the file again, it is damaged",
        ) from None
    chunks = [chunk for group in groups for chunk in group.chunks]
    _check_encryption(chunks, where)
    _check_codecs(chunks, where)
    _check_place(chunks, where)
    return groups


def null_count(groups: Sequence[RowGroup], column: str, where: str) -> int | None:
    """Null values of a flat column by the footer's statistics, None if there is none or those do not say."""
    total = 0
    for group in groups:
        chunk = next((chunk for chunk in group.chunks if chunk.path == column), None)
        if chunk is None:
            return None
        if chunk.values != group.rows:
            raise PromptTableError(
                "a Parquet footer contradicts itself",
                where=where,
                got=f"{chunk.values} values of {column!r} in {group.rows} rows",
                next_step="write the file again, it is damaged",
            )
        if chunk.nulls is None or not 0 <= chunk.nulls <= group.rows:
            return None
        total += chunk.nulls
    return total


def _group(group: dict[int, Any]) -> RowGroup:
    return RowGroup(index(group[_GROUP_ROWS]), tuple(_chunk(column) for column in group[_COLUMNS]))


def _chunk(column: dict[int, Any]) -> Chunk:
    crypto, meta = column.get(_CRYPTO), column.get(_META, {})
    if not meta and crypto is None:
        raise ValueError("a column without metadata")
    nulls = meta.get(_STATISTICS, {}).get(_NULL_COUNT)
    names = meta.get(_PATH) or (crypto or {}).get(_CRYPTO_COLUMN, {}).get(_CRYPTO_PATH, [])
    return Chunk(
        path=".".join(name.decode() for name in names),
        codec=index(meta.get(_CODEC, 0)),
        values=index(meta.get(_VALUES, 0)),
        nulls=None if nulls is None else index(nulls),
        encrypted=crypto is not None,
        elsewhere=column.get(_FILE, b"").decode(),
    )


def _check_counts(groups: Sequence[RowGroup], rows: int, columns: int) -> None:
    """Raise ValueError for counts that differ: Arrow trusts them, to the length of a table that is not there."""
    if any(group.rows < 0 for group in groups) or sum(group.rows for group in groups) != rows:
        raise ValueError(f"{rows} rows, and {sum(group.rows for group in groups)} in the row groups")
    for group in groups:
        if len(group.chunks) != columns:
            raise ValueError(f"{columns} columns, and {len(group.chunks)} in a row group")


def _check_encryption(chunks: Sequence[Chunk], where: str) -> None:
    encrypted = dict.fromkeys(chunk.path or "?" for chunk in chunks if chunk.encrypted)
    if encrypted:
        raise encrypted_file(where, f"encrypted columns: {', '.join(list(encrypted)[:10])}")


def encrypted_file(where: str, got: str) -> PromptTableError:
    return PromptTableError(
        "a prompt file is encrypted",
        where=where,
        got=got,
        expected="Parquet without encryption: no keys are ever given to this program",
        next_step="write the file again without encryption, into a place that only you can read",
    )


def _check_codecs(chunks: Sequence[Chunk], where: str) -> None:
    for codec in dict.fromkeys(chunk.codec for chunk in chunks):
        name = CODECS[codec] if 0 <= codec < len(CODECS) else f"number {codec}"
        if name != "uncompressed" and name not in _readable():
            raise PromptTableError(
                "a prompt file is compressed in a way that cannot be read",
                where=where,
                got=name,
                expected=", ".join(("uncompressed", *_readable())),
                next_step="write the file again with one of them, zstd for example",
            )


def _readable() -> Iterator[str]:
    return (
        name for name in CODECS[1:] if name not in ("lzo", "uncompressed") and pa.Codec.is_available(name)
    )


def _check_place(chunks: Sequence[Chunk], where: str) -> None:
    for chunk in chunks:
        if chunk.elsewhere:
            raise PromptTableError(
                "a summary of other Parquet files, without rows of its own",
                where=where,
                got=f"columns in {chunk.elsewhere[:200]}",
                next_step="name the folder, or the files themselves",
            )
