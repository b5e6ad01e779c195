"""Which shards have an object in a folder of the run, told by names alone."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from cascade_batch.run import paths
from cascade_batch.storage import Storage

LISTINGS = 8
"""Requests at once: the store makes one page while this process reads another."""


def listed_shards(storage: Storage, folder: str, among: Collection[int] | None = None) -> set[int]:
    """Shards with an object in `folder`, which may be more than those asked for.

    Args:
        among: only these matter. A store that lists by prefix is asked for their names alone, several pages at once;
            None: one listing of the whole folder.
    """
    by_prefix = among is not None and storage.lists_by_prefix
    prefixes = paths.shard_prefixes(folder, among or ()) if by_prefix else [folder]
    with ThreadPoolExecutor(LISTINGS) as listings:
        keys = (info.key for infos in listings.map(storage.list, prefixes) for info in infos)
        return {shard for shard in map(paths.shard_of, keys) if shard is not None}
