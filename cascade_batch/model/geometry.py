"""Latent sizes of an image, in plain integers: the one place that knows 42.67 and 4."""

import math

from cascade_batch.errors import PromptTableError, SpecError

STAGE_C_COMPRESSION = 42.67
"""Pixels per embedding cell; the published prior's `resolution_multiple`."""
STAGE_B_COMPRESSION = 4
"""Pixels per Stage B latent cell, the factor of Stage A."""
ENCODER_STRIDE = 32
"""Pixels per embedding cell of the pictures that the effnet encoder and ControlNets see."""
MIN_SIDE, MAX_SIDE, SIDE_STEP = 256, 4096, 8


def embedding_side(pixels: int) -> int:
    """Cells of a Stage C embedding along a side of `pixels` (24 at 1024), as the published prior rounds it."""
    return math.ceil(pixels / STAGE_C_COMPRESSION)


def latent_side(pixels: int) -> int:
    """Cells of a Stage B latent along a side of `pixels`.

    The published decoder derives this from the embedding, which equals `pixels / 4` at multiples of
    128 and renders another size, or crashes, elsewhere. Deriving it from the pixels renders every size.
    """
    return pixels // STAGE_B_COMPRESSION


def check_side(name: str, pixels: int, where: str = "") -> None:
    """Raise PromptTableError unless `pixels` is a side that renders at exactly that size."""
    if MIN_SIDE <= pixels <= MAX_SIDE and pixels % SIDE_STEP == 0:
        return
    nearest = min(MAX_SIDE, max(MIN_SIDE, round(pixels / SIDE_STEP) * SIDE_STEP))
    raise PromptTableError(
        f"{name} cannot be rendered",
        where=where,
        got=pixels,
        expected=f"a multiple of {SIDE_STEP} from {MIN_SIDE} to {MAX_SIDE}",
        next_step=f"use {nearest}",
    )


def check_sides(height: int, width: int) -> None:
    """Raise SpecError unless a picture of these sides renders at exactly that size."""
    for name, pixels in (("height", height), ("width", width)):
        try:
            check_side(name, pixels)
        except PromptTableError as error:
            raise SpecError(str(error)) from None
