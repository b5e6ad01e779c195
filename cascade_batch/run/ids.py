"""Names of images, and a fast hash for finding equal ids: pure functions of the prompt table.

Ids from a table are data, never paths: an image id is safe as a file name and object key on every store,
whatever the prompt's id holds. The manifest's `prompt_id` is the way back.
"""

import hashlib
import re
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

PREFIX_LENGTH = 40
"""Characters of the prompt's id that are kept in an image id, for people."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


def image_id(prompt_id: str, index: int) -> str:
    """Key-safe, unique name of image `index` of a prompt: `<prefix>-<24 hex of sha256(id)>-<index>`.

    The prefix is for people: runs of other characters become `_`, and so do dots, because a dot would allow
    `..`, a hidden file, a false extension, or a Windows device name (`nul.1`). It never starts with `_` or
    `-`, since Spark and DuckDB skip `_` names and shells take `-` for an option; without one it is left out.
    """
    digest = hashlib.sha256(prompt_id.encode()).hexdigest()[:24]
    prefix = _UNSAFE.sub("_", prompt_id[: 4 * PREFIX_LENGTH]).strip("_-")[:PREFIX_LENGTH]
    return f"{prefix}-{digest}-{index}" if prefix else f"{digest}-{index}"


def hash64(texts: pa.Array) -> np.ndarray:
    """64-bit hash of each string of a null-free string or large_string array, (n,) uint64.

    A multilinear hash over the UTF-8 bytes: sum of (byte + 1) x (a pseudo-random multiplier per position)
    mod 2^64, computed for all strings at once on Arrow's buffers. Equal strings have equal hashes in every
    process; different strings almost never do, and callers must verify.
    """
    offsets, data = _text_buffers(texts)
    lengths = np.diff(offsets)
    if data.size == 0:
        return np.zeros(len(lengths), np.uint64)
    position = np.arange(data.size, dtype=np.int64) - np.repeat(offsets[:-1], lengths)
    terms = _multipliers(int(lengths.max()))[position]
    terms *= data.astype(np.uint64) + np.uint64(1)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
    return sums[offsets[1:]] - sums[offsets[:-1]]


def repeated_hashes(pieces: Iterable[np.ndarray]) -> np.ndarray:
    """Hashes that stand more than once in all pieces together, each once, in order."""
    ordered = np.sort(np.concatenate([np.empty(0, np.uint64), *pieces]))
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def _text_buffers(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (n + 1,) int64 from zero and the bytes they point into, (total,) uint8."""
    if texts.null_count:
        raise ValueError("hash64 takes arrays without nulls")
    wide = texts.cast(pa.large_string())
    _, offset_buffer, data_buffer = wide.buffers()
    cut = slice(wide.offset, wide.offset + len(wide) + 1)  # a cast need not keep the slice's own offset
    if len(texts) == 0 or data_buffer is None:
        return np.zeros(len(texts) + 1, np.int64), np.zeros(0, np.uint8)
    offsets = np.frombuffer(offset_buffer, np.int64)[cut]
    data = np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]]
    return offsets - offsets[0], data


def _multipliers(count: int) -> np.ndarray:
    """`count` fixed odd pseudo-random numbers: SplitMix64 of 1, 2, ... (Steele, Lea and Flood, 2014)."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) | np.uint64(1)
