"""Files with much, broken or misleading beside the picture; and pictures that are too large."""

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cascade_batch.engine import pictures
from cascade_batch.errors import PictureError
from tests.engine.pictures.scenes import encoded, exif_jpeg, png, png_chunk, scene, tiff

NOTE = bytes(3 * 2**20)
"""Compressed it is 3 KB; Pillow unpacks 1 MB at most."""


def image() -> Image.Image:
    return Image.fromarray(scene())


def read(data: bytes, **options: Any) -> np.ndarray:
    return np.asarray(pictures.as_rgb(pictures.decode(data, **options)))


def test_compressed_notes_of_any_size_do_not_matter() -> None:
    packed = zlib.compress(NOTE)
    for chunk in (
        png_chunk(b"zTXt", b"workflow\0\0" + packed),
        png_chunk(b"iTXt", b"prompt\0\1\0\0\0" + packed),
        png_chunk(b"iCCP", b"profile\0\0" + packed),
    ):
        assert np.array_equal(read(png(scene(), 8, 2, chunk)), scene())
        behind = encoded(image(), "PNG")[:-12] + chunk + png_chunk(b"IEND", b"")
        assert np.array_equal(read(behind), scene())
    many = [
        png_chunk(b"tEXt", b"note\0" + bytes([65]) * 2**20) for _ in range(65)
    ]  # Pillow keeps 64 MB at most
    assert np.array_equal(read(png(scene(), 8, 2, *many)), scene())
    assert PngImagePlugin.MAX_TEXT_CHUNK == 2**20


@pytest.mark.parametrize("note", ["exif chunk", "profile in a text", "XMP"])
def test_a_picture_with_large_notes_is_upright_still(note: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = exif.tobytes()
    turning = {
        "exif chunk": png_chunk(b"eXIf", raw.removeprefix(b"Exif\0\0")),
        "profile in a text": png_chunk(
            b"zTXt",
            b"Raw profile type exif\0\0" + zlib.compress(f"\nexif\n{len(raw):8}\n{raw.hex()}\n".encode()),
        ),
        "XMP": png_chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'),
    }[note]
    large = png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(NOTE))
    for data in (png(scene(), 8, 2, turning), png(scene(), 8, 2, turning, large)):
        assert np.array_equal(read(data), np.rot90(scene(), -1))


@pytest.mark.parametrize(
    "entry",
    [
        (0x0100, 2, 4, b"abc\0"),  # the width as text
        (0x0100, 12, 1, b"\xff\xff\xff\x7f"),  # a double far beyond the end
        (0x0112, 2, 2, b"6\0"),  # the orientation as text
        (0x0112, 3, 3, b"\xff\xff\xff\x7f"),
        (0x8769, 2, 4, b"abc\0"),  # the folder of camera settings as text
        (0x8769, 4, 1, b"\x08\0\0\0"),  # which points at itself
        (0x9286, 7, 0xFFFFFFFF, b"\xff\xff\xff\xff"),
        (0x011A, 5, 1, b"\0\0\0\0"),
        (0x0100, 99, 1, b"\0\0\0\0"),
    ],
)
def test_broken_exif_costs_no_picture(entry: tuple[int, int, int, bytes]) -> None:
    upright = read(encoded(image(), "JPEG", quality=100, subsampling=0))
    plain = read(exif_jpeg(*entry, orientation=False))
    assert np.array_equal(plain, upright)
    if entry[0] != 0x0112 and entry[2:] != (1, b"\xff\xff\xff\x7f"):  # Pillow reads nothing behind that one
        assert np.array_equal(read(exif_jpeg(*entry)), np.rot90(upright, -1))


def test_broken_notes_in_a_tiff_cost_no_picture() -> None:
    plain = bytearray(tiff(scene()[..., 0].copy()))
    start = struct.unpack_from("<I", plain, 4)[0]
    count = struct.unpack_from("<H", plain, start)[0]
    entries = plain[start + 2 : start + 2 + 12 * count]
    entries += struct.pack(
        "<HHII", 0x8769, 4, 1, 0x7FFFFFFF
    )  # the folder of camera settings far beyond the end
    data = bytes(plain[:start]) + struct.pack("<H", count + 1) + bytes(entries) + bytes(4)
    assert np.array_equal(read(data)[..., 0], scene()[..., 0])


def test_a_broken_list_of_pictures_in_a_jpeg_costs_nothing() -> None:
    whole = encoded(image(), "MPO", save_all=True, append_images=[image()], quality=100, subsampling=0)
    at = whole.index(b"MPF\0") + 4
    for damage in range(8, 60):
        data = bytearray(whole)
        data[at + damage] ^= 0xFF
        assert np.abs(read(bytes(data)).astype(int) - scene()).max() <= 6


def test_a_limit_of_pixels_can_be_raised() -> None:
    with pytest.raises(PictureError, match=r"--set limits.picture_pixels=3072"):
        read(encoded(image(), "PNG"), most_pixels=3000)
    assert np.array_equal(read(encoded(image(), "PNG"), most_pixels=3072), scene())


def test_pillows_own_limit_stays_what_it_was_and_does_not_stand_in_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("PNG", "JPEG", "WEBP", "TIFF", "MPO", "GIF", "BMP", "JPEG2000"):
            assert read(encoded(image(), kind)).shape == (48, 64, 3)
    assert Image.MAX_IMAGE_PIXELS == 1000


def bomb() -> bytes:
    """60,000 x 60,000 pixels, 10 GB as RGB."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(bytes(2**20))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def icon(inside: bytes) -> bytes:
    """An ICO that says it is 64 x 64."""
    entry = struct.pack("<BBBBHHII", 64, 64, 0, 0, 1, 32, len(inside), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + inside


def gif(width: int, height: int) -> bytes:
    whole = bytearray(encoded(image().quantize(16), "GIF"))
    frame = whole.index(b",\0\0\0\0")
    struct.pack_into("<HH", whole, frame + 5, width, height)
    return bytes(whole)


@pytest.mark.parametrize("data", [bomb(), icon(bomb()), gif(60000, 60000)], ids=["PNG", "ICO", "GIF frame"])
def test_small_files_that_unpack_to_anything_are_refused(data: bytes) -> None:
    with pytest.raises(PictureError):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"not a picture",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",  # a program, not a picture
        encoded(image(), "PNG")[:200],
        encoded(image(), "JPEG")[:500],
        encoded(image(), "WEBP")[:100],
    ],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(PictureError, match="cannot be read") as caught:
        read(data)
    assert "0x7" not in str(caught.value)  # no addresses: what is told is the same in every run


def test_an_opened_picture_is_read_as_its_file(tmp_path: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    holes = Image.fromarray(np.dstack([scene(), scene()[..., 1]]))
    for name, made in (
        ("a.jpg", image()),
        ("b.png", holes),
        ("c.tif", Image.fromarray(scene()[..., 0] * np.uint16(257))),
    ):
        made.save(tmp_path / name, exif=exif)
        opened = pictures.as_rgb(Image.open(tmp_path / name))
        assert np.array_equal(np.asarray(opened), read((tmp_path / name).read_bytes()))
        with Image.open(io.BytesIO((tmp_path / name).read_bytes())) as loaded:
            loaded.load()
            assert np.array_equal(np.asarray(pictures.as_rgb(loaded)), np.asarray(opened))
