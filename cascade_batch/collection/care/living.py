"""What a collection's editions refer to, and what of its runs and tables none of them does. Reads only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from cascade_batch.collection import paths
from cascade_batch.collection.columns import Column, chosen, is_among, valid
from cascade_batch.collection.delta.table import DeltaTableAt
from cascade_batch.collection.editions import Edition
from cascade_batch.collection.place import Collection
from cascade_batch.run import parquet
from cascade_batch.run import paths as run_paths
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import is_absolute

_URIS = ("image_uri", "embedding_uri")
_TABLES = (f"{paths.TABLE}/", f"{paths.KNOWN}/")
NOTHING = pa.array([], pa.string())


def uris_of(table: DeltaTableAt, version: int) -> pa.Array:
    """Every picture and embedding shard that a version refers to, once; those of imported runs are left out."""
    rows = table.read(list(_URIS), version=version)
    uris = union(chunk for name in _URIS for chunk in rows[name].chunks).drop_null()
    return uris.filter(pa.array(_inside(uris)))


def _inside(uris: Column) -> np.ndarray:
    """Whether each URI lies in the collection, (n,) bool; never for null."""
    return np.array([uri is not None and uri.startswith(paths.RUNS) for uri in uris.to_pylist()], bool)


def union(arrays: Iterable[pa.Array]) -> pa.Array:
    """All values, once."""
    return pa.chunked_array([NOTHING, *arrays]).unique()


def run_storage(collection: Collection, run: str) -> Storage:
    """Where a run lies that a row names: in the collection, or elsewhere."""
    return Storage(run if is_absolute(run) else collection.storage.url(run))


def needed_by(collection: Collection, edition: Edition) -> pa.Array:
    """Keys of all objects of this collection that an edition's rows are in or refer to."""
    files = [f"{paths.TABLE}/{key}" for key in collection.table.files(edition.number)]
    return union([uris_of(collection.table, edition.number), pa.array(files, pa.string())])


@dataclass(frozen=True)
class Objects:
    """Some of a collection's objects: keys, roots of their runs ("" for none), bytes, and seconds since the epoch by
    the store's clock, NaN if untold."""

    keys: pa.Array
    runs: pa.Array
    sizes: np.ndarray
    modified: np.ndarray

    @classmethod
    def below(cls, storage: Storage, *prefixes: str) -> "Objects":
        found = [info for prefix in prefixes for info in storage.list(prefix)]
        times = [np.nan if info.modified is None else info.modified for info in found]
        return cls(
            pa.array([info.key for info in found], pa.string()),
            pa.array([_run_of(info.key) for info in found], pa.string()),
            np.array([info.size for info in found], np.int64),
            np.array(times, np.float64),
        )

    def where(self, mask: np.ndarray) -> "Objects":
        chosen_ones = pa.array(mask)
        keys, runs = self.keys.filter(chosen_ones), self.runs.filter(chosen_ones)
        return Objects(keys, runs, self.sizes[mask], self.modified[mask])

    def are(self, *prefixes: str) -> np.ndarray:
        """Whether each key within its run, or within the collection if it is of none, starts so, (n,) bool."""
        pairs = zip(self.keys.to_pylist(), self.runs.to_pylist(), strict=True)
        return np.array([key[len(run) + bool(run) :].startswith(prefixes) for key, run in pairs], bool)

    @property
    def bytes(self) -> int:
        return int(self.sizes.sum())

    def __len__(self) -> int:
        return len(self.keys)


def _run_of(key: str) -> str:
    name, slash, _ = key.removeprefix(paths.RUNS).partition("/")
    return paths.run_root(name) if slash and key.startswith(paths.RUNS) else ""


