"""Tables that one machine holds: made in several processes, and joined by Arrow. `Tables` without a cluster."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import islice
from multiprocessing import get_context
from typing import Any

import numpy as np
import pyarrow as pa

from cascade_batch.collection.columns import FEW, is_among

AHEAD = 4
"""Parts in hand for each process: none waits for work, and memory holds no more."""


ROWS_AT_ONCE = 2**20
"""Rows among which something is looked up at once, at least."""


class InProcess:
    """`Tables` of this machine."""

    def __init__(self, processes: int | None = None) -> None:
        """`processes`: None is one for each core. Processes, because most of the work is Python's."""
        self._processes = processes or os.cpu_count() or 1

    def mapped(self, make: Callable[[Any], pa.Table], items: Sequence[Any]) -> Iterator[pa.Table]:
        """The tables made of the items, in their order. Raises as `make` does."""
        processes = min(len(items), self._processes)
        with _executor(processes) as executor:
            left = iter(items)
            waiting = [executor.submit(make, item) for item in islice(left, max(1, processes) * AHEAD)]
            while waiting:
                yield waiting.pop(0).result()
                waiting += [executor.submit(make, item) for item in islice(left, 1)]

    def are_among(
        self, values: pa.ChunkedArray, read: Callable[[Any], pa.Array], items: Sequence[Any]
    ) -> np.ndarray:
        """Whether any item's column has each value, (n,) bool; never for null."""
        found = np.zeros(len(values), bool)
        for columns in at_once((read(item) for item in items), len(values)):
            found |= is_among(values, pa.chunked_array(columns, values.type))
        return found


def at_once(columns: Iterable[pa.Array], values: int) -> Iterator[list[pa.Array]]:
    """The columns in groups to look up so many values among: few enough for memory, large enough for few passes."""
    waiting, rows = [], 0
    for column in columns:
        waiting.append(column)
        rows += len(column)
        if rows >= max(ROWS_AT_ONCE, values // FEW):
            yield waiting
            waiting, rows = [], 0
    if waiting:
        yield waiting


def _executor(processes: int) -> Executor:
    """A thread where one process is enough: others cost a second to start."""
    if processes <= 1:
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(processes, mp_context=get_context("forkserver"))
