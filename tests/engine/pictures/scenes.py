"""A picture whose every value is known, so that what is read can be held to it, and files of it."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
WIDTH, HEIGHT = 64, 48


def scene() -> np.ndarray:
    """(48, 64, 3) uint8: slopes of all three colours from black to white, and a plain rectangle."""
    across, down = np.meshgrid(np.linspace(0, 255, WIDTH), np.linspace(0, 255, HEIGHT))
    pixels = np.stack([across, down, 255 - (across + down) / 2], axis=-1).round().astype(np.uint8)
    pixels[10:20, 30:50] = (200, 30, 60)
    return pixels


def grey_scene() -> np.ndarray:
    """(48, 64) uint8, from 0 to 255."""
    return scene()[..., 0]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(lines: np.ndarray, depth: int, colour: int, *chunks: bytes) -> bytes:
    """Of values (H, W) or (H, W, channels) of `depth` 8 or 16, with chunks before the pixels."""
    height, width = lines.shape[:2]
    rows = np.ascontiguousarray(lines, ">u2" if depth == 16 else "u1").reshape(height, -1).view("u1")
    raw = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(raw))
    return b"".join([PNG, png_chunk(b"IHDR", header), *chunks, pixels, png_chunk(b"IEND", b"")])


def tiff(values: np.ndarray, photometric: int = 1, bits: int = 0, width: int = 0) -> bytes:
    """One grey strip of any type of numbers in its own byte order (TIFF 6.0); photometric 0: white is 0.

    `bits` and `width`: what the file says of values that are packed otherwise than the array tells.
    """
    order = ">" if values.dtype.byteorder == ">" else "<"
    form = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    data, bits, width = values.tobytes(), bits or values.dtype.itemsize * 8, width or values.shape[1]
    tags = [(256, width), (257, values.shape[0]), (258, bits), (259, 1), (262, photometric), (273, 8)]
    tags += [(277, 1), (278, values.shape[0]), (279, len(data)), (339, form)]
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack(order + "H", len(tags)) + entries + b"\0\0\0\0"
    magic = b"MM\0*" if order == ">" else b"II*\0"
    return magic + struct.pack(order + "I", 8 + len(data)) + data + directory


def exif_jpeg(tag: int, kind: int, count: int, value: bytes, orientation: bool = True) -> bytes:
    """A JPEG whose EXIF has one entry of its own, and perhaps an orientation."""
    entries = [struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")]
    if orientation:
        entries.append(struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0))
    entries.sort(key=lambda entry: entry[:2][::-1])
    body = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    content = b"Exif\0\0" + body
    whole = encoded(Image.fromarray(scene()), "JPEG", quality=100, subsampling=0)
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + whole[2:]
