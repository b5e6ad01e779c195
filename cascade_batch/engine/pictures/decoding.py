"""From an encoded picture to a loaded one, whatever its notes hold, and whatever a decoder raises."""

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from cascade_batch.engine.pictures.notes import without_notes
from cascade_batch.errors import CascadeError, PictureError

MOST_PIXELS = 2**26
"""A picture that claims more is refused unread unless told otherwise: a few kilobytes of PNG unpack to any size."""
NOT_DECODED = ("EPS",)
"""Formats that are none of ours: Pillow has Ghostscript run what stands in the file."""

_lifting = threading.Lock()


def decode(data: bytes, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """An encoded picture, loaded, in its own mode and as it lies in the file; of several frames the first.

    Raises PictureError if it is none, broken, or larger than `most_pixels`.
    """
    with refusing(got=_described(data)):
        try:
            return _loaded(data, most_pixels)
        except PictureError:
            raise
        except Exception:  # noqa: BLE001
            bare = without_notes(data)
            return _loaded(data if bare is None else bare, most_pixels, with_notes=False)


@contextmanager
def refusing(where: str = "", got: str = "") -> Iterator[None]:
    """Whatever a library raises inside, which for a broken picture may be anything, is a PictureError."""
    try:
        yield
    except PictureError as error:
        raise _placed(error, where) from None
    except CascadeError:
        raise
    except Exception as error:
        told = "; ".join(text for text in (_reason(error), got) if text)
        raise PictureError("a picture cannot be read", where=where, got=told) from error


def _placed(error: PictureError, where: str) -> PictureError:
    if error.where or not where:
        return error
    return PictureError(
        error.what, where=where, got=error.got, expected=error.expected, next_step=error.next_step
    )


def _loaded(data: bytes, most_pixels: int, with_notes: bool = True) -> Image.Image:
    image = _opened(data, most_pixels)
    _check_size(image, most_pixels)
    if not with_notes and isinstance(image, TiffImagePlugin.TiffImageFile):
        image.load_end = lambda: None  # which reads every note
    with _allowing(image.width * image.height):
        image.load()
    _check_size(image, most_pixels)  # an icon may hold another size than it says
    return image


def _opened(data: bytes, most_pixels: int) -> Image.Image:
    Image.init()
    formats = [name for name in Image.ID if name not in NOT_DECODED]
    with _allowing(most_pixels):
        try:
            return Image.open(io.BytesIO(data), formats=formats)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _too_large(str(error).split(" exceeds")[0], "N", most_pixels) from None


@contextmanager
def _allowing(pixels: int) -> Iterator[None]:
    """Pillow's own limit is the process's: where it is lower, it is lifted meanwhile, for one picture at a time."""
    with _lifting:
        limit = Image.MAX_IMAGE_PIXELS  # not what another thread has lifted it to
    if limit is None or pixels <= limit:
        yield
        return
    with _lifting:
        Image.MAX_IMAGE_PIXELS = pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_size(image: Image.Image, most_pixels: int) -> None:
    if image.width * image.height > most_pixels:
        raise _too_large(image.size, image.width * image.height, most_pixels)


def _too_large(got: object, needed: object, most_pixels: int) -> PictureError:
    return PictureError(
        "a picture is too large",
        got=got,
        expected=f"{most_pixels:,} pixels at most",
        next_step=f"to allow it: --set limits.picture_pixels={needed}",
    )


def _reason(error: Exception) -> str:
    """What was raised, without addresses, which differ from run to run."""
    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    return re.sub(r"0x[0-9a-fA-F]{4,}", "0x...", str(error)) or type(error).__name__


def _described(data: bytes) -> str:
    return f"{len(data):,} bytes that begin {data[:8]!r}"
