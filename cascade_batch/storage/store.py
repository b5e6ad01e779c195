"""What `Storage` asks of a store, which knows neither retries nor what is safe: one request, raw errors.

How to add one: write a final class that derives from `Store` (from `ReadOnly` where nothing is written) in a file of
its own; name the URLs that it serves in `serving.store_at`; give tests/storage/test_conformance.py a parameter, for
what that suite states is what everybody else relies on.
"""

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from cascade_batch.storage.objects import ObjectInfo


class Store(Protocol):
    """Objects by keys below one root, whole when visible.

    FileExistsError, FileNotFoundError and NotImplementedError are answers; any other error is judged by
    `failures.retried`.
    """

    create_only: bool
    """Whether `create` is one request that overwrites nothing; else `Storage` looks first, and does not call it."""
    replaces_by_condition: bool
    """Whether `replace` is one request that overwrites nothing else; else `Storage` writes with a warning."""
    lists_by_prefix: bool
    """Whether a listing costs what it returns. Elsewhere it costs what the prefix's whole folder holds, or more."""

    @abstractmethod
    def read(self, key: str, start: int | None, end: int | None, /) -> bytes:
        """Bytes [start, end) of an object, fewer if it ends before; a negative `start` counts from its end.

        Raises FileNotFoundError.
        """

    @abstractmethod
    def local_file(self, key: str, /) -> Path | None:
        """The local file that is this object, or would be; None where objects are no local files."""

    @abstractmethod
    def info(self, key: str, /) -> ObjectInfo | None:
        """What is known of an object, None if there is none; a folder is none."""

    @abstractmethod
    def list(self, prefix: str, /) -> Iterator[ObjectInfo]:
        """At least the objects whose keys begin with `prefix`, in any order."""

    @abstractmethod
    def create(self, key: str, data: bytes, /) -> None:
        """Write an object that is not there. Raises FileExistsError, NotImplementedError where that turns out wrong."""

    @abstractmethod
    def put(self, key: str, data: bytes, /) -> None:
        """Write an object, whatever is there."""

    @abstractmethod
    def replace(self, key: str, data: bytes, expected: bytes, etag: str | None, /) -> None:
        """Overwrite the object that held `expected` under `etag`. Raises FileExistsError if it is another by now."""

    @abstractmethod
    def delete(self, key: str, /) -> None:
        """Remove an object. May raise FileNotFoundError if there is none."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raises what the first write would, and leaves nothing behind."""
