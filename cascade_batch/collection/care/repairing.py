"""Rendering again what an edition refers to and what is damaged or gone, in the run that it lay in.

The picture comes back under its own URI. Where its bytes are others, since another kind of device went on, what is
known and then a new edition say so; each step may be repeated after a death.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cascade_batch import weights
from cascade_batch.collection.care.living import run_storage
from cascade_batch.collection.care.verifying import EditionCheck
from cascade_batch.collection.columns import differing
from cascade_batch.collection.editions import REPAIRED, Edition
from cascade_batch.collection.lease import Lease
from cascade_batch.collection.paths import RUNS
from cascade_batch.collection.place import Collection
from cascade_batch.collection.regenerating.in_process import InProcess
from cascade_batch.collection.regenerating.known import Known
from cascade_batch.collection.regenerating.learning import source_of
from cascade_batch.collection.regenerating.rendering import KnownEmbeddings
from cascade_batch.collection.schemas import KNOWN
from cascade_batch.errors import WeightsError
from cascade_batch.pipeline import sitting
from cascade_batch.pipeline.pinning import fixed_weights
from cascade_batch.pipeline.runners.runner import Runner
from cascade_batch.run import paths as run_paths
from cascade_batch.run.embeddings import read_embeddings
from cascade_batch.run.manifest import committed_shards, read_manifest
from cascade_batch.run.run import Run, open_existing
from cascade_batch.run.verify import reopen
from cascade_batch.settings import Spec

_PICTURE = ("image_uri", "image_bytes", "image_sha256", "pixel_sha256")
_BITS = tuple(name for name in KNOWN.names if name.startswith("stage_") and not name.endswith("_key"))
PROMPTS = "prompts/"
"""Below a run of a collection: the rows that it was rendered from."""


@dataclass
class Repair:
    """What was done."""

    rendered: dict[str, int] = field(default_factory=dict)
    """Run -> shards that were rendered again."""
    forgotten: dict[str, int] = field(default_factory=dict)
    """Runs that are gone -> rows that left `known`, for the next regeneration to render."""
    left: list[str] = field(default_factory=list)
    """What could not be repaired, and why."""
    corrected: int = 0
    """Rows of the newest edition whose bytes are others now."""
    edition: Edition | None = None
    """The one that was committed for that."""


@dataclass
class _Fixes:
    """What lies now where something was damaged."""

    pictures: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """URI of the edition -> columns of an edition and of `known`."""
    embeddings: dict[tuple[str, int], str] = field(default_factory=dict)
    """(URI, row) -> sha256."""


def repair(
    collection: Collection,
    newest: Edition,
    checks: Iterable[EditionCheck],
    lease: Lease,
    make_runner: Callable[[], Runner],
    observer: sitting.Observer,
) -> Repair:
    """Make good what was found.

    Raises:
        WeightsError: a run's model is not there as it was; that run is as before.
        CascadeError: as `sitting.render` raises.
    """
    done, fixes, checks = Repair(), _Fixes(), list(checks)
    damaged: dict[str, list[str]] = {}
    for check in checks:
        for run, uris in check.damaged.items():
            damaged.setdefault(run, []).extend(uris)
    gone = {run for check in checks for run in check.gone_runs}
    for run in sorted(gone):
        lease.check()
        done.forgotten[run] = _forget(collection, run)
    for run, uris in sorted(damaged.items()):
        if not run.startswith(RUNS):
            done.left.append(
                f"{run}: a run outside the collection; cascade-batch verify --reopen mends it there"
            )
            continue
        lease.check()
        shards = _render_again(collection, run, uris, make_runner, observer)
        done.rendered[run] = len(shards)
        _look(collection, run, shards, set(uris), fixes, done)
    lease.check()
    _correct_known(collection, fixes)
    lease.check()
    _correct_edition(collection, newest, fixes, done)
    return done


def _forget(collection: Collection, run: str) -> int:
    known = collection.known
    after = known.version()
    rows = known.read(["run"], version=after, where=pc.field("run") == run).num_rows
    if rows:
        told = {"forgotten": run}
        known.delete(pa.array([run]), on="run", after=after, metadata=told, token=uuid.uuid4().hex)
    return rows


def _render_again(
    collection: Collection,
    run: str,
    uris: Iterable[str],
    make_runner: Callable[[], Runner],
    observer: sitting.Observer,
) -> list[int]:
    """Render the shards that these objects are of, as far as they are damaged. Returns those shards."""
    opened = open_existing(run_storage(collection, run).uri)
    shards = sorted({shard for uri in uris if (shard := _shard_of(uri)) is not None} & opened.planned)
    spec = _spec_of(opened)
    _check_weights(opened, spec, make_runner)  # before anything is taken back
    reopen(opened, shards)
    if not set(shards) <= committed_shards(opened.storage, shards):
        observer.note(f"{run}: rendering {len(shards)} shards again")
        known = Known(collection.storage, collection.known, collection.known.version(), InProcess())
        stored = KnownEmbeddings(known, complete=False) if spec.prompts.embeddings_from else None
        sitting.render(spec, make_runner, observer, stored=stored)
    return shards


def _spec_of(run: Run) -> Spec:
    """What the run was begun with, and where it and its prompts lie now."""
    spec = replace(run.spec, output=replace(run.spec.output, uri=run.storage.uri))
    if run.storage.list(PROMPTS):
        return replace(spec, prompts=replace(spec.prompts, uri=run.storage.url(PROMPTS)))
    return spec


def _check_weights(run: Run, spec: Spec, make_runner: Callable[[], Runner]) -> None:
    try:
        model = weights.Model.locate(spec.model).for_conditions(run.table.conditions)
        digests = make_runner().weight_digests(model, run.weights)
        fixed_weights(run.storage, digests, dict(run.weights))
    except WeightsError as error:
        raise WeightsError(
            "the run cannot be repaired with the weights that are there now; nothing was changed",
            where=run.storage.uri,
            got=f"{error.what}: {error.where}",
            expected=f"those of its {run_paths.WEIGHTS}",
            next_step="restore them where the run found them, or let the next regeneration render its pictures anew "
            "with the weights that it is given",
        ) from None


def _look(
    collection: Collection, run: str, shards: Iterable[int], damaged: set[str], fixes: _Fixes, done: Repair
) -> None:
    """What the run has now under the keys that were damaged."""
    source, at = source_of(collection, run, None), run_storage(collection, run)
    found: set[str] = set()
    for shard in sorted(committed_shards(at, list(shards)) & set(shards)):
        key = f"{run}/{run_paths.embeddings_key(shard)}"
        if key in damaged:
            hashes = read_embeddings(at, shard)["embedding_sha256"].to_pylist()
            fixes.embeddings |= {(key, row): sha for row, sha in enumerate(hashes) if sha is not None}
            found.add(key)
        manifest = read_manifest(at, shard, ["image_id", "status", *_PICTURE, *_BITS])
        rows = {row["image_id"]: row for row in manifest.to_pylist()}
        for uri in damaged:
            row = rows.get(_image_of(uri)) if _shard_of(uri) == shard else None
            if row is not None and row["status"] == "ok":
                fixes.pictures[uri] = row | {"image_uri": source.uri(row["image_uri"])}
                found.add(uri)
    done.left += [f"{uri}: it was not rendered; repeat the command" for uri in sorted(damaged - found)]


def _correct_known(collection: Collection, fixes: _Fixes) -> None:
    """In one commit, so that no death leaves `known` without what it knew."""
    known, after = collection.known, collection.known.version()
    rows = known.read(version=after, where=_affected(fixes))
    changed = pa.array(_changed(rows, _corrected(rows, fixes)))
    rows, told = rows.filter(changed), {"repaired": rows.num_rows}
    if rows.num_rows and rows["image_uri"].null_count:  # embeddings alone have no name to be merged on
        batches = (pa.table(batch) for batch in known.batches(version=after))
        all_rows = (batch for rows in batches for batch in _corrected(rows, fixes).to_batches())
        known.overwrite(all_rows, known.schema(after), after=after, metadata=told, token=uuid.uuid4().hex)
    elif rows.num_rows:
        corrected, uris = _corrected(rows, fixes), rows["image_uri"]
        known.merge(corrected, uris, on="image_uri", after=after, metadata=told, token=uuid.uuid4().hex)


def _correct_edition(collection: Collection, newest: Edition, fixes: _Fixes, done: Repair) -> None:
    table, after = collection.table, collection.table.version()
    rows = table.read(version=after, where=_affected(fixes))
    corrected = _corrected(rows, fixes)
    corrected = corrected.filter(pa.array(_changed(rows, corrected)))
    if not corrected.num_rows:
        return
    done.corrected = corrected.num_rows
    counts = replace(
        newest.counts, reused=newest.counts.images - newest.counts.failed, decoded=0, rendered=0, new=0, withdrawn=0,
        changed=done.corrected, carried=0,
    )  # fmt: skip
    done.edition = replace(
        newest, number=after + 1, kind=REPAIRED, name=None, created=datetime.now(UTC).isoformat(), counts=counts,
        run=None, of=newest.number,
    )  # fmt: skip
    told = {"edition": done.edition.to_json()}
    none = pa.array([], pa.string())
    table.merge(corrected, none, on="image_id", after=after, metadata=told, token=uuid.uuid4().hex)


def _changed(rows: pa.Table, corrected: pa.Table) -> np.ndarray:
    names = [name for name in (*_PICTURE, *_BITS, "embedding_sha256") if name in rows.column_names]
    return np.logical_or.reduce([differing(rows[name], corrected[name]) for name in names])


def _affected(fixes: _Fixes) -> pc.Expression:
    uris = pa.array(sorted(fixes.pictures), pa.string())
    shards = pa.array(sorted({uri for uri, _ in fixes.embeddings}), pa.string())
    return pc.field("image_uri").isin(uris) | pc.field("embedding_uri").isin(shards)


def _corrected(rows: pa.Table, fixes: _Fixes) -> pa.Table:
    """Rows of an edition or of `known`, of what lies there now; other columns are not touched."""
    uris = rows["image_uri"].to_pylist()
    for name in (*_PICTURE, *(name for name in _BITS if name in rows.column_names)):
        old = rows[name].to_pylist()
        new = [fixes.pictures.get(uri, {name: was})[name] for uri, was in zip(uris, old, strict=True)]
        rows = _with(rows, name, new)
    places = zip(
        rows["embedding_uri"].to_pylist(), rows["embedding_row"].to_pylist(), rows["embedding_sha256"].to_pylist(),
        strict=True,
    )  # fmt: skip
    return _with(
        rows, "embedding_sha256", [fixes.embeddings.get((uri, row), was) for uri, row, was in places]
    )


def _with(rows: pa.Table, name: str, values: list) -> pa.Table:
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, rows.schema.field(name), pa.array(values, rows.schema.field(name).type))


def _shard_of(uri: str) -> int | None:
    parts = uri.split("/")
    return run_paths.shard_of(uri) if uri.endswith(".parquet") else run_paths.shard_of(f"{parts[-2]}.parquet")


def _image_of(uri: str) -> str:
    """The image id of a picture in its run; ids have no dots."""
    return uri.rpartition("/")[2].partition(".")[0]
