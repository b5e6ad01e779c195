"""What stands in a picture's file beside the picture: texts, profiles, EXIF.

Pillow refuses a whole file for some of them, such as a megabyte of compressed text in a PNG. The picture is then read
without them.
"""

import zlib
from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n"
_PNG_NOTES = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf")
_TURNING = (
    b"eXIf",
    b"iTXtXML:com.adobe.xmp\0\0",
    b"tEXtRaw profile type exif\0",
    b"zTXtRaw profile type exif\0",
)
"""How chunks begin that may say which way is up; the second one uncompressed."""
_TURNING_BYTES = 2**16

JPEG = b"\xff\xd8\xff"
_JPEG_NOTES = {*range(0xE1, 0xEE), 0xEF, 0xFE}
"""Markers of applications and comments, but JFIF's and Adobe's, which say how colours are stored."""
_JPEG_SCAN = 0xDA


def without_notes(data: bytes) -> bytes | None:
    """The file without notes that say nothing about its pixels; None if it is of a kind that is not taken apart."""
    if data.startswith(PNG):
        return PNG + b"".join(_png_chunks(data))
    if data.startswith(JPEG):
        return data[:2] + b"".join(_jpeg_segments(data))
    return None


def _png_chunks(data: bytes) -> Iterator[bytes]:
    """A chunk is its length, its name, its content and a checksum."""
    start, chunk = len(PNG), b""
    while start < len(data) and chunk[4:8] != b"IEND":
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        chunk = data[start:end]
        if chunk[4:8] not in _PNG_NOTES or _may_turn(chunk):
            yield chunk
        start = end


def _may_turn(chunk: bytes) -> bool:
    """Whether a note may say which way is up, and is sound and no longer than that takes."""
    is_sound = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
    return chunk[4:].startswith(_TURNING) and len(chunk) <= _TURNING_BYTES and is_sound


def _jpeg_segments(data: bytes) -> Iterator[bytes]:
    """A segment is a marker, its length and its content; from the first scan on everything is the picture."""
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF and data[start + 1] != _JPEG_SCAN:
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if data[start + 1] not in _JPEG_NOTES:
            yield data[start:end]
        start = end
    yield data[start:]
