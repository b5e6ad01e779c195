"""Making what a run has rendered known to a collection: every good picture and embedding, by its stage keys.

Nothing is copied. A run that was killed is learnt from as well: what it has committed is as good as any other.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cascade_batch.collection.columns import Column, chosen
from cascade_batch.collection.place import Collection
from cascade_batch.collection.regenerating.in_process import InProcess
from cascade_batch.collection.schemas import BITS, KNOWN
from cascade_batch.model.stages import STAGES
from cascade_batch.run import parquet, paths
from cascade_batch.run.embeddings import committed_embeddings
from cascade_batch.run.manifest import committed_shards, read_manifests
from cascade_batch.run.run import Run, open_existing
from cascade_batch.storage.urls import is_absolute

_COSTS = tuple(name for name, _ in BITS)
_PICTURE = ("image_uri", "image_bytes", "image_sha256", "pixel_sha256", "stage_ba_key")
_FROM_MANIFEST = [
    "status",
    *_PICTURE,
    "embedding_uri",
    "embedding_row",
    "embedding_sha256",
    "stage_c_key",
    *(stage.cost(name) for name in _COSTS for stage in STAGES),
    "versions",
    "encoder",
]
_FROM_EMBEDDINGS = ["embedding_sha256", "status", "stage_c_key", *_COSTS]
_PLACE = ["image_uri", "embedding_uri", "embedding_row"]
ROWS_PER_COMMIT = 500_000
"""Rows that are in memory at once; a run of more is learnt in several commits."""


@dataclass(frozen=True)
class Source:
    """A run, as a collection names it."""

    run: Run
    name: str
    """Relative to the collection's root, or absolute for a run elsewhere."""
    rendered_in: int | None
    """The edition that it was rendered for, None for a run that was imported."""

    def uri(self, key: str) -> str:
        """An object of the run, or of the run that it refers to, as the collection names it."""
        return key if is_absolute(key) else f"{self.name}/{key}"


def source_of(collection: Collection, name: str, rendered_in: int | None) -> Source:
    """Raises StorageError if there is no run, SpecError for one of a format that is not read."""
    uri = name if is_absolute(name) else collection.storage.url(name)
    return Source(open_existing(uri), name, rendered_in)


def learn(collection: Collection, source: Source, token: str, metadata: dict[str, object]) -> int:
    """Add what the run has and the collection has not; again the same adds nothing. Returns the rows that were added.

    Args:
        metadata: of the last commit, which is made in any case.
    """
    added, waiting = 0, _nothing()
    for rows in known_rows(source):
        waiting = pa.concat_tables([waiting, rows])
        if waiting.num_rows >= ROWS_PER_COMMIT:
            added += _append(collection, waiting, {}, f"{token}-{added}")
            waiting = _nothing()
    return added + _append(collection, waiting, metadata, token)


def _append(collection: Collection, rows: pa.Table, metadata: dict[str, object], token: str) -> int:
    version = collection.known.version()
    read, files = collection.known.readers(_PLACE, version=version)
    stored = InProcess().are_among(_places(rows), lambda file: _places(read(file)).combine_chunks(), files)
    new = rows.filter(pa.array(~stored))
    collection.known.append(new, after=version, metadata=metadata, token=token)
    return new.num_rows


def _places(rows: pa.Table) -> pa.ChunkedArray:
    """Where the picture of each row lies, or, of an embedding alone, that."""
    joined = pc.call_function(
        "binary_join_element_wise", [rows["embedding_uri"], rows["embedding_row"].cast(pa.string()), "#"]
    )
    return pc.call_function("coalesce", [rows["image_uri"], joined])


def known_rows(source: Source) -> Iterator[pa.Table]:
    """`KNOWN` rows of a run's good pictures and embeddings, a few shards at a time."""
    run = source.run
    done = committed_shards(run.storage, run.planned) & run.planned
    for _, manifest in read_manifests(run.storage, sorted(done), _FROM_MANIFEST):
        yield _from_manifest(manifest, source)
    embedded = committed_embeddings(run.storage, run.planned) & run.planned
    for shard in sorted(embedded - done):
        key = paths.embeddings_key(shard)
        stored = parquet.from_bytes(run.storage.read(key), key, columns=_FROM_EMBEDDINGS)
        yield _from_embeddings(stored, key, source)


def _from_manifest(manifest: pa.Table, source: Source) -> pa.Table:
    """Good pictures, and the embeddings of pictures that failed after Stage C."""
    manifest = manifest.filter(pc.field("embedding_sha256").is_valid() & pc.field("stage_c_key").is_valid())
    failed = manifest["status"].to_numpy() != "ok"
    columns: dict[str, Column] = {name: manifest[name] for name in manifest.column_names}
    for name in _PICTURE:
        kind = manifest[name].type
        columns[name] = chosen(failed, pa.scalar(None, kind), manifest[name])
    return _as_known(columns, source, manifest.num_rows)


def _from_embeddings(stored: pa.Table, key: str, source: Source) -> pa.Table:
    rows = pa.array(np.arange(stored.num_rows, dtype=np.int32))
    stored = stored.append_column("embedding_row", rows).filter(
        (pc.field("status") == "ok") & pc.field("stage_c_key").is_valid()
    )
    columns: dict[str, Column] = {
        "stage_c_key": stored["stage_c_key"],
        "embedding_row": stored["embedding_row"],
        "embedding_sha256": stored["embedding_sha256"],
        "embedding_uri": pa.array([key] * stored.num_rows, pa.string()),
        **{STAGES.c.cost(name): stored[name] for name in _COSTS},
    }
    return _as_known(columns, source, stored.num_rows)


def _as_known(columns: dict[str, Column], source: Source, rows: int) -> pa.Table:
    for name in ("image_uri", "embedding_uri"):
        if name in columns:
            uris = columns[name].to_pylist()
            columns[name] = pa.array([None if uri is None else source.uri(uri) for uri in uris], pa.string())
    shared = {"run": source.name, "rendered_in": source.rendered_in}
    found = {
        field.name: columns[field.name].cast(field.type)
        if field.name in columns
        else pa.array([shared.get(field.name)] * rows, field.type)
        for field in KNOWN
    }
    return pa.table(found, schema=KNOWN)


def _nothing() -> pa.Table:
    return KNOWN.empty_table()
