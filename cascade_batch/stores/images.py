"""PNG files: encoded the same way every time, written create-only, named by their hash when they differ."""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import PIL
from PIL import Image, features

from cascade_batch.storage import ObjectExists, Storage
from cascade_batch.stores import layout


@dataclass(frozen=True)
class ImageFile:
    """What a manifest says about one stored picture."""

    uri: str
    bytes: int
    sha256: str
    pixel_sha256: str


def encode_png(pixels: np.ndarray, level: int) -> bytes:
    """PNG bytes of (H, W, 3) uint8 pixels: fixed settings, no timestamps, so equal pixels give equal bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def encoder_version(level: int) -> str:
    """What decides the PNG bytes besides the pixels."""
    return f"pillow {PIL.__version__} zlib {features.version('zlib')} level {level}"


def is_single_colour(pixels: np.ndarray) -> bool:
    """Whether every pixel of (H, W, 3) is the same."""
    return bool((pixels == pixels[:1, :1]).all())


def commit_image(storage: Storage, shard: int, image_id: str, pixels: np.ndarray, level: int) -> ImageFile:
    """Write one picture create-only.

    A late attempt whose bytes differ from those already there (another device or version) is written
    beside them under `<image_id>.<8 hex of its sha256>.png`; nothing is ever overwritten.
    """
    png = encode_png(pixels, level)
    sha256 = hashlib.sha256(png).hexdigest()
    key = layout.image_key(shard, image_id)
    try:
        storage.create(key, png)
    except ObjectExists:
        key = layout.image_key(shard, image_id, f".{sha256[:8]}")
        storage.create(key, png)
    return ImageFile(key, len(png), sha256, hashlib.sha256(pixels.tobytes()).hexdigest())
