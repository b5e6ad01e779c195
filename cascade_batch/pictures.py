"""Pictures that prompts bring along: decoded, and cut to what an encoder looks at. Arrays are uint8 RGB."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cascade_batch.errors import PictureError, SpecError

MOST_PIXELS = 2**26
"""A picture that claims more is refused unread: a few kilobytes of PNG can unpack to any size."""
MOST_LONG = 50
"""Times its height that a picture to vary may be wide, or the reverse: it is scaled whole before it is cut."""


def decode(data: bytes) -> Image.Image:
    """An encoded picture, upright, as RGB. Raises PictureError if it is none, broken, or absurdly large."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise PictureError(
                    "a picture is too large", got=image.size, expected=f"{MOST_PIXELS:,} pixels at most"
                )
            return ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        # Pillow raises SyntaxError for a PNG whose inside is damaged.
        raise PictureError("a picture cannot be read", got=_described(data, error)) from None


def clip_crop(image: Image.Image, size: int) -> np.ndarray:
    """(size, size, 3): the shorter side scaled to `size`, the middle of the longer one, as CLIP's processor does it."""
    short, long = sorted(image.size)
    if long > MOST_LONG * short:
        raise PictureError(
            "a picture is too narrow", got=image.size, expected=f"sides of at most 1 to {MOST_LONG}"
        )
    longer = int(size * long / short)
    wide = image.width >= image.height
    scaled = image.resize((longer, size) if wide else (size, longer), Image.Resampling.BICUBIC)
    left, top = (scaled.width - size) // 2, (scaled.height - size) // 2
    return np.asarray(scaled.crop((left, top, left + size, top + size)))


def covering(image: Image.Image, width: int, height: int) -> np.ndarray:
    """(height, width, 3): scaled to cover the area, what sticks out cut off evenly."""
    return np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC))


def brightness(image: Image.Image, width: int, height: int) -> np.ndarray:
    """(height, width): how bright a mask is, cut as `covering` cuts."""
    return np.asarray(ImageOps.fit(image.convert("L"), (width, height), Image.Resampling.BILINEAR))


def strength_of(strength: float | None, masked: bool) -> float:
    """How much noise a picture to start from gets: 0.8 unless told, as in the original release, or 1 behind a mask."""
    value = (1.0 if masked else 0.8) if strength is None else float(strength)
    if not 0 <= value <= 1:
        raise SpecError("a value out of range", where="strength", got=value, expected="0 to 1")
    return value


def _described(data: bytes, error: Exception) -> str:
    # Pillow's message names the buffer's address, which differs from run to run.
    reason = "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)
    return f"{reason}; {len(data):,} bytes that begin {data[:8]!r}"
