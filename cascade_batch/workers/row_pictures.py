"""A row's pictures: encoded bytes, a path or URL, or Hugging Face's struct of both, fetched and decoded."""

from typing import Any

from PIL import Image

from cascade_batch.engine import pictures
from cascade_batch.errors import PictureError, SpecError, StorageError
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import is_absolute, split_key, split_query

Sources = dict[str, list[str]]
"""Column -> the paths and URLs of its pictures, without their queries."""
MOST_BYTES = 16
"""Of a picture's file, for each of the pixels that it may have: four channels of 32 bits, unpacked."""


class PictureOpener:
    """Opens what a cell names or holds."""

    def __init__(self, root: str, most_pixels: int) -> None:
        """`root`: where relative paths lie."""
        self._root, self._most_pixels = root, most_pixels

    def open(self, value: Any, name: str, sources: Sources) -> Image.Image:
        """A picture of the column `name`; where it lay joins `sources`.

        Raises:
            PictureError: it cannot be had or read.
            StorageError: a store fails for now.
        """
        if isinstance(value, dict):
            value = value["path"] if value["bytes"] is None else value["bytes"]
        if value is None:
            raise PictureError("a picture is null", where=name)
        if isinstance(value, str):
            sources.setdefault(name, []).append(split_query(value)[0])
            value = self._fetched(value, name)
        return pictures.decode(value, self._most_pixels)

    def _fetched(self, uri: str, name: str) -> bytes:
        """A picture's bytes. A store that fails for now leaves the shard undone; one that says no fails the row."""
        full = uri if is_absolute(uri) else f"{self._root}/{uri}"
        plain, query = split_query(full)
        folder, key = split_key(plain)
        most = self._most_pixels * MOST_BYTES + 2**20
        try:
            data = _read(Storage(folder, query), key, most)
        except StorageError as error:
            if error.transient:
                raise
            raise PictureError(
                "a picture cannot be fetched", where=name, got=f"{split_query(uri)[0]}: {error.what}"
            ) from None
        except SpecError as error:  # a URL with credentials, which the manifest would repeat
            raise PictureError(error.what, where=name, got=error.where) from None
        if len(data) > most:
            raise PictureError(
                "a file is too large for a picture",
                where=name,
                got=split_query(uri)[0],
                expected=f"{most:,} bytes",
            )
        return data


def _read(storage: Storage, file: str, most: int) -> bytes:
    """One byte more than `most`, if there are; never from a pipe or a device, which may not end."""
    if storage.is_local and storage.info(file) is None:
        raise StorageError("storage: no such file")
    return storage.read_head(file, most + 1)
