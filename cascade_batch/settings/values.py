"""What numbers and texts may be asked for: one set of rules for a table's rows, a spec and a call's arguments.

A number may be Python's, or numpy's or torch's of no dimension; true and false are none, and where a whole number is
wanted 3.0 is none either.
"""

import reprlib
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from cascade_batch.errors import SpecError
from cascade_batch.model.conditions import CONDITIONS
from cascade_batch.model.geometry import MAX_SIDE, MIN_SIDE
from cascade_batch.model.seeds import SEED_LIMIT

MOST_SCALE = float(np.finfo(np.float32).max)

RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, SEED_LIMIT - 1),
    "num_images": (1, 1_000_000),
    "width": (MIN_SIDE, MAX_SIDE),
    "height": (MIN_SIDE, MAX_SIDE),
    "prior_steps": (1, 1000),
    "prior_guidance_scale": (0, MOST_SCALE),
    "decoder_steps": (1, 1000),
    "decoder_guidance_scale": (0, MOST_SCALE),
    "stage_a_tile": (64, MAX_SIDE),
    **{name: condition.within for name, condition in CONDITIONS.items() if condition.within},
}
"""Least and greatest value by the prompt table's names."""


def whole(name: str, value: Any, where: str = "") -> int:
    """A whole number within its range. Raises SpecError that names `where`, else the name."""
    number = integer(value, where or name)
    check_within(name, number, where)
    return number


def real(name: str, value: Any, where: str = "") -> float:
    """A number within its range. Raises SpecError that names `where`, else the name."""
    number = plain(value)
    if not isinstance(number, Real) or isinstance(number, bool):
        raise SpecError("not a number", where=where or name, got=shown(value), expected=limits_of(name))
    check_within(name, number, where)
    return float(number)


def integer(value: Any, where: str) -> int:
    """A whole number of at most 64 bits. Raises SpecError."""
    number = plain(value)
    if not isinstance(number, Integral) or isinstance(number, bool):
        raise SpecError("not a whole number", where=where, got=shown(value), expected="a whole number")
    if int(number).bit_length() > 64:  # Python prints no very long one
        raise SpecError("a value out of range", where=where, got=shown(value))
    return int(number)


def check_within(name: str, value: Any, where: str = "") -> None:
    """Raise SpecError for a number out of its range, NaN for one."""
    low, high = RANGES[name]
    if not low <= value <= high:
        raise SpecError(
            "a value out of range", where=where or name, got=shown(value), expected=limits_of(name)
        )


def limits_of(name: str) -> str:
    """A range in words."""
    low, high = RANGES[name]
    return f"at least {low}, finite" if high == MOST_SCALE else f"{low} to {high}"


def text(value: Any, where: str) -> str:
    """A text that can be stored and tokenised. Raises SpecError."""
    if not isinstance(value, str):
        raise SpecError("not a text", where=where, got=shown(value), expected="a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = f"half a character at {error.start}: {value[error.start]!r}"
        raise SpecError("a text that is not Unicode", where=where, got=half) from None
    return str(value)


def numbers(name: str, value: Any, dimensions: Sequence[int]) -> np.ndarray:
    """A float32 array of finite numbers with one of these numbers of dimensions. Raises SpecError."""
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(value, np.float32)
    except (ValueError, TypeError, OverflowError):
        raise SpecError(
            "numbers that form no array", where=name, got="nulls, text, or lists of different lengths"
        ) from None
    if array.ndim not in dimensions or array.size == 0:
        expected = " or ".join(map(str, dimensions))
        raise SpecError(
            "numbers of another shape",
            where=name,
            got=array.shape,
            expected=f"{expected} dimensions, not empty",
        )
    if not np.isfinite(array).all():
        raise SpecError("numbers that are not finite", where=name)
    return array


def times(name: str, value: Any) -> list[float]:
    """Numbers in a row; whether they are time steps the schedule judges. Raises SpecError."""
    numbers(name, value, (1,))
    return [float(time) for time in value]


def plain(value: Any) -> Any:
    """The Python number or text of a scalar of numpy's or torch's, anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def shown(value: Any) -> str:
    """A value and its type, as an error names it; a long one is cut."""
    try:
        return f"{reprlib.repr(value)} ({type(value).__name__})"
    except ValueError:  # a number of too many digits to print
        return f"a number of {value.bit_length()} bits"
