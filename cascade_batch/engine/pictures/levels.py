"""What numbers mean that are no 8-bit levels: which of them is black, and which is white.

Told by their type and range where only one reading makes a picture. Where two do, they are refused: a wrong guess
would show in nothing but the rendered picture.
"""

import numpy as np

from cascade_batch.errors import PictureError

SLACK = 0.01
"""How far beyond its range rounding may take a number; it is cut off."""
SIGNED_BELOW = -0.2
"""Numbers of -1..1 reach below this, unless a picture is very bright; those of 0..1 that overshoot do not."""
LEVELS_ABOVE = 32
"""Broken numbers of 0..255 reach above this, unless a picture is nearly black; unlimited brightness often does not."""
WORDS_ABOVE = 4095
"""16-bit numbers reach above this, unless a picture is nearly black; those of 10 and 12 bits do not."""
READ_AS = "bool, 0..255 as whole numbers or floats, 16-bit whole numbers, or floats of 0..1 or -1..1"


def levels(values: np.ndarray, most: int | None = None) -> np.ndarray:
    """As 8-bit levels, an array of the same shape.

    Args:
        most: what white is, for whole numbers of a known depth.

    Raises:
        PictureError: numbers that are no picture, or could be two.
    """
    if values.dtype == np.uint8 and most is None:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "uif":
        raise _refused(f"values of type {values.dtype}")
    if values.size == 0:
        raise _refused("none at all")
    if values.dtype.kind == "f":
        return _of_floats(values.astype(np.float32))
    return _of_whole(values, most)


def _of_floats(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise _refused("NaN or infinite values")
    low, high = float(values.min()), float(values.max())
    if low >= -SLACK and high <= 1 + SLACK:
        return _scaled(values, 255)
    if -1 - SLACK <= low < SIGNED_BELOW and high <= 1 + SLACK:
        return _scaled(values + 1, 127.5)
    if low >= 0 and (values == np.floor(values)).all():
        return _of_whole(values, None)
    if low >= 0 and LEVELS_ABOVE < high < 255 + SLACK:
        return _scaled(values, 1)
    raise _refused(f"floats from {low:.4g} to {high:.4g}")


def _of_whole(values: np.ndarray, most: int | None) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or (most is not None and high > most):
        raise _refused(f"whole numbers from {low} to {high}")
    if most is not None:
        return _scaled(values, 255 / most)
    if high == 1:
        raise _refused("whole numbers, 0 and 1 alone", "black and white is bool, or 0 and 255")
    if high <= 255:
        return values.astype(np.uint8)
    if WORDS_ABOVE < high <= 65535:
        return _scaled(values, 255 / 65535)
    raise _refused(f"whole numbers up to {high}")


def _scaled(values: np.ndarray, factor: float) -> np.ndarray:
    return (values.astype(np.float32) * np.float32(factor)).round().clip(0, 255).astype(np.uint8)


def _refused(
    got: str, next_step: str = "bring them to 0..255 as uint8, or to 0..1 as floats"
) -> PictureError:
    return PictureError(
        "numbers whose black and white are unclear", got=got, expected=READ_AS, next_step=next_step
    )