@dataclass(frozen=True)
class Census:
    """What lives and what does not, at one moment.

    A run that is in no edition of the history, of a regeneration that was killed, and that somebody is perhaps about to
    go on with, waits: it is left alone, and so is what is known of it, until nothing was written to it for the grace
    period. A run that was imported is nobody's to delete here, wherever it lies.
    """

    collection: Collection
    history: Sequence[Edition]
    """All editions, the newest first."""
    kept: Sequence[Edition]
    now: float
    """By the store's clock."""
    grace_s: float
    known_version: int
    objects: Objects = field(repr=False)
    """Below `runs/`, and the data files of both tables."""

    @classmethod
    def take(
        cls, collection: Collection, history: Sequence[Edition], keep: int, now: float, grace_s: float
    ) -> "Census":
        objects = Objects.below(collection.storage, paths.RUNS, *_TABLES)
        version = collection.known.version()
        return cls(collection, history, history[:keep], now, grace_s, version, objects)

    @cached_property
    def live(self) -> pa.Array:
        """What kept editions refer to."""
        return union(uris_of(self.collection.table, edition.number) for edition in self.kept)

    @cached_property
    def unfinished_runs(self) -> list[str]:
        """Runs that no edition of the history has anything in, young or old."""
        in_editions = [run for e in self.history for run in (*e.runs, e.run) if run is not None]
        alive = self.objects.where(is_among(self.objects.keys, self.live)).runs
        told = union([pa.array(in_editions, pa.string()), alive, pa.array([""])])
        runs = self.objects.runs.unique()
        return sorted(runs.filter(pa.array(~is_among(runs, told))).to_pylist())

    @cached_property
    def waiting_runs(self) -> pa.Array:
        """Of those the young ones; if the store tells no time they are for ever young."""
        times = pa.table({"run": self.objects.runs, "time": self.objects.modified})
        last = times.group_by("run").aggregate([("time", "max")])
        newest = dict(zip(last["run"].to_pylist(), last["time_max"].to_pylist(), strict=True))
        young = [run for run in self.unfinished_runs if not self.now - newest[run] >= self.grace_s]
        return pa.array(young, pa.string())

    @cached_property
    def forgotten(self) -> pa.Table:
        """Rows of `known` that must leave it, because what they lead to is to go: `image_uri`, `embedding_uri`."""
        rows = self._known
        images, embeddings = rows["image_uri"], rows["embedding_uri"]
        uris = chosen(valid(images), images, embeddings)
        stays = is_among(uris, union([self.live, self._needed_by_left]))
        stays |= is_among(rows["run"], self._left_runs) | ~_inside(uris)
        return rows.filter(pa.array(~stays))

    @cached_property
    def dead(self) -> Objects:
        """Objects that nothing needs: of runs that no kept edition refers to all, of others pictures and embeddings."""
        objects = self.objects
        is_needed = is_among(objects.keys, union([self.live, self._needed_by_left, self._data_files]))
        in_tables = is_among(objects.runs, pa.array([""]))
        of_needed_runs = is_among(objects.runs, objects.where(is_needed).runs.unique())
        may_go = objects.are(run_paths.IMAGES, run_paths.EMBEDDINGS) | ~of_needed_runs
        may_go &= ~in_tables & ~is_among(objects.runs, self._left_runs)
        may_go |= in_tables & ~objects.are(*(f"{table}{paths.LOG}" for table in _TABLES))
        return objects.where(may_go & ~is_needed)

    @property
    def whole_runs(self) -> list[str]:
        """Runs that are dead altogether."""
        return sorted(self.dead.where(self.dead.are(run_paths.RUN)).runs.to_pylist())

    @cached_property
    def _left_runs(self) -> pa.Array:
        """Runs that are not touched."""
        imported = self._known.filter(self._known["rendered_in"].is_null())["run"]
        return union([self.waiting_runs, *imported.chunks])

    @cached_property
    def _known(self) -> pa.Table:
        return self.collection.known.read(["run", "rendered_in", *_URIS], version=self.known_version)

    @cached_property
    def _needed_by_left(self) -> pa.Array:
        """What is known of runs that are left alone, and the embeddings that unfinished ones are going to take."""
        rows = self._known.filter(pa.array(is_among(self._known["run"], self._left_runs)))
        known = [chunk for name in _URIS for chunk in rows[name].chunks]
        return union([*known, *(self._sources(run) for run in self.waiting_runs.to_pylist())])

    def _sources(self, run: str) -> pa.Array:
        storage, key = self.collection.storage, f"{run}/{run_paths.SOURCES}"
        if not storage.exists(key):
            return NOTHING
        uris = parquet.from_bytes(storage.read(key), key, columns=["embedding_uri"])["embedding_uri"].unique()
        inside = f"{storage.uri}/"
        return pa.array([uri and uri.removeprefix(inside) for uri in uris.to_pylist()], pa.string())

    @cached_property
    def _data_files(self) -> pa.Array:
        """Files of the versions that can be read afterwards, with their folders."""
        table, known = self.collection.table, self.collection.known
        files = {f"{paths.KNOWN}/{key}" for key in known.files(self.known_version)}
        for version in (*(edition.number for edition in self.kept), None):
            files |= {f"{paths.TABLE}/{key}" for key in table.files(version)}
        return pa.array(sorted(files), pa.string())
