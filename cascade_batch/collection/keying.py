"""The keys of a whole prompt table, made in several processes, its text read once."""

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing import get_context
from typing import NamedTuple

import pyarrow as pa

from cascade_batch.collection.spool import ROWS, Spool
from cascade_batch.prompts import PromptTable
from cascade_batch.workers.keying import Keying, keyed_rows

ALONE = 20_000
"""Prompts that one process has keyed before others have started."""
AHEAD = 4
"""Parts in hand for each process: none waits for work, and memory holds no more."""


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


def key_table(keying: Keying, ranges: list[RowRange], spool: Spool) -> None:
    """Put the images of all ranges into the spool, in order.

    Raises as `workers.keying.keyed_rows` does.
    """
    with _executor(sum(rows.rows for rows in ranges)) as (executor, processes):
        left = iter(ranges)
        waiting = [executor.submit(keyed_range, keying, r) for r in islice(left, processes * AHEAD)]
        while waiting:
            spool.append(waiting.pop(0).result())
            waiting += [executor.submit(keyed_range, keying, r) for r in islice(left, 1)]


@contextmanager
def _executor(rows: int) -> Iterator[tuple[Executor, int]]:
    """Processes, because most of the work is Python's; a thread where they would cost more than they save."""
    processes = max(1, os.cpu_count() or 1)
    if rows <= ALONE or processes == 1:
        with ThreadPoolExecutor(1) as executor:
            yield executor, 1
        return
    start = partial(ProcessPoolExecutor, mp_context=get_context("forkserver"))
    with start(processes) as executor:
        yield executor, processes
