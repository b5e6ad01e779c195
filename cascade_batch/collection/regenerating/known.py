"""What a collection has already, looked up by stage key."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial, reduce
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cascade_batch.collection.columns import places, taken
from cascade_batch.collection.delta.table import DataFile, DeltaTableAt
from cascade_batch.collection.regenerating.in_process import at_once
from cascade_batch.collection.schemas import KNOWN
from cascade_batch.pipeline.runners.runner import Tables
from cascade_batch.run import paths
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import is_absolute

THREADS = 32
"""Runs that are looked for at once."""
REFERENCES = (
    "run",
    "image_uri",
    "image_bytes",
    "image_sha256",
    "pixel_sha256",
    "embedding_uri",
    "embedding_row",
    "embedding_sha256",
    "rendered_in",
)
"""What a row of an edition takes over from a picture that is known."""


@dataclass(frozen=True)
class Known:
    """The table of known pictures at one version. Reads only the columns and rows that are asked for."""

    storage: Storage
    """Of the collection."""
    table: DeltaTableAt
    version: int
    tables: Tables
    bits: Mapping[str, object] = field(default_factory=dict)
    """Column -> value that a picture must have besides its key; none: the key is enough."""

    @cached_property
    def gone(self) -> set[str]:
        """Runs that are known, but stand no more: somebody has deleted them by hand."""
        runs: set[str] = set()
        for batch in self.table.batches(["run"], version=self.version):
            runs.update(batch["run"].unique().to_pylist())
        return gone_runs(self.storage, runs)

    def pictures(self, keys: pa.ChunkedArray) -> np.ndarray:
        """Whether the picture of each `stage_ba_key` is known, (n,) bool."""
        return self._are_among(keys, "stage_ba_key")

    def embeddings(self, keys: pa.ChunkedArray) -> np.ndarray:
        """Whether the embedding of each `stage_c_key` is known, (n,) bool."""
        return self._are_among(keys, "stage_c_key")

    def has(self, image_uris: pa.ChunkedArray) -> np.ndarray:
        """Whether each picture, by its URI, is one that may be used, (n,) bool."""
        return self._are_among(image_uris, "image_uri")

    def found(self, keys: pa.ChunkedArray) -> "Found":
        """The row of the picture of each `stage_ba_key`."""
        return self._found(keys, "stage_ba_key")

    def find(self, stage_c_keys: pa.Array | pa.ChunkedArray) -> pa.Table:
        """Where the embedding of each key is: `embedding_uri` (absolute), `embedding_row`, `embedding_sha256`."""
        columns = ("embedding_uri", "embedding_row", "embedding_sha256")
        found = self._found(stage_c_keys, "stage_c_key").rows(columns)
        uris = [None if uri is None else self.absolute(uri) for uri in found["embedding_uri"].to_pylist()]
        return found.set_column(0, "embedding_uri", pa.array(uris, pa.string()))

    def absolute(self, uri: str) -> str:
        """A URI of the collection's tables, from anywhere."""
        return uri if is_absolute(uri) else self.storage.url(uri)

    def _are_among(self, values: pa.ChunkedArray, name: str) -> np.ndarray:
        where = self._usable(embeddings=name == "stage_c_key")
        read, files = self.table.readers([name], version=self.version, where=where)
        return self.tables.are_among(values, partial(_column, read, name), files)

    def _found(self, keys: pa.Array | pa.ChunkedArray, name: str) -> "Found":
        where = self._usable(embeddings=name == "stage_c_key")
        read, files = self.table.readers([name], version=self.version, where=where)
        at, rows = np.full(len(keys), -1, np.int64), []
        for columns in at_once((_column(read, name, file) for file in files), len(keys)):
            here = places(keys, pa.chunked_array(columns))
            new = (at < 0) & (here >= 0)
            at[new] = sum(rows) + here[new]
            rows += map(len, columns)
        return Found(partial(self._reader, where=where), files, np.cumsum([0, *rows]), at)

    def _reader(self, columns: Sequence[str], where: pc.Expression | None) -> Callable[[DataFile], pa.Table]:
        return self.table.readers(list(columns), version=self.version, where=where)[0]

    def _usable(self, embeddings: bool) -> pc.Expression | None:
        """Rows whose run stands, of the bits that are wanted; of embeddings, whatever Stage B was rendered on."""
        bits = {name: value for name, value in self.bits.items() if not (embeddings and "_ba_" in name)}
        conditions = [pc.field(name) == value for name, value in bits.items()]
        if self.gone:
            conditions.append(~pc.field("run").isin(sorted(self.gone)))
        return reduce(operator.and_, conditions) if conditions else None


@dataclass(frozen=True)
class Found:
    """Rows of the table, one for each thing that was looked up. Files without any are not read."""

    reader: Callable[[Sequence[str]], Callable[[DataFile], pa.Table]]
    files: Sequence[DataFile]
    starts: np.ndarray
    """Number of the first row of each file, and of all."""
    at: np.ndarray
    """Number of the row, -1 where there is none, (n,) int64."""

    def rows(self, columns: Sequence[str], which: np.ndarray | slice = slice(None)) -> pa.Table:
        """Columns of these rows, null where there is none; `which`: only those of some things."""
        at, read = self.at[which], self.reader(columns)
        wanted = np.unique(at[at >= 0])
        cuts = pairwise(np.searchsorted(wanted, self.starts).tolist())
        pieces = [
            read(file).take(pa.array(wanted[first:last] - start))
            for file, start, (first, last) in zip(self.files, self.starts.tolist(), cuts, strict=False)
            if first < last
        ]
        if not pieces:
            schema = pa.schema([KNOWN.field(name) for name in columns])
            return pa.table([pa.nulls(len(at), field.type) for field in schema], schema=schema)
        found = pa.concat_tables(pieces)
        order = np.where(at < 0, -1, np.searchsorted(wanted, at))
        return pa.table({name: taken(found[name], order) for name in columns})


def _column(read: Callable[[DataFile], pa.Table], name: str, file: DataFile) -> pa.Array:
    return read(file)[name].combine_chunks()


def gone_runs(storage: Storage, runs: Iterable[str]) -> set[str]:
    """Those of a collection's runs that stand no more."""
    named = list(runs)
    with ThreadPoolExecutor(THREADS) as pool:
        stand = pool.map(lambda run: _stands(storage, run), named)
        return {run for run, stands in zip(named, stand, strict=True) if not stands}


def _stands(storage: Storage, run: str) -> bool:
    """Whether there is a run under the name that a collection has for it."""
    at = Storage(run) if is_absolute(run) else storage
    return at.exists(paths.RUN if is_absolute(run) else f"{run}/{paths.RUN}")


assert set(REFERENCES) <= set(KNOWN.names)
