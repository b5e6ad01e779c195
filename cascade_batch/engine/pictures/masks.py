"""Where a mask says to paint: 255 anew, 0 kept. People bring white on black, labels, colours, and transparency."""

import numpy as np
from PIL import Image

from cascade_batch.engine.pictures.levels import levels
from cascade_batch.engine.pictures.modes import Numbers, is_transparent, load, numbers_of, turned, with_alpha
from cascade_batch.errors import PictureError

GREY = 24
"""How far apart red, green and blue may be in a grey picture: JPEG tints it."""
PLAIN = 16
"""How far apart the levels of one colour may be."""
LABELS = 15
"""Whole numbers up to this are labels, not shades: the brightest would paint next to nothing."""
VISIBLE = 128
"""From this alpha on a colour is seen."""
SEEN = 2**20
"""Pixels that are looked at to tell whether a mask has one colour."""
SAME_HUE, STRAY = 0.2, 0.02
"""How far a colour may be from another shade of it, and the share of pixels that may be farther: edges in a JPEG."""


def as_mask(image: Image.Image) -> Image.Image:
    """Mode L, upright: 255 is painted, 0 kept.

    Grey is how much is painted. Of labels 0 and 1, the latter is painted; of one colour on black, the colour; of a mask
    that is transparent in parts and of one colour else, what is opaque.

    Raises:
        PictureError: several labels or colours, of which any may be meant.
    """
    load(image)
    deep = numbers_of(image)
    if deep is not None:
        found = _of_deep(deep)
    elif is_transparent(image):
        found = _of_alpha(np.asarray(with_alpha(image)))
    elif image.mode in ("1", "L"):
        found = _of_whole(np.asarray(image.convert("L")))
    else:
        colours = np.asarray(image.convert("RGB"))
        is_plain = image.mode == "P" and not np.ptp(colours, axis=(0, 1)).any()
        # A palette that tells nothing apart leaves its numbers, which may.
        found = _of_whole(np.asarray(image)) if is_plain else _of_colours(colours)
    return turned(Image.fromarray(found), image)


def mask_of_array(values: np.ndarray) -> Image.Image:
    """Of numbers (H, W, 1, 3 or 4); the fourth channel is alpha."""
    shown = _of_whole(values) if values.dtype.kind in "ui" else levels(values)
    if values.shape[-1] == 1:
        return Image.fromarray(shown[..., 0])
    return Image.fromarray(_of_alpha(shown) if values.shape[-1] == 4 else _of_colours(shown))


def _of_deep(deep: Numbers) -> np.ndarray:
    values = deep.values
    found = levels(values) if values.dtype.kind == "f" else _of_whole(values, deep.most)
    found = 255 - found if deep.is_negative else found
    return found if deep.key is None else np.where(values == deep.key, np.uint8(0), found)


def _of_whole(values: np.ndarray, most: int | None = None) -> np.ndarray:
    """Of shades, or labels 0 and 1; 8-bit values in a wider type are what they are."""
    high = int(values.max(initial=0))
    if high == 1 and values.min() >= 0:
        return levels(values == 1)
    if 1 < high <= LABELS:
        raise _refused(f"labels up to {high}")
    return levels(values, None if high <= 255 else most)


def _of_alpha(rgba: np.ndarray) -> np.ndarray:
    """(H, W) of (H, W, 4)."""
    colours, alpha = rgba[..., :3], rgba[..., 3]
    if alpha.min() == alpha.max() > 0:
        return _of_colours(colours)
    visible = colours[alpha >= VISIBLE]
    if not len(visible) or np.ptp(visible, axis=0).max() <= PLAIN:
        return alpha
    if np.ptp(visible, axis=1).max() > GREY:
        raise _refused("a coloured picture that is transparent in parts")
    return (_of_colours(np.where(alpha[..., None] > 0, colours, 0)) * (alpha / 255)).round().astype(np.uint8)


def _of_colours(rgb: np.ndarray) -> np.ndarray:
    """(H, W) of (H, W, 3): greys as bright as they are, and shades of one colour as the greys of one."""
    shade = rgb.max(axis=-1)
    if (shade - rgb.min(axis=-1)).max() <= GREY:
        return _of_whole(np.asarray(Image.fromarray(rgb).convert("L")))
    brightest = rgb.reshape(-1, 3)[shade.argmax()]
    some = rgb.reshape(-1, 3)[:: 1 + shade.size // SEEN]
    some = some[some.max(axis=-1) >= brightest.max() / 4]
    hues = some / some.max(axis=-1, keepdims=True)
    if (np.abs(hues - brightest / brightest.max()).max(axis=-1) > SAME_HUE).mean() > STRAY:
        raise _refused("several colours")
    return (np.arange(256) * (255 / brightest.max())).round().clip(0, 255).astype(np.uint8)[shade]


def _refused(got: str) -> PictureError:
    return PictureError(
        "a mask that could mean several things",
        got=got,
        expected="white to paint and black to keep, labels 0 and 1, one colour on black, or opaque parts of one colour",
        next_step="make white what is to be painted, and all else black",
    )
