"""Tables beyond what one process holds, through Ray Data: made in parts, and joined by a column."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import DataContext, Dataset

from cascade_batch.errors import CascadeError
from cascade_batch.pipeline.runners.ray_errors import in_our_words

ROWS_AT_ONCE = 2**20
"""Rows of a block that the driver hands to a join."""
ROWS_PER_PARTITION = 2**22
"""Rows of both sides of a join that one worker holds, about half a gigabyte of keys."""


class RayTables:
    """The `Tables` of a cluster."""

    def mapped(self, make: Callable[[Any], pa.Table], items: Sequence[Any]) -> Iterator[pa.Table]:
        """The tables that workers make of the items, in the items' order. Raises CascadeError as `make` does."""

        def packed(batch: pa.Table) -> pa.Table:
            table, error = None, None
            try:
                table = _packed(make(items[batch["item"][0].as_py()]))
            except CascadeError as raised:  # Ray would make a text of it
                error = pickle.dumps(raised)
            return pa.table({"table": pa.array([table], _BYTES), "error": pa.array([error], _BYTES)})

        with _settings(preserve_order=True):
            try:
                for batch in _of_items(items, packed).iter_batches(batch_size=1, batch_format="pyarrow"):
                    row: Any = batch
                    if (error := row["error"][0].as_py()) is not None:
                        raise pickle.loads(error)
                    yield _unpacked(row["table"][0])
            except CascadeError:
                raise
            except Exception as error:
                raise in_our_words(error) from error

    def are_among(
        self, values: pa.ChunkedArray, read: Callable[[Any], pa.Array], items: Sequence[Any]
    ) -> np.ndarray:
        """Whether any item's column has each value, (n,) bool; never for null."""

        def column(batch: pa.Table) -> pa.Table:
            return pa.table({"value": read(items[batch["item"][0].as_py()]).drop_null().unique()})

        found = np.zeros(len(values), bool)
        if not items or not len(values):
            return found
        with _settings():
            try:
                left, right = ray.data.from_arrow(_numbered(values)), _of_items(items, column)
                partitions = max(2, -(-2 * len(values) // ROWS_PER_PARTITION))
                joined = left.join(right, "inner", partitions, on=("value",)).select_columns(["place"])
                for batch in joined.iter_batches(batch_size=None, batch_format="pyarrow"):
                    found[np.asarray(batch["place"])] = True
            except Exception as error:
                raise in_our_words(error) from error
        return found


_BYTES = pa.large_binary()


def _of_items(items: Sequence[Any], make: Callable[[pa.Table], pa.Table]) -> Dataset:
    numbers = ray.data.from_items(
        [{"item": number} for number in range(len(items))], override_num_blocks=len(items)
    )
    return numbers.map_batches(make, batch_size=1, batch_format="pyarrow", num_cpus=1)


def _numbered(values: pa.ChunkedArray) -> list[pa.Table]:
    places = pa.chunked_array([np.arange(len(values))])
    whole = pa.table({"place": places, "value": values})
    return [whole.slice(start, ROWS_AT_ONCE) for start in range(0, len(values), ROWS_AT_ONCE)]


def _packed(table: pa.Table) -> bytes:
    """As one value, whose types Ray cannot change."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def _unpacked(value: pa.Scalar) -> pa.Table:
    return pa.ipc.open_stream(value.as_buffer()).read_all()


@contextmanager
def _settings(preserve_order: bool = False) -> Iterator[None]:
    context = DataContext.get_current()
    before = context.execution_options.preserve_order, context.enable_progress_bars
    context.execution_options.preserve_order, context.enable_progress_bars = preserve_order, False
    try:
        yield
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before
