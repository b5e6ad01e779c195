"""Commands that are killed at every write, deletion and commit, one after the other.

Data files of Delta tables are written by `Storage`, their log by delta-rs: a death right after a data file is one right
before its commit, a death before the next write is one right after it.
"""

from collections.abc import Callable, Iterator

import pytest

from cascade_batch.collection import paths
from cascade_batch.collection.care import garbage
from cascade_batch.collection.place import Collection
from cascade_batch.storage import Storage


class Dead(BaseException):
    """As SIGKILL: nothing of ours catches it."""


def deaths(
    fresh: Callable[[str], Collection],
    act: Callable[[Collection], object],
    after_it: bool,
    among: tuple[str, ...] = ("",),
) -> Iterator[Collection]:
    """Collections after an act that died one write later than the last one, until one is done.

    Args:
        fresh: a collection of a given name, as it was before the act.
        after_it: the write has landed.
        among: what keys begin with that count.
    """
    for allowed in range(10_000):
        collection = fresh(str(allowed))
        with pytest.MonkeyPatch.context() as patch:
            _die_after(patch, allowed, after_it, among)
            try:
                act(collection)
                return
            except Dead:
                pass
        collection.storage.delete(paths.LEASE)  # as if it had expired
        yield collection


def _die_after(patch: pytest.MonkeyPatch, allowed: int, after_it: bool, among: tuple[str, ...]) -> None:
    left = [allowed]
    patch.setattr(garbage, "DELETERS", 1)
    for name in ("_put_once", "_delete_once"):
        patch.setattr(Storage, name, _dying(getattr(Storage, name), left, after_it, among))


def _dying(write: Callable, left: list[int], after_it: bool, among: tuple[str, ...]) -> Callable:
    def dying(storage: Storage, key: str, *rest: object) -> None:
        if left[0] >= 0 and (key == paths.LEASE or not key.startswith(among)):
            return write(storage, key, *rest)
        left[0] -= 1
        if left[0] == -1 and after_it:
            write(storage, key, *rest)
        if left[0] < 0:
            raise Dead(key)
        return write(storage, key, *rest)

    return dying
