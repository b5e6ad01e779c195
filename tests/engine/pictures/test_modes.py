"""A known picture comes out as itself, whatever mode, depth, alpha or orientation it is stored in."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from transformers.image_transforms import convert_to_rgb

from cascade_batch.engine import pictures
from cascade_batch.errors import PictureError
from tests.engine.pictures.scenes import encoded, grey_scene, png, png_chunk, scene, tiff

GREY = np.repeat(grey_scene()[..., None], 3, axis=-1)
DEEP = grey_scene().astype(np.uint16) * 257


def read(data: bytes) -> np.ndarray:
    return np.asarray(pictures.as_rgb(pictures.decode(data)))


def distance(got: np.ndarray, expected: np.ndarray) -> int:
    assert got.shape == expected.shape
    return int(np.abs(got.astype(int) - expected).max())


def image() -> Image.Image:
    return Image.fromarray(scene())


COLOURED = {
    "RGB": (encoded(image(), "PNG"), 0),
    "RGBA, opaque": (encoded(image().convert("RGBA"), "PNG"), 0),
    "CMYK": (encoded(image().convert("CMYK"), "TIFF"), 1),
    "YCbCr": (encoded(image().convert("YCbCr"), "TIFF"), 4),
    "JPEG": (encoded(image(), "JPEG", quality=100, subsampling=0), 6),
    "CMYK JPEG": (encoded(image().convert("CMYK"), "JPEG", quality=100), 6),
    "16-bit PNG": (png(scene().astype(np.uint16) * 257, 16, 2), 0),
    "16-bit PNG with alpha": (png(np.dstack([scene().astype(np.uint16) * 257, DEEP * 0 + 65535]), 16, 6), 0),
    "WebP": (encoded(image(), "WEBP", lossless=True), 0),
    "first page": (encoded(image(), "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))]), 0),
    "first frame": (encoded(image(), "WEBP", lossless=True, save_all=True, append_images=[image()]), 0),
    "MPO": (encoded(image(), "MPO", save_all=True, append_images=[image()], quality=100, subsampling=0), 6),
    "JPEG 2000": (encoded(image(), "JPEG2000"), 0),
}
DEEP_GREY = {
    "L": (encoded(Image.fromarray(grey_scene()), "PNG"), 0),
    "I;16 PNG": (encoded(Image.fromarray(DEEP), "PNG"), 0),
    "I;16 TIFF": (encoded(Image.fromarray(DEEP), "TIFF"), 0),
    "I;16B TIFF": (tiff(DEEP.astype(">u2")), 0),
    "16-bit PGM": (b"P5 64 48 65535\n" + DEEP.astype(">u2").tobytes(), 0),
    "10-bit PGM": (b"P5 64 48 1023\n" + (DEEP // 64).astype(">u2").tobytes(), 1),
    "int32 TIFF": (tiff(DEEP.astype("<i4")), 0),
    "int32 TIFF of 0..255": (tiff(grey_scene().astype("<i4")), 0),
    "float TIFF of 0..1": (tiff((grey_scene() / 255).astype("<f4")), 0),
    "float TIFF of 0..255": (tiff(grey_scene().astype("<f4")), 0),
    "float TIFF of -1..1": (tiff((grey_scene() / 127.5 - 1).astype("<f4")), 1),
    "16-bit TIFF, white is 0": (tiff(65535 - DEEP, photometric=0), 0),
    "float TIFF, white is 0": (tiff((1 - grey_scene() / 255).astype("<f4"), photometric=0), 1),
    "LA": (encoded(Image.fromarray(grey_scene()).convert("LA"), "PNG"), 0),
    "16-bit LA": (png(np.dstack([DEEP, DEEP * 0 + 65535]), 16, 4), 0),
}


@pytest.mark.parametrize("name", COLOURED)
def test_colours_come_out_as_they_are(name: str) -> None:
    data, tolerance = COLOURED[name]
    assert distance(read(data), scene()) <= tolerance


@pytest.mark.parametrize("name", DEEP_GREY)
def test_greys_of_every_depth_come_out_as_they_are(name: str) -> None:
    data, tolerance = DEEP_GREY[name]
    assert distance(read(data), GREY) <= tolerance


def test_dark_16_bit_files_stay_dark() -> None:
    """Unlike an array's, their depth is known."""
    assert read(encoded(Image.fromarray(DEEP // 50), "PNG")).max() == round(255 / 50)
    assert read(b"P5 64 48 65535\n" + (DEEP // 50).astype(">u2").tobytes()).max() == round(255 / 50)


def test_12_bit_files_reach_white() -> None:
    packed = np.full((2, 96), 255, np.uint8)  # two values in three bytes
    assert read(tiff(packed, bits=12, width=64)).min() == 255


def test_lab_is_no_alpha() -> None:
    """Its second channel is called A, as alpha is; and most colours that eight bits of it can tell are in sRGB."""
    got = read(encoded(image().convert("LAB"), "TIFF"))
    assert np.abs(got.astype(int) - scene()).mean() < 4


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(-3, 3, 3072).reshape(48, 64).astype("<f4"),  # what CLIP's processor makes
        np.linspace(0, 4000, 3072).reshape(48, 64).astype("<f4"),
        np.linspace(0, 2.5, 3072).reshape(48, 64).astype("<f4"),  # beyond white, or nearly black
        np.linspace(-0.1, 1, 3072)
        .reshape(48, 64)
        .astype("<f4"),  # an overshoot, or -1..1 of a bright picture
        np.full((48, 64), np.nan, "<f4"),
        np.arange(-2, 3070).reshape(48, 64).astype("<i4"),
        np.arange(3072).reshape(48, 64).astype("<i4"),  # of 12 bits, or 16 and nearly black
    ],
)
def test_numbers_that_could_be_two_pictures_are_refused(values: np.ndarray) -> None:
    with pytest.raises(PictureError, match="unclear"):
        read(tiff(values))


def holes() -> np.ndarray:
    """(48, 64) uint8: transparent on the left, half so in the middle, opaque on the right."""
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:, :20], alpha[:, 20:30] = 0, 128
    return alpha


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return (pixels * share + 255 * (1 - share)).round()


def with_palette() -> Image.Image:
    image = Image.fromarray(scene()).quantize(32)
    image.info["transparency"] = bytes(range(0, 256, 8))
    return image


TRANSPARENT = {
    "RGBA": (Image.fromarray(np.dstack([scene(), holes()])), on_white(scene(), holes())),
    "LA": (Image.fromarray(np.dstack([grey_scene(), holes()]), "LA"), on_white(GREY, holes())),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("name", TRANSPARENT)
def test_white_is_behind_what_is_transparent(name: str, kind: str) -> None:
    image, expected = TRANSPARENT[name]
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert distance(read(encoded(image, kind, **options)), expected) <= 1


@pytest.mark.parametrize(
    "image",
    [
        *(image for image, _ in TRANSPARENT.values()),
        Image.fromarray(np.dstack([scene(), holes()])).convert("RGBa"),
        Image.fromarray(np.dstack([grey_scene(), holes()]), "LA").convert("La"),
        Image.fromarray(np.dstack([scene(), holes()])).convert("PA"),
        with_palette(),
    ],
    ids=["RGBA", "LA", "RGBa", "La", "PA", "P"],
)
def test_transparency_is_read_as_transformers_reads_it(image: Image.Image) -> None:
    straight = {"RGBa": "RGBA", "La": "LA"}.get(image.mode)
    oracle = convert_to_rgb(image.convert(straight) if straight else image, return_numpy=True)
    assert distance(np.asarray(pictures.as_rgb(image)), oracle) == 0


def test_a_colour_that_stands_for_transparency_becomes_white() -> None:
    pixels = scene()
    key = png_chunk(b"tRNS", np.array([200, 30, 60], ">u2").tobytes())
    expected = pixels.copy()
    expected[10:20, 30:50] = 255
    assert distance(read(png(pixels, 8, 2, key)), expected) == 0
    key = png_chunk(b"tRNS", (np.array([200, 30, 60]) * 257).astype(">u2").tobytes())
    assert distance(read(png(pixels.astype(np.uint16) * 257, 16, 2, key)), expected) == 0


def test_a_grey_that_stands_for_transparency_becomes_white() -> None:
    expected = GREY.copy()
    expected[10:20, 30:50] = 255
    key = png_chunk(b"tRNS", np.array([200], ">u2").tobytes())
    assert distance(read(png(grey_scene(), 8, 0, key)), expected) == 0
    key = png_chunk(b"tRNS", np.array([200 * 257], ">u2").tobytes())
    assert distance(read(png(DEEP, 16, 0, key)), expected) == 0


def test_a_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert distance(read(encoded(image(), "PNG", icc_profile=profile)), scene()) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_pictures_are_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image(), kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))
    whole = Image.open(io.BytesIO(data))
    expected = np.asarray(ImageOps.exif_transpose(whole).convert("RGB"))
    assert distance(read(data), expected) == 0
    assert read(data).shape[0] == (64 if orientation > 4 else 48)
    deep = encoded(Image.fromarray(DEEP), "TIFF" if kind == "TIFF" else "PNG", exif=exif)
    assert read(deep).shape[0] == (64 if orientation > 4 else 48)


def test_nothing_is_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data, _ in (*COLOURED.values(), *DEEP_GREY.values()):
            read(data)
        pictures.as_rgb(with_palette())


def test_pictures_without_pixels_are_refused() -> None:
    with pytest.raises(PictureError, match="without pixels"):
        pictures.as_rgb(Image.new("RGB", (0, 0)))
