"""Pictures that prompts bring along, from files, PIL and arrays of all kinds to what the encoders look at.

`decode` opens files; `as_rgb` and `as_mask` say what a picture's values mean, for a table's pictures and for those
given in Python alike; `clip_crop`, `covering` and `brightness` cut them. Colour profiles are not applied, as the
published pipelines do not apply them: their encoders were trained without.
"""

from cascade_batch.engine.pictures.arrays import split
from cascade_batch.engine.pictures.crops import brightness, clip_crop, covering
from cascade_batch.engine.pictures.decoding import MOST_PIXELS, decode, refusing
from cascade_batch.engine.pictures.levels import levels
from cascade_batch.engine.pictures.masks import as_mask, mask_of_array
from cascade_batch.engine.pictures.modes import as_rgb, rgb_of_array

__all__ = [
    "MOST_PIXELS",
    "as_mask",
    "as_rgb",
    "brightness",
    "clip_crop",
    "covering",
    "decode",
    "levels",
    "mask_of_array",
    "refusing",
    "rgb_of_array",
    "split",
]
