"""What a collection has already, looked up by stage key."""

import operator
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from cascade_batch.collection.columns import is_among, places, taken
from cascade_batch.collection.delta import DeltaTableAt
from cascade_batch.collection.schemas import KNOWN
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
    bits: Mapping[str, object] = field(default_factory=dict)
    """Column -> value that a picture must have besides its key; none: the key is enough."""

    @cached_property
    def gone(self) -> set[str]:
        """Runs that are known, but stand no more: somebody has deleted them by hand."""
        runs = self.table.read(["run"], version=self.version)["run"].unique().to_pylist()
        return gone_runs(self.storage, runs)

    def pictures(self, keys: pa.ChunkedArray) -> np.ndarray:
        """Whether the picture of each `stage_ba_key` is known, (n,) bool."""
        return is_among(keys, self._read(["stage_ba_key"])["stage_ba_key"])

    def embeddings(self, keys: pa.ChunkedArray) -> np.ndarray:
        """Whether the embedding of each `stage_c_key` is known, (n,) bool."""
        return is_among(keys, self._read(["stage_c_key"], embeddings=True)["stage_c_key"])

    def has(self, image_uris: pa.ChunkedArray) -> np.ndarray:
        """Whether each picture, by its URI, is one that may be used, (n,) bool."""
        return is_among(image_uris, self._read(["image_uri"])["image_uri"])

    def references(self, keys: pa.ChunkedArray) -> pa.Table:
        """`REFERENCES` of the picture of each `stage_ba_key`, null where there is none."""
        return self._of(keys, "stage_ba_key", REFERENCES)

    def find(self, stage_c_keys: pa.Array | pa.ChunkedArray) -> pa.Table:
        """Where the embedding of each key is: `embedding_uri` (absolute), `embedding_row`, `embedding_sha256`."""
        found = self._of(stage_c_keys, "stage_c_key", ("embedding_uri", "embedding_row", "embedding_sha256"))
        uris = [None if uri is None else self.absolute(uri) for uri in found["embedding_uri"].to_pylist()]
        return found.set_column(0, "embedding_uri", pa.array(uris, pa.string()))

    def absolute(self, uri: str) -> str:
        """A URI of the collection's tables, from anywhere."""
        return uri if is_absolute(uri) else self.storage.url(uri)

    def _of(self, keys: pa.Array | pa.ChunkedArray, name: str, columns: tuple[str, ...]) -> pa.Table:
        asked = keys.unique().drop_null()
        found = self._read(
            [name, *columns], where=pc.field(name).isin(asked), embeddings=name == "stage_c_key"
        )
        at = places(keys, found[name])
        return pa.table({name: taken(found[name], at) for name in columns})

    def _read(
        self, columns: list[str], where: ds.Expression | None = None, embeddings: bool = False
    ) -> pa.Table:
        """Rows whose run stands, of the bits that are wanted; `embeddings`: whatever Stage B was rendered on."""
        conditions = [] if where is None else [where]
        if self.gone:
            conditions.append(~pc.field("run").isin(sorted(self.gone)))
        bits = {name: value for name, value in self.bits.items() if not (embeddings and "_ba_" in name)}
        conditions += [pc.field(name) == value for name, value in bits.items()]
        wanted = reduce(operator.and_, conditions) if conditions else None
        return self.table.read(columns, version=self.version, where=wanted)


def gone_runs(storage: Storage, runs: Iterable[str]) -> set[str]:
    """Those of a collection's runs that stand no more."""
    named = list(runs)
    with ThreadPoolExecutor(THREADS) as pool:
        stand = pool.map(lambda run: _stands(storage, run), named)
        return {run for run, stands in zip(named, stand, strict=True) if not stands}


def _stands(storage: Storage, run: str) -> bool:
    at = Storage(run) if is_absolute(run) else storage
    return at.exists(paths.RUN if is_absolute(run) else f"{run}/{paths.RUN}")


assert set(REFERENCES) <= set(KNOWN.names)
