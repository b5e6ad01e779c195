"""URIs in a run's tables: relative ones name objects of the run itself, absolute ones those of another."""

from cascade_batch.storage import Storage
from cascade_batch.storage.urls import is_absolute, split_key


def is_elsewhere(uri: str) -> bool:
    """Whether a URI points into another run; those within the run are relative."""
    return is_absolute(uri)


def locate(storage: Storage, uri: str) -> tuple[Storage, str]:
    """Where a URI of the run at `storage` lies: in this run, or in the other run that an absolute one names."""
    if not is_elsewhere(uri):
        return storage, uri
    root, key = split_key(uri)
    return Storage(root), key
