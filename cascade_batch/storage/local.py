"""Objects as files of a local folder: whole when visible, and create-only through hard links.

A write goes to a temporary file beside its target and is synced to disk before it gets its name.
`~` cannot occur in an image id, so no object of a run can look like a temporary file; those that a
killed process left behind are never listed.
"""

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

from cascade_batch.storage.objects import ObjectInfo
from cascade_batch.storage.store import Store

TEMPORARY = ".tmp~"
NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@final
class LocalFiles(Store):
    """The folder `root`, which need not exist yet. Raises plain OSError."""

    create_only = replaces_by_condition = True
    lists_by_prefix = False

    def __init__(self, root: str) -> None:
        self.root = Path(root)

    def read(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """Bytes [start, end) of a file; a negative `start` counts from its end."""
        with open(self.root / key, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            begin = max(0, size + start) if start is not None and start < 0 else start or 0
            file.seek(begin)
            return file.read((size if end is None else min(end, size)) - begin)

    def local_file(self, key: str) -> Path:
        return self.root / key

    def info(self, key: str) -> ObjectInfo | None:
        path = self.root / key
        return _info(key, path) if path.is_file() else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every file in the folder of `prefix` and below, temporary ones excepted."""
        folder = self.root / prefix.rpartition("/")[0]
        for parent, _, names in os.walk(folder, onerror=_unless_missing):
            for name in names:
                path = os.path.join(parent, name)
                with suppress(FileNotFoundError):  # deleted since, or a dangling link
                    if not name.startswith(TEMPORARY):
                        yield _info(os.path.relpath(path, self.root), path)

    def create(self, key: str, data: bytes) -> None:
        """Raises FileExistsError, leaving the file as it is; NotImplementedError on a disk without hard links."""
        path = self.root / key
        with _synced_file(path, data) as temporary:
            try:
                os.link(temporary, path)
            except OSError as error:
                if error.errno in NO_HARD_LINKS:
                    raise NotImplementedError("this file system has no hard links") from error
                raise

    def put(self, key: str, data: bytes) -> None:
        path = self.root / key
        with _synced_file(path, data) as temporary:
            os.replace(temporary, path)

    def replace(self, key: str, data: bytes, expected: bytes, _etag: str | None) -> None:
        """Raises FileExistsError if the file no longer holds `expected`."""
        folder = os.open((self.root / key).parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # among replacers; released by close, or by death
            if self.read(key) != expected:
                raise FileExistsError(key)
            self.put(key, data)
        finally:
            os.close(folder)

    def delete(self, key: str) -> None:
        path = self.root / key
        path.unlink()
        _sync_folder(path.parent)

    def check_writable(self) -> None:
        """Raises PermissionError or NotADirectoryError; makes nothing."""
        nearest = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(nearest))
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(nearest))


@contextmanager
def _synced_file(path: Path, data: bytes) -> Iterator[Path]:
    """A temporary file beside `path` holding `data` on disk; afterwards the folder is synced too."""
    _make_folder(path.parent)
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _info(key: str, path: str | Path) -> ObjectInfo:
    found = os.stat(path)
    return ObjectInfo(key, found.st_size, None, modified=found.st_mtime)


def _unless_missing(error: OSError) -> None:
    """`os.walk` passes over unreadable folders in silence; a listing with holes is worse than none."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _make_folder(folder: Path) -> None:
    """Like `makedirs`, but each new name is on disk before anything is written below it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
