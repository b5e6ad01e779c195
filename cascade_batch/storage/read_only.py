"""What every store that is read and never written answers to a write."""

from pathlib import Path
from typing import NoReturn

from cascade_batch.errors import StorageError
from cascade_batch.storage.store import Store


class ReadOnly(Store):
    """The writing half of a store at `uri`, which is `KIND` and no local disk."""

    KIND: str
    uri: str
    create_only = replaces_by_condition = True  # nothing is ever overwritten
    lists_by_prefix = False

    def local_file(self, _key: str) -> Path | None:
        return None

    def create(self, _key: str, _data: bytes) -> NoReturn:
        self.check_writable()

    def put(self, _key: str, _data: bytes) -> NoReturn:
        self.check_writable()

    def replace(self, _key: str, _data: bytes, _expected: bytes, _etag: str | None) -> NoReturn:
        self.check_writable()

    def delete(self, _key: str) -> NoReturn:
        self.check_writable()

    def check_writable(self) -> NoReturn:
        raise StorageError(
            f"storage: {self.KIND} is read, never written",
            where=self.uri,
            next_step="write to a folder or a bucket",
        )
