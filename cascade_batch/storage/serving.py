"""Which store serves which URL."""

from cascade_batch.storage.hub import HubFiles
from cascade_batch.storage.local import LocalFiles
from cascade_batch.storage.remote import RemoteObjects
from cascade_batch.storage.store import Store
from cascade_batch.storage.urls import is_model_url, is_web, local_path
from cascade_batch.storage.web import WebFiles


def store_at(uri: str, query: str = "") -> Store:
    """The store of a root; `query` goes with every request to a web server.

    Connects nothing yet. Raises StorageError for a protocol that nothing installed speaks.
    """
    path = local_path(uri)
    if path is not None:
        return LocalFiles(path)
    if is_web(uri):
        return WebFiles(uri, query)
    if is_model_url(uri):
        return HubFiles(uri)
    return RemoteObjects(uri)
