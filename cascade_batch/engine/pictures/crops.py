"""Cutting pictures to what an encoder looks at. Arrays are uint8."""

import numpy as np
from PIL import Image, ImageOps

from cascade_batch.errors import PictureError

MOST_LONG = 50
"""Times its height that a picture to vary may be wide, or the reverse: it is scaled whole before it is cut."""


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


def brightness(mask: Image.Image, width: int, height: int) -> np.ndarray:
    """(height, width): what `as_mask` gives, cut as `covering` cuts."""
    return np.asarray(ImageOps.fit(mask, (width, height), Image.Resampling.BILINEAR))
