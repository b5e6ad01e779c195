"""A seekable file of an object that is read range by range."""

import io
from collections.abc import Callable
from typing import Any, BinaryIO, cast

READ_BUFFER = 2**20  # bytes


def buffered(read_range: Callable[[int, int], bytes], size: int) -> BinaryIO:
    """A binary file of `size` bytes over `read_range(start, end)`."""
    return cast(BinaryIO, io.BufferedReader(_Ranges(read_range, size), READ_BUFFER))


class _Ranges(io.RawIOBase):
    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        self._read_range, self._size, self._position = read_range, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._size)
        if end <= self._position:
            return 0
        data = self._read_range(self._position, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
