"""What a picture's values mean in each of Pillow's modes: to 8-bit RGB, upright, with white behind what is transparent.

White is what transformers 5 puts there, and so the published pipelines.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from cascade_batch.engine.pictures.levels import levels
from cascade_batch.errors import PictureError

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> what brings the picture upright."""
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
"""Tags of a TIFF."""


def as_rgb(image: Image.Image) -> Image.Image:
    """Raises PictureError for values that could mean two pictures, and what Pillow raises for a broken file."""
    load(image)
    deep = numbers_of(image)
    shown = image if deep is None else _shown(deep)
    return turned(_on_white(shown) if is_transparent(shown) else shown.convert("RGB"), image)


def rgb_of_array(values: np.ndarray) -> Image.Image:
    """Of levels (H, W, 1, 3 or 4) uint8; the fourth channel is alpha."""
    image = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
    return _on_white(image) if image.mode == "RGBA" else image.convert("RGB")


def turned(made: Image.Image, image: Image.Image) -> Image.Image:
    """What was made of `image`, brought upright as its notes say; broken ones say nothing."""
    try:
        method = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  libraries raise anything for broken EXIF
        method = None
    return made if method is None else made.transpose(method)


def load(image: Image.Image) -> None:
    """Load a picture that may only have been opened. Raises PictureError for one without pixels."""
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tile:
        # Pillow 13 maps some files into memory and takes the sides of a turned picture for one another.
        name, image.filename = image.filename, ""
        image.load()
        image.filename = name
    image.load()
    if not (image.width and image.height):
        raise PictureError("a picture without pixels", got=image.size)


def is_transparent(image: Image.Image) -> bool:
    """Whether it has an alpha channel, or a colour that stands for transparency. (LAB's A is none.)"""
    alpha = image.mode in ("LA", "PA", "RGBA", *_PREMULTIPLIED)
    return alpha or image.info.get("transparency") is not None


def with_alpha(image: Image.Image) -> Image.Image:
    """As RGBA."""
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # of 16 bits, where Pillow kept the upper eight
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    return image.convert("RGBA")


@dataclass(frozen=True)
class Numbers:
    """Values of a grey picture of more than 8 bits, (H, W)."""

    values: np.ndarray
    most: int | None
    """What white is, where the file says so."""
    is_negative: bool
    """0 is white."""
    key: Any
    """The value that is transparent, if any."""


def numbers_of(image: Image.Image) -> Numbers | None:
    """Of a picture of more than 8 bits; None of any other."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return None
    tags = getattr(image, "tag_v2", {})
    return Numbers(
        np.asarray(image),
        _most(image, tags),
        tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO,
        image.info.get("transparency"),
    )


def _most(image: Image.Image, tags: Any) -> int | None:
    if image.mode.startswith("I;16"):
        return 2 ** int(tags.get(_BITS, (16,))[0]) - 1
    return 65535 if image.mode == "I" and image.format == "PPM" else None


def _shown(deep: Numbers) -> Image.Image:
    grey = levels(deep.values, deep.most)
    grey = 255 - grey if deep.is_negative else grey
    if deep.key is None:
        return Image.fromarray(grey)
    alpha = levels(deep.values != deep.key)
    return Image.fromarray(np.stack([grey, alpha], axis=-1), "LA")


def _on_white(image: Image.Image) -> Image.Image:
    shown = with_alpha(image)
    return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
