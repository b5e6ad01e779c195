"""Tables that one machine holds: made in several processes, and joined by Arrow. `Tables` without a cluster."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from typing import Any

import numpy as np
import pyarrow as pa

from cascade_batch.collection.columns import is_among

AHEAD = 4
"""Parts in hand for each process: none waits for work, and memory holds no more."""


class InProcess:
    """`Tables` of this machine."""

    def mapped(self, make: Callable[[Any], pa.Table], items: Sequence[Any]) -> Iterator[pa.Table]:
        """The tables made of the items, in their order. Raises as `make` does."""
        with _executor(len(items)) as (executor, processes):
            left = iter(items)
            waiting = [executor.submit(make, item) for item in islice(left, processes * AHEAD)]
            while waiting:
                yield waiting.pop(0).result()
                waiting += [executor.submit(make, item) for item in islice(left, 1)]

    def are_among(
        self, values: pa.ChunkedArray, read: Callable[[Any], pa.Array], items: Sequence[Any]
    ) -> np.ndarray:
        """Whether any item's column has each value, (n,) bool; never for null."""
        columns = [read(item) for item in items]
        return is_among(values, pa.chunked_array(columns, values.type))


@contextmanager
def _executor(items: int) -> Iterator[tuple[Executor, int]]:
    """Processes, because most of the work is Python's; a thread where they would cost more than they save."""
    processes = min(items, os.cpu_count() or 1)
    if processes <= 1:
        with ThreadPoolExecutor(1) as executor:
            yield executor, 1
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("forkserver")) as executor:
        yield executor, processes
