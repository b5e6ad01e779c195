"""Whether every prompt's id is its own: found by hashes over the whole table, proven by the texts."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cascade_batch.errors import PromptTableError
from cascade_batch.prompts.rows import iter_planned, prompt_ids
from cascade_batch.run.ids import hash64, repeated_hashes
from cascade_batch.run.prompt_table import PromptTable

NAMED = 5
"""Duplicate ids that an error names."""
CANDIDATES = 1000
"""Repeated hashes that are looked up at a time, so that a table given twice stays small in memory."""
HASHED_ROWS = 2**16
"""Ids hashed at a time; hashing takes some 30 bytes for each byte of text."""


def hash_ids(ids: pa.ChunkedArray) -> np.ndarray:
    """`hash64` of each id, (n,) uint64, in little memory."""
    pieces = [
        hash64(chunk.slice(first, HASHED_ROWS))
        for chunk in ids.chunks
        for first in range(0, len(chunk), HASHED_ROWS)
    ]
    return np.concatenate([np.empty(0, np.uint64), *pieces])


def check_unique(table: PromptTable, hashes: Sequence[np.ndarray]) -> None:
    """Raise PromptTableError naming the first prompts that share an id.

    Args:
        hashes: `hash_ids` of the planned rows of each file.
    """
    repeated = repeated_hashes(hashes)
    for first in range(0, len(repeated), CANDIDATES):
        found = _same_texts(table, hashes, repeated[first : first + CANDIDATES])
        if found:
            raise _duplicates(table, found)


def _same_texts(
    table: PromptTable, hashes: Sequence[np.ndarray], candidates: np.ndarray
) -> dict[str, list[tuple[int, int]]]:
    """(file, row) pairs of ids that are equal as texts, among the rows with these hashes."""
    places: dict[str, list[tuple[int, int]]] = {}
    for index, hashed in enumerate(hashes):
        rows = np.flatnonzero(np.isin(hashed, candidates))
        if len(rows):
            for row, text in zip(rows.tolist(), _ids_at(table, index, rows), strict=True):
                places.setdefault(text, []).append((index, row))
    return {text: found for text, found in places.items() if len(found) > 1}


def _ids_at(table: PromptTable, index: int, rows: np.ndarray) -> list[str]:
    file = table.files[index]
    if "id" not in file.planned:
        return [f"{file.path}:{row}" for row in rows.tolist()]
    texts: list[str] = []
    for first, batch in iter_planned(table, index, int(rows[-1]) + 1):
        here = rows[(rows >= first) & (rows < first + batch.num_rows)] - first
        texts += prompt_ids(file, first, batch.num_rows, batch["id"]).take(here).to_pylist()
    return texts


def _duplicates(table: PromptTable, found: dict[str, list[tuple[int, int]]]) -> PromptTableError:
    first = sorted(found.items(), key=lambda pair: pair[1][0])[:NAMED]
    lines = [
        f"{text[:80]!r} at " + ", ".join(f"{table.files[file].path}:{row}" for file, row in places[:3])
        for text, places in first
    ]
    more = "" if len(found) <= NAMED else f" and at least {len(found) - NAMED} more ids"
    return PromptTableError(
        "prompts share an id",
        where=table.root,
        got="; ".join(lines) + more,
        expected="ids that differ as text (7 and '7' are the same); rows are counted from 0",
        next_step="remove the duplicate rows, or leave the id column out: --column source_id=id",
    )
