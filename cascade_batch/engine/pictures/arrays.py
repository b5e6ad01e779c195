"""Arrays of pictures, one or many, channels first or last or none: cut up into pictures."""

import numpy as np

from cascade_batch.errors import PictureError

CHANNELS = (1, 3, 4)


def split(values: np.ndarray, channels_first: bool) -> np.ndarray:
    """(N, H, W, channels) of (H, W), (N, H, W), or any of these with channels, first or last.

    Args:
        channels_first: where channels stand if both sides could be: first in tensors, last in arrays.

    Raises:
        PictureError: another number of dimensions, no channels among four, or no pixels.
    """
    array = values
    if array.ndim == 2 and array.size:
        return array[None, :, :, None]
    if array.ndim == 3 and array.size and not {array.shape[0], array.shape[-1]} & set(CHANNELS):
        return array[..., None]
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or not array.size or not {array.shape[1], array.shape[-1]} & set(CHANNELS):
        raise PictureError(
            "not pictures",
            got=f"shape {values.shape}",
            expected="(H, W), (N, H, W), or channels besides, 1, 3 or 4: (N, 3, H, W) tensors, (N, H, W, 3) arrays",
        )
    first, last = array.shape[1] in CHANNELS, array.shape[-1] in CHANNELS
    return np.moveaxis(array, 1, -1) if first and (channels_first or not last) else array
