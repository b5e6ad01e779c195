"""PNG files: encoded the same way every time, written create-only, named by their hash when they differ."""

import hashlib
import struct
import zlib
from dataclasses import dataclass
from importlib.metadata import version

import deflate
import numpy as np

from cascade_batch.run import paths
from cascade_batch.storage import ObjectExists, Storage


@dataclass(frozen=True)
class ImageFile:
    """What a manifest says about one stored picture."""

    uri: str
    bytes: int
    sha256: str
    pixel_sha256: str


def encode_png(pixels: np.ndarray, level: int) -> bytes:
    """PNG bytes of (H, W, 3) uint8 pixels: fixed settings, no timestamps, so equal pixels give equal bytes.

    Three chunks as in the PNG specification (W3C, third edition, section 11.2), packed by libdeflate: a third of
    the time of libpng and zlib or less, and fewer bytes (`jobs/BENCHMARKS.md`).
    """
    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits a value, RGB
    chunks = ((b"IHDR", header), (b"IDAT", deflate.zlib_compress(_filtered(pixels), level)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _filtered(pixels: np.ndarray) -> np.ndarray:
    """(H, 1 + 3 W) uint8: each value less the mean of those left of it and above it, filter 3 in section 9.2."""
    height, width, channels = pixels.shape
    lines = pixels.reshape(height, width * channels)
    left, above = np.zeros_like(lines), np.zeros_like(lines)
    left[:, channels:], above[1:] = lines[:, :-channels], lines[:-1]
    mean = (left & above) + ((left ^ above) >> 1)  # without the ninth bit of a sum
    filtered = np.full((height, 1 + width * channels), 3, np.uint8)
    np.subtract(lines, mean, out=filtered[:, 1:])
    return filtered


def _chunk(name: bytes, data: bytes | bytearray) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def encoder_version(level: int) -> str:
    """What decides the PNG bytes besides the pixels."""
    return f"deflate {version('deflate')} level {level} filter 3"


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
    key = paths.image_key(shard, image_id)
    try:
        storage.create(key, png)
    except ObjectExists:
        key = paths.image_key(shard, image_id, f".{sha256[:8]}")
        storage.create(key, png)
    return ImageFile(key, len(png), sha256, hashlib.sha256(pixels.tobytes()).hexdigest())
