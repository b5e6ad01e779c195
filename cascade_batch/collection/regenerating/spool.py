"""The images of a prompt table with their keys, on local disk while one command works with them.

A table of millions of prompts does not fit in memory with its texts and its own columns, and is to be read once; so
what is needed of it is read back column by column, or row by row.
"""

import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

ROWS = 2**15
"""Of a part, about: what is read back at once."""


class Spool:
    """Parts of one table, in order. Removed when its context closes."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="cascade-batch-")
        self._parts: list[Path] = []
        self._starts = [0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    @property
    def rows(self) -> int:
        return self._starts[-1]

    def append(self, table: pa.Table) -> None:
        """One more part; all have one schema."""
        path = Path(self._folder.name) / f"{len(self._parts):08d}.arrow"
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema, options=options) as out:
            out.write_table(table.combine_chunks())
        self._parts.append(path)
        self._starts.append(self.rows + table.num_rows)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns of all rows."""
        return pa.concat_tables([self._read(part, names) for part in range(len(self._parts))])

    def take(self, rows: np.ndarray) -> pa.Table:
        """Whole rows, which are named in ascending order."""
        cuts = np.searchsorted(rows, self._starts)
        taken = [
            self._read(part).take(pa.array(rows[first:last] - self._starts[part]))
            for part, (first, last) in enumerate(pairwise(cuts.tolist()))
            if first < last
        ]
        return pa.concat_tables(taken) if taken else self._read(0).slice(0, 0)

    def parts(self) -> Iterator[pa.Table]:
        """One after the other."""
        return (self._read(part) for part in range(len(self._parts)))

    def _read(self, part: int, names: Sequence[str] | None = None) -> pa.Table:
        options = pa.ipc.IpcReadOptions(use_threads=False)
        with pa.OSFile(str(self._parts[part]), "rb") as file:
            if names is not None:
                schema = pa.ipc.open_file(file).schema
                options.included_fields = [schema.get_field_index(name) for name in names]
                file.seek(0)
            table = pa.ipc.open_file(file, options=options).read_all()
        return table if names is None else table.select(list(names))
