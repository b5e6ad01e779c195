"""Files of formats that Pillow opens and does not write, and beginnings of those that hold more than pixels."""

import struct

import numpy as np
from PIL import Image

from tests.engine.pictures.scenes import HEIGHT, WIDTH, encoded, grey_scene, scene

SHADES = np.repeat(grey_scene()[..., None], 3, axis=-1)
BEGINNINGS = (
    b"\0\0\2\0\1\0", b"\0\0\1\0\1\0", b"BUFR", b"GRIB\0\0\0\1", b"\x89HDF\r\n\x1a\n", b"\0\0\1\xb3", b"FTEX",
    b"\x80\xe8\0\0", b"\0\0\0\0\0\0\0\4", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\x1c\1\x1c\2",
    b"\xd7\xcd\xc6\x9a\0\0", b"\0\0\0\x1cftypavif", b"\xff\x4f\xff\x51", b"BM", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08",
    b"II+\0\x08\0\0\0", b"RIFF\xff\0\0\0WEBPVP8X", b"BLP2", b"DDS |\0\0\0", b"GIF89a", b"\xff\xd8\xff\xe1", b"P6 ",
)  # fmt: skip
"""Cursor, icon, weather, HDF, MPEG, textures, PIXAR, satellites, PostScript, press notes, WMF and the rest."""


def rare_files() -> list[tuple[str, bytes, np.ndarray]]:
    """(format, file, what it shows)."""
    return [
        ("SUN", sun(), scene()),
        ("PSD", psd(), scene()),
        ("FITS", fits(), SHADES),
        ("GBR", gbr(), SHADES),
        ("DCX", dcx(), scene()),
        ("XPM", xpm(), scene()[::8, ::8]),
        ("FLI", fli(), SHADES),
        ("XVTHUMB", b"P7 332\n#END_OF_COMMENTS\n8 8 255\n" + bytes([255] * 64), np.full((8, 8, 3), 255)),
    ]


def sun() -> bytes:
    return struct.pack(">8I", 0x59A66A95, WIDTH, HEIGHT, 24, scene().nbytes, 3, 0, 0) + scene().tobytes()


def psd() -> bytes:
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, HEIGHT, WIDTH, 8, 3)
    return head + struct.pack(">IIIH", 0, 0, 0, 0) + np.moveaxis(scene(), -1, 0).tobytes()


def fits() -> bytes:
    cards = "SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2", f"NAXIS1  = {WIDTH}", f"NAXIS2  = {HEIGHT}", "END"
    head = "".join(card.ljust(80) for card in cards).ljust(2880).encode()
    return head + grey_scene()[::-1].tobytes()  # from the bottom up


def gbr() -> bytes:
    return struct.pack(">5I4sI", 34, 2, WIDTH, HEIGHT, 1, b"GIMP", 10) + b"brush\0" + grey_scene().tobytes()


def dcx() -> bytes:
    return struct.pack("<III", 0x3ADE68B1, 12, 0) + encoded(Image.fromarray(scene()), "PCX")


def xpm() -> bytes:
    """Every eighth pixel, each with a colour of its own."""
    small = scene()[::8, ::8].reshape(-1, 3)
    names = [f"{n:02x}" for n in range(len(small))]
    colours = [f'"{name} c #{pixel.tobytes().hex()}",' for name, pixel in zip(names, small, strict=True)]
    rows = ['"' + "".join(names[y * 8 : y * 8 + 8]) + '",' for y in range(6)]
    head = ["/* XPM */", "static char *scene[] = {", f'"8 6 {len(small)} 2",']
    return "\n".join([*head, *colours, *rows, "};"]).encode() + b"\n"


def fli() -> bytes:
    """One frame, stored whole, in the greys that FLI begins with."""
    pixels = grey_scene().tobytes()
    chunk = struct.pack("<IH", 6 + len(pixels), 16) + pixels
    frame = struct.pack("<IHH8x", 16 + len(chunk), 0xF1FA, 1) + chunk
    head = struct.pack("<IHHHHHHI", 128 + len(frame), 0xAF12, 1, WIDTH, HEIGHT, 8, 3, 70)
    return head.ljust(128, b"\0") + frame
