"""Whose stored embeddings `--embeddings-from` names."""

from functools import partial

from cascade_batch.collection.place import is_collection
from cascade_batch.collection.regenerating.rendering import known_embeddings
from cascade_batch.errors import SpecError
from cascade_batch.run import paths
from cascade_batch.run.stored import LateEmbeddings, StoredEmbeddings, stored_in
from cascade_batch.storage import Storage


def stored_embeddings(uri: str | None) -> StoredEmbeddings | None:
    """The embeddings of what is at a URI, which is looked at only when it is asked for some."""
    return None if uri is None else LateEmbeddings(partial(_stored_at, uri))


def _stored_at(uri: str) -> StoredEmbeddings:
    storage = Storage(uri)
    if storage.exists(paths.RUN):
        return stored_in(uri)
    if is_collection(uri):
        return known_embeddings(uri)
    there = sorted({info.key.split("/")[0] for info in storage.list()})
    raise SpecError(
        "there are no embeddings to take",
        where=f"prompts.embeddings_from={uri}",
        got=", ".join(there[:10]) or "nothing there",
        expected=f"a run, with {paths.RUN} in it, or a collection",
    )
