"""Everything this package reads or writes goes through one class: `Storage`.

A `Storage` is a root, a local folder or a prefix on any fsspec URL, and speaks in keys relative to
it. It knows nothing of runs. Its promises: an object is whole when visible; `create` never
overwrites; transient failures are retried, permanent ones raise one `StorageError` without
credentials in it. Only the `_..._once` methods touch objects, so a test can make any n-th
access fail, before or after it landed.
"""

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from cascade_batch.errors import StorageError
from cascade_batch.storage.failures import retried
from cascade_batch.storage.local import TEMPORARY
from cascade_batch.storage.objects import ObjectChanged, ObjectExists, ObjectInfo, ObjectInfos, ObjectMissing
from cascade_batch.storage.ranges import buffered
from cascade_batch.storage.serving import store_at
from cascade_batch.storage.store import Store
from cascade_batch.storage.urls import check_url, local_path

DOWNLOAD_RANGE = 32 * 2**20  # bytes per request
DOWNLOAD_THREADS = 8

Result = TypeVar("Result")
WriteMode = Literal["create", "put", "replace"]
log = logging.getLogger(__name__)


class Storage:
    """One root on a local path or an fsspec URL. Cheap to make (no I/O), picklable, safe in threads.

    `create_only` starts True; the run sets it to what `probe_create_only` answered. Every method
    raises StorageError for what the store refuses.
    """

    def __init__(self, uri: str, query: str = "") -> None:
        """Raises SpecError for a URL with credentials in it, and for what is only nearly a URL.

        `query` goes with every request to a web server: a signature perhaps, so it is in no `url` and no message.
        """
        check_url(uri)
        path = local_path(uri)
        self.is_local = path is not None
        self.uri = uri.rstrip("/") if path is None else path
        self.create_only = True
        self._query = query
        self._connected: tuple[int, Store] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_connected": None}

    def __repr__(self) -> str:
        return f"Storage({self.uri!r})"

    def url(self, key: str) -> str:
        """The full path or URL of `key`, for messages and for other programs."""
        return f"{self.uri}/{key}"

    def read(self, key: str) -> bytes:
        """All bytes of an object. Raises ObjectMissing."""
        return self._found(key, lambda: self._read_once(key, None, None))

    def read_head(self, key: str, nbytes: int) -> bytes:
        """The first `nbytes` bytes, fewer if the object is smaller. Raises ObjectMissing."""
        return self._found(key, lambda: self._read_once(key, 0, nbytes))

    def read_tail(self, key: str, nbytes: int) -> bytes:
        """The last `nbytes` bytes, fewer if the object is smaller. Raises ObjectMissing."""
        return self._found(key, lambda: self._read_once(key, -nbytes, None))

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of an object that has so many. Raises ObjectMissing."""
        return self._found(key, lambda: _whole(self._read_once(key, start, end), end - start))

    def open(self, key: str) -> BinaryIO:
        """A seekable binary file for reading; each read of a remote one is retried by itself."""
        path = self._store().local_file(key)
        if path is not None:
            return self._found(key, lambda: open(path, "rb"))
        return buffered(lambda start, end: self.read_range(key, start, end), self._known(key).size)

    def download(self, key: str, path: Path, on_bytes: Callable[[int], object] = lambda _: None) -> int:
        """Write the object to a local file, several ranges at a time, telling the bytes of each; its size in bytes."""
        info = self._known(key)
        with open(path, "wb") as file, ThreadPoolExecutor(DOWNLOAD_THREADS) as pool:

            def fetch(start: int) -> int:
                data = self.read_range(key, start, min(start + DOWNLOAD_RANGE, info.size))
                on_bytes(len(data))
                return os.pwrite(file.fileno(), data, start)

            return sum(pool.map(fetch, range(0, info.size, DOWNLOAD_RANGE)))

    def info(self, key: str) -> ObjectInfo | None:
        """Size and ETag of an object, None if there is none."""
        return self._found(key, lambda: self._info_once(key))

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""
        return self.info(key) is not None

    def list(self, prefix: str = "") -> ObjectInfos:
        """All objects whose key starts with `prefix`, in folders below too, sorted by key."""
        if folder := prefix.rpartition("/")[0]:
            _refuse_unsafe(folder, may_be_empty=not self.is_local)
        try:
            found = retried(lambda: self._list_once(prefix), self.url(prefix))
        except FileNotFoundError:
            return []
        return sorted((i for i in found if i.key.startswith(prefix)), key=lambda i: i.key)

    @property
    def lists_by_prefix(self) -> bool:
        """Whether a listing costs what it returns. Elsewhere it costs what the prefix's whole folder holds."""
        return self._store().lists_by_prefix

    def create(self, key: str, data: bytes) -> None:
        """Write an object that is not there yet. Equal bytes already there are fine: either an own
        write whose answer was lost, or another writer's equal object. Raises ObjectExists if not.
        """
        if not self.create_only:
            return self._create_unguarded(key, data)
        try:
            self._attempt(key, lambda: self._put_once(key, data, "create"))
        except FileExistsError:
            self._accept_equal(key, data)
        except NotImplementedError:
            self._create_unguarded(key, data)
        return None

    def put(self, key: str, data: bytes) -> None:
        """Write an object, whatever is there. For heartbeats, outcomes and derived files only."""
        self._attempt(key, lambda: self._put_once(key, data, "put"))

    def replace(self, key: str, data: bytes, expected: bytes) -> None:
        """Overwrite an object that holds `expected`. Raises ObjectChanged if it does not (any more).

        Atomic where the store replaces by condition; elsewhere it looks, writes, and warns.
        """
        info = self.info(key)  # before the read, so that the ETag is never newer than the bytes
        current = self.read(key) if info else None
        if info is None or current not in (expected, data):
            raise self._failure(ObjectChanged, key, "the object is no longer what was read")
        if current != data:
            self._replace_found(info, data, expected)

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""
        with suppress(ObjectMissing):
            self._attempt(key, lambda: self._delete_once(key))

    def probe_create_only(self, key: str) -> bool:
        """Whether the store keeps an existing object from a create-only write, tried with the bytes
        that `key` holds already, so that nothing changes. Raises ObjectMissing.
        """
        data = self.read(key)
        try:
            self._attempt(key, lambda: self._put_once(key, data, "create"))
        except FileExistsError:
            return True
        except NotImplementedError:
            return False
        return False

    def check_writable(self) -> None:
        """First contact: raises one clear StorageError for a missing bucket, denied access or bad
        credentials. Leaves nothing behind.
        """
        retried(lambda: self._store().check_writable(), self.uri)

    def _known(self, key: str) -> ObjectInfo:
        info = self.info(key)
        if info is None:
            raise self._failure(ObjectMissing, key, "no such object")
        return info

    def _create_unguarded(self, key: str, data: bytes) -> None:
        if self.exists(key):
            self._accept_equal(key, data)
        else:
            self.put(key, data)

    def _accept_equal(self, key: str, data: bytes) -> None:
        if self.read(key) != data:
            raise self._failure(ObjectExists, key, "another object is there already")

    def _replace_found(self, found: ObjectInfo, data: bytes, expected: bytes) -> None:
        key = found.key
        try:
            return self._attempt(key, lambda: self._put_once(key, data, "replace", expected, found.etag))
        except NotImplementedError:
            log.warning("%s: this store cannot replace by condition, overwriting", self.url(key))
        except ObjectMissing:
            raise self._failure(ObjectChanged, key, "the object is gone") from None
        except FileExistsError:
            current = self.read(key)
            if current == data:  # an own write whose answer was lost
                return None
            if current != expected:
                raise self._failure(ObjectChanged, key, "the object was changed meanwhile") from None
            log.warning("%s: this store refuses the right ETag, overwriting", self.url(key))
        return self.put(key, data)

    def _found(self, key: str, operation: Callable[[], Result]) -> Result:
        """Of an object that others may have made: those of object stores may have empty names in their keys."""
        try:
            return self._attempt(key, operation, may_be_empty=not self.is_local)
        except NotImplementedError as error:  # an answer to a write, but to a read no more than a failure
            raise self._failure(StorageError, key, f"the store cannot read this object ({error})") from None

    def _attempt(self, key: str, operation: Callable[[], Result], may_be_empty: bool = False) -> Result:
        _refuse_unsafe(key, may_be_empty)
        try:
            return retried(operation, self.url(key))
        except FileNotFoundError:
            raise self._failure(ObjectMissing, key, "no such object") from None

    def _failure(self, kind: type[StorageError], key: str, what: str) -> StorageError:
        error = kind(f"storage: {what}", where=self.url(key))
        error.__dict__["key"] = key
        return error

    def _read_once(self, key: str, start: int | None, end: int | None) -> bytes:
        return self._store().read(key, start, end)

    def _info_once(self, key: str) -> ObjectInfo | None:
        return self._store().info(key)

    def _list_once(self, prefix: str) -> ObjectInfos:
        return list(self._store().list(prefix))

    def _put_once(
        self, key: str, data: bytes, mode: WriteMode, expected: bytes = b"", etag: str | None = None
    ) -> None:
        """The one place where an object is written. Raises NotImplementedError for what the store cannot."""
        store = self._store()
        if mode == "put":
            store.put(key, data)
        elif mode == "create" and store.create_only:
            store.create(key, data)
        elif mode == "replace" and store.replaces_by_condition:
            store.replace(key, data, expected, etag)
        else:
            raise NotImplementedError(f"this store cannot {mode} by condition")

    def _delete_once(self, key: str) -> None:
        self._store().delete(key)

    def _store(self) -> Store:
        """The connection of this process; a forked child must not use its parent's."""
        if self._connected is None or self._connected[0] != os.getpid():
            self._connected = (os.getpid(), store_at(self.uri, self._query))
        return self._connected[1]


def _whole(data: bytes, size: int) -> bytes:
    """Raises ConnectionError for an answer cut short, or an object replaced since its size was told."""
    if len(data) != size:
        raise ConnectionError(f"asked for {size} bytes, got {len(data)}")
    return data


def _refuse_unsafe(key: str, may_be_empty: bool = False) -> None:
    """Keys stay below their root and never look like a temporary file of ours; no name in them is empty."""
    refused = (".", "..") if may_be_empty else ("", ".", "..")
    parts = key.split("/")
    if not key or "\0" in key or any(part in refused or part.startswith(TEMPORARY) for part in parts):
        raise StorageError(
            "storage: not a safe key", got=repr(key)[:200], expected="a relative path without .."
        )
