"""One part of a model: which files of which folder, and its config."""

import json
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts import Header, PartHeader, modern, part_header, read_header
from cascade_batch.storage import ObjectMissing, Storage

EMBEDDED = Path(__file__).parent.parent / "embedded"
CONFIG = "config.json"
SUMS = "SHA256SUMS"
"""What a part's files should hash to, as `sha256sum` writes it; a folder may go without."""


@dataclass(frozen=True)
class Part:
    """One part's folder: `files` are its weights, `extras` its config or tokenizer files (names)."""

    name: str
    uri: str
    files: tuple[str, ...]
    extras: tuple[str, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, an embedded part is without its folder: another node may have this package elsewhere."""
        below = self.uri.removeprefix(f"{EMBEDDED}/")
        return _unpickled, (self.name, below, below != self.uri, self.files, self.extras)


def _unpickled(
    name: str, uri: str, is_embedded: bool, files: tuple[str, ...], extras: tuple[str, ...]
) -> Part:
    return Part(name, f"{EMBEDDED}/{uri}" if is_embedded else uri, files, extras)


def read_config(part: Part) -> dict:
    """The part's `config.json` under today's names, or, for a file without one, what its keys tell.

    Raises WeightsError if there is no making sense of either.
    """
    storage = Storage(part.uri)
    if CONFIG in part.extras:
        return modern(read_json(storage, CONFIG), storage.url(CONFIG))
    return header_of(part).config()


def picture_side(image_encoder: Part) -> int:
    """Height and width in pixels of the pictures that an image encoder takes. Raises WeightsError."""
    return read_config(image_encoder).get("image_size", 224)


def header_of(part: Part) -> PartHeader:
    """What the headers of the part's files say. Raises WeightsError as `part_header` does."""
    storage = Storage(part.uri)
    return part_header(part.name, {storage.url(file): file_header(storage, file) for file in part.files})


def file_header(storage: Storage, name: str) -> Header:
    """The header of a safetensors file, nothing behind it. Raises WeightsError."""
    where, info = storage.url(name), storage.info(name)
    if info is None:
        raise WeightsError("no such weights", where=where)
    return read_header(lambda start, end: storage.read_range(name, start, end), info.size, where)


def read_json(storage: Storage, key: str) -> dict:
    try:
        content = json.loads(storage.read(key).decode("utf-8-sig"))
    except (ValueError, RecursionError, ObjectMissing) as error:
        raise WeightsError("cannot read a part's JSON file", where=storage.url(key), got=error) from None
    if not isinstance(content, dict):
        raise WeightsError(
            "a part's JSON file holds no object", where=storage.url(key), got=reprlib.repr(content)
        )
    return content
