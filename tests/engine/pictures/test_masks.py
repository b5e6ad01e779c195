"""One and the same mask, in all the ways that people store it, says the same."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cascade_batch.api.arguments import pictures_of
from cascade_batch.engine import pictures
from cascade_batch.errors import PictureError, SpecError
from tests.engine.pictures.scenes import encoded, png, png_chunk

SHAPE = (24, 32)


def painted() -> np.ndarray:
    """(24, 32) bool: a rectangle off the middle."""
    mask = np.zeros(SHAPE, bool)
    mask[4:15, 9:30] = True
    return mask


ONE = painted().astype(np.uint8)
WHITE = ONE * np.uint8(255)


def indexed(*colours: tuple[int, int, int], values: np.ndarray = ONE) -> Image.Image:
    image = Image.fromarray(values, "P")
    image.putpalette([level for colour in colours for level in colour])
    return image


def coloured(colour: tuple[int, ...], behind: tuple[int, ...]) -> Image.Image:
    return Image.fromarray(np.where(painted()[..., None], colour, behind).astype(np.uint8))


def strokes() -> Image.Image:
    """Soft white strokes on nothing, as a brush leaves them."""
    colours = np.zeros((*SHAPE, 4), np.uint8)
    colours[painted()] = 255
    return Image.fromarray(colours)


IMAGES = {
    "white on black": Image.fromarray(WHITE),
    "labels 0 and 1": Image.fromarray(ONE),
    "one bit": Image.fromarray(painted()),
    "RGB": Image.fromarray(WHITE).convert("RGB"),
    "RGB, labels": Image.fromarray(ONE).convert("RGB"),
    "16 bits": Image.fromarray(WHITE.astype(np.uint16) * 257),
    "16 bits, labels": Image.fromarray(ONE.astype(np.uint16)),
    "16 bits, 0 and 255": Image.fromarray(WHITE.astype(np.uint16)),
    "32 bits": Image.fromarray(WHITE.astype(np.int32)),
    "32 bits, labels": Image.fromarray(ONE.astype(np.int32)),
    "float 0..1": Image.fromarray(ONE.astype(np.float32)),
    "float 0..255": Image.fromarray(WHITE.astype(np.float32)),
    "palette, black and white": indexed((0, 0, 0), (255, 255, 255)),
    "palette, white first": indexed((255, 255, 255), (0, 0, 0), values=1 - ONE),
    "palette, PASCAL VOC": indexed((0, 0, 0), (128, 0, 0), (0, 128, 0)),
    "palette, grey steps": indexed(*((level,) * 3 for level in range(256))),
    "palette, none": Image.fromarray(ONE, "P"),
    "palette, one colour": indexed((7, 7, 7), (7, 7, 7)),
    "palette, transparent black": Image.fromarray(WHITE).convert("P"),
    "red on black": coloured((230, 20, 20), (0, 0, 0)),
    "black, opaque where to paint": coloured((0, 0, 0, 255), (0, 0, 0, 0)),
    "white, opaque where to paint": strokes(),
    "red, opaque where to paint": coloured((230, 20, 20, 255), (0, 0, 0, 0)),
    "one colour, opaque where to paint": coloured((9, 99, 199, 255), (9, 99, 199, 0)),
    "opaque black and white": coloured((255, 255, 255, 255), (0, 0, 0, 255)),
    "black and white, black half transparent": coloured((255, 255, 255, 255), (0, 0, 0, 130)),
    "LA": Image.fromarray(np.dstack([ONE * 0, WHITE]), "LA"),
    "LA, opaque": Image.fromarray(WHITE).convert("LA"),
    "premultiplied": strokes().convert("RGBa"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_mask_says_the_same_in_every_mode(name: str) -> None:
    assert np.array_equal(np.asarray(pictures.as_mask(IMAGES[name])), WHITE)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("name", IMAGES)
def test_a_mask_says_the_same_in_a_file(name: str, kind: str) -> None:
    image = IMAGES[name]
    if image.mode in ("RGBa",) or (kind == "PNG" and image.mode in ("F", "I")):
        return
    data = encoded(image, kind)
    assert np.array_equal(np.asarray(pictures.as_mask(pictures.decode(data))), WHITE)


def test_a_transparent_colour_keeps() -> None:
    chunks = [png_chunk(b"PLTE", bytes([0, 0, 0, 255, 0, 0])), png_chunk(b"tRNS", b"\0")]
    data = png(ONE, 8, 3, *chunks)
    assert np.array_equal(np.asarray(pictures.as_mask(pictures.decode(data))), WHITE)


def test_a_jpeg_of_a_red_mask_is_one() -> None:
    image = coloured((255, 0, 0), (0, 0, 0)).resize((512, 384), Image.Resampling.NEAREST)
    got = np.asarray(pictures.as_mask(pictures.decode(encoded(image, "JPEG", quality=85))))
    expected = np.asarray(image)[..., 0]
    assert np.abs(got.astype(int) - expected).mean() < 4


ARRAYS: dict[str, Any] = {
    "bool": painted(),
    "uint8": WHITE,
    "uint8 labels": ONE,
    "int64 labels": ONE.astype(np.int64),
    "int64": WHITE.astype(np.int64),
    "uint16": WHITE.astype(np.uint16) * 257,
    "float32": ONE.astype(np.float32),
    "float64": ONE.astype(np.float64),
    "float 0..255": WHITE.astype(np.float32),
    "three channels": np.repeat(WHITE[..., None], 3, axis=-1),
    "alpha": np.dstack([ONE * 0] * 3 + [WHITE]),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("form", ["(H, W)", "(H, W, 1)", "(1, H, W)", "(1, H, W, 1)", "(1, 1, H, W)"])
@pytest.mark.parametrize("make", [np.asarray, torch.tensor], ids=["array", "tensor"])
def test_arrays_and_tensors_say_the_same(name: str, form: str, make: Any) -> None:
    values = ARRAYS[name]
    if values.ndim == 3:
        values = np.moveaxis(values, -1, 0)[None] if make is torch.tensor else values[None]
    else:
        values = {
            "(H, W)": values,
            "(H, W, 1)": values[..., None],
            "(1, H, W)": values[None],
            "(1, H, W, 1)": values[None, ..., None],
            "(1, 1, H, W)": values[None, None],
        }[form]
    (mask,) = pictures_of(make(values), "mask")
    assert np.array_equal(np.asarray(mask), WHITE)


def test_half_precision_and_several_masks() -> None:
    several = torch.stack([torch.tensor(ONE), torch.zeros(SHAPE)])
    for masks in (several, several[:, None].bfloat16(), several.half(), several.requires_grad_()):
        first, second = pictures_of(masks, "mask")
        assert np.array_equal(np.asarray(first), WHITE)
        assert not np.asarray(second).any()
    assert len(pictures_of(np.zeros((7, *SHAPE), bool), "mask")) == 7


def test_shades_are_kept() -> None:
    shades = np.arange(24 * 32).reshape(SHAPE) / (24 * 32 - 1)
    levels = (shades * 255).round().astype(np.uint8)
    for mask in (
        Image.fromarray(levels),
        Image.fromarray(levels).convert("RGB"),
        Image.fromarray(np.dstack([levels] * 3 + [levels * 0 + 255])),
        Image.fromarray(np.dstack([levels * 0] * 3 + [levels])),
        Image.fromarray((shades * 65535).round().astype(np.uint16)),
        Image.fromarray(shades.astype(np.float32)),
    ):
        assert np.abs(np.asarray(pictures.as_mask(mask)).astype(int) - levels).max() <= 1


def photograph() -> Image.Image:
    """With a hole, as some editors mark what is to be painted: the contrary of what is opaque."""
    pixels = np.random.default_rng(0).integers(0, 256, (*SHAPE, 4), np.uint8)
    pixels[..., 3] = 255 - WHITE
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (photograph(), "transparent in parts"),
        (Image.fromarray(ONE * 2), "labels up to 2"),
        (Image.fromarray(np.arange(768).reshape(SHAPE).astype(np.uint8) % 5), "labels up to 4"),
        (coloured((255, 0, 0), (0, 0, 255)), "several colours"),
        (
            indexed((0, 0, 0), (128, 0, 0), (0, 128, 0), values=(ONE + np.eye(*SHAPE)).astype(np.uint8)),
            "several colours",
        ),
        (Image.fromarray(ONE.astype(np.float32) * -4), "unclear"),
    ],
)
def test_masks_that_may_mean_several_things_are_refused(image: Image.Image, named: str) -> None:
    with pytest.raises(PictureError, match=named):
        pictures.as_mask(image)


def test_three_masks_are_not_three_channels() -> None:
    masks = torch.stack([torch.tensor(ONE), torch.zeros(SHAPE), torch.ones(SHAPE)])
    with pytest.raises(SpecError, match="several masks"):
        pictures_of(masks, "mask")
    assert len(pictures_of(masks[:, None], "mask")) == 3


def test_masks_are_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(WHITE), "PNG", exif=exif)
    for image in (pictures.decode(data), Image.open(io.BytesIO(data))):
        assert np.array_equal(np.asarray(pictures.as_mask(image)), np.rot90(WHITE, -1))
