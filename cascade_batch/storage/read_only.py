"""What every store that is read and never written answers to a write."""

from typing import BinaryIO, NoReturn

from cascade_batch.errors import StorageError


class ReadOnly:
    """The writing half of a store at `uri`, which is `KIND`."""

    KIND: str
    uri: str

    def open(self, _key: str) -> BinaryIO:
        raise NotImplementedError("ranges of remote objects are read by Storage, with retries")

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
