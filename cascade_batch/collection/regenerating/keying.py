"""The keys of a whole prompt table, its text read once."""

from functools import partial
from typing import NamedTuple

import pyarrow as pa

from cascade_batch.collection.regenerating.spool import ROWS, Spool
from cascade_batch.pipeline.runners.runner import Tables
from cascade_batch.prompts import PromptTable
from cascade_batch.workers.keying import Keying, keyed_rows


class RowRange(NamedTuple):
    """Consecutive rows of one prompt file."""

    file: int
    first_row: int
    rows: int


def row_ranges(table: PromptTable, limit: int | None) -> list[RowRange]:
    """The first `limit` prompts of a table in ranges of at most `spool.ROWS`."""
    left, found = table.rows if limit is None else limit, []
    for number, file in enumerate(table.files):
        rows = min(file.rows, left)
        left -= rows
        found += [RowRange(number, first, min(ROWS, rows - first)) for first in range(0, rows, ROWS)]
    return found


def keyed_range(keying: Keying, rows: RowRange) -> pa.Table:
    """`workers.keying.KEYED`, the table's own columns, and `file`."""
    keyed = keyed_rows(keying, *rows)
    return keyed.append_column("file", pa.array([rows.file] * keyed.num_rows, pa.int32()))


def key_table(keying: Keying, ranges: list[RowRange], spool: Spool, tables: Tables) -> None:
    """Put the images of all ranges into the spool, in order.

    Raises as `workers.keying.keyed_rows` does.
    """
    for part in tables.mapped(partial(keyed_range, keying), ranges):
        spool.append(part)
    if not ranges:
        spool.append(keyed_range(keying, RowRange(0, 0, 0)))
