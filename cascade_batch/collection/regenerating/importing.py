"""Making a run that was rendered outside a collection known to it, without copying anything."""

import uuid

from cascade_batch.collection.lease import IfBusy, holding
from cascade_batch.collection.place import Collection
from cascade_batch.collection.regenerating.learning import learn, source_of
from cascade_batch.errors import SpecError
from cascade_batch.run.manifest import committed_shards, read_manifests
from cascade_batch.run.run import Run
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import key_below


def import_run(collection: Collection, uri: str, if_busy: IfBusy = "fail") -> int:
    """Make a run's good pictures and embeddings known; returns how many were not known before.

    A run below the collection's root is named from there, any other one by its absolute place, and both are only
    referred to.

    Raises:
        StorageError: there is no run.
        SpecError: it is of a format that is not read, or has committed nothing.
        Busy: another process is at work on the collection.
    """
    name = key_below(collection.uri, uri) or Storage(uri).uri
    source = source_of(collection, name, rendered_in=None)
    if not committed_shards(source.run.storage, source.run.planned):
        raise SpecError("the run has committed nothing yet", where=uri, next_step="render it first")
    tables = (collection.table, collection.known)
    with holding(collection.storage, "import", if_busy=if_busy, tables=tables) as lease:
        lease.check()
        metadata = {"imported": name, "dtypes": _dtypes(source.run)}
        return learn(collection, source, uuid.uuid4().hex, metadata)


def _dtypes(run: Run) -> dict[str, str]:
    """What the run was computed in, by pool, as its first shard tells."""
    first = min(committed_shards(run.storage, run.planned))
    columns = ["stage_c_dtype", "stage_ba_dtype"]
    ((_, manifest),) = read_manifests(run.storage, [first], columns)
    c, ba = (manifest[name][0].as_py() for name in columns)
    return {"c": c, "ba": ba}
