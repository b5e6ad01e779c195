"""What is known of an object, and what can be wrong with one."""

from dataclasses import dataclass, field

from cascade_batch.errors import StorageError


@dataclass(frozen=True)
class ObjectInfo:
    """`size` in bytes; `etag` without quotes, None where the store has none (local disks); `sha256` where it tells;
    `modified` in seconds since 1970 by the store's clock, where it tells."""

    key: str
    size: int
    etag: str | None
    sha256: str | None = None
    modified: float | None = field(default=None, compare=False)


ObjectInfos = list[ObjectInfo]  # an alias, because `Storage.list` hides the type inside the class


class ObjectMissing(StorageError):
    """There is no object of this key (`key`)."""

    key = ""


class ObjectExists(StorageError):
    """Another object of this key (`key`) is there already, with other bytes."""

    key = ""


class ObjectChanged(ObjectExists):
    """The object to be replaced is no longer the one that was read, or is gone."""
