"""Arguments in all the forms that the published pipelines take, brought to one: a list or array entry per image."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from cascade_batch.api.scalars import Array, to_numbers
from cascade_batch.engine import pictures
from cascade_batch.errors import SpecError
from cascade_batch.model.geometry import SIDE_STEP, STAGE_B_COMPRESSION
from cascade_batch.settings import values

Picture = Image.Image | np.ndarray | Tensor
Pictures = Picture | Sequence[Picture]


def states_of(
    states: Array | None, dimensions: int, prompts: int, copies: int, name: str
) -> np.ndarray | None:
    """Ready-made states, one entry per image; those of one prompt serve all.

    A pooled state may have a dimension of 1 before its last, as the published pipelines return it.
    """
    if states is None:
        return None
    array = values.numbers(name, to_numbers(states), (dimensions, dimensions + 1))
    if array.ndim == dimensions + 1 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != dimensions or len(array) not in (1, prompts):
        raise SpecError(
            f"{name} of another shape",
            got=array.shape,
            expected=f"{dimensions} dimensions, {prompts} prompts",
        )
    return np.repeat(np.broadcast_to(array, (prompts, *array.shape[1:])), copies, axis=0)


def image_embeds_of(embeds: Array | None, prompts: int, copies: int) -> np.ndarray | None:
    """(images, k, channels), from one set for all prompts, (1, k, channels), or one for each."""
    if embeds is None:
        return None
    array = values.numbers("image_embeds", to_numbers(embeds), (2, 3))
    if array.ndim == 2:
        array = array[:, None] if len(array) == prompts else array[None]
    return states_of(array, 3, prompts, copies, "image_embeds")


def picture_sets(given: Pictures | Sequence[Sequence[Picture]], prompts: int) -> list[list[Image.Image]]:
    """The pictures of each prompt: one, or several for all prompts, or a list of lists, one for each prompt."""
    own = _listed(given)
    if own and all(isinstance(several, list | tuple) for several in own):
        sets = [[one for entry in several for one in pictures_of(entry, "images")] for several in own]
    else:
        sets = [[one for entry in own for one in pictures_of(entry, "images")]] * prompts
    if len(sets) != prompts or len({len(own) for own in sets}) != 1 or not sets[0]:
        raise SpecError(
            "pictures do not match the prompts",
            got=[len(own) for own in sets],
            expected=f"as many for each of {prompts} prompts",
        )
    return sets


def clip_crops(sets: list[list[Image.Image]], size: int, copies: int) -> np.ndarray:
    """(images, k, size, size, 3) uint8."""
    with pictures.refusing("images"):
        crops = np.stack([np.stack([pictures.clip_crop(one, size) for one in own]) for own in sets])
    return np.repeat(crops, copies, axis=0)


def one_each(given: Pictures | None, prompts: int, copies: int, name: str) -> list[Image.Image] | None:
    """One picture per image, one serving all prompts."""
    if given is None:
        return None
    found = [one for entry in _listed(given) for one in pictures_of(entry, name)]
    if len(found) not in (1, prompts):
        raise SpecError(f"{name} do not match the prompts", got=len(found), expected=f"1 or {prompts}")
    return [one for one in (found * prompts if len(found) == 1 else found) for _ in range(copies)]


def pictures_of(given: Picture, name: str) -> list[Image.Image]:
    """Pictures of a PIL image, or of a tensor or array of any shape that `pictures.split` takes.

    For the name "mask" they are what `pictures.as_mask` gives, else RGB. Raises SpecError, PictureError.
    """
    whole, part = _READ_MASK if name == "mask" else _READ_RGB
    with pictures.refusing(name):
        if isinstance(given, Image.Image):
            return [whole(given)]
        if not isinstance(given, Tensor | np.ndarray):
            raise _no_picture(given, name)
        several = pictures.split(_numbers_of(given), isinstance(given, Tensor))
        if name == "mask" and given.ndim == 3 and given.shape[0] == several.shape[-1] > 1:
            _check_grey(several, name)
        shown = several if name == "mask" else pictures.levels(several)
        return [part(one) for one in shown]


_READ_RGB = (pictures.as_rgb, pictures.rgb_of_array)
_READ_MASK = (pictures.as_mask, pictures.mask_of_array)


def _numbers_of(given: Array) -> np.ndarray:
    if not isinstance(given, Tensor):
        return given
    values = given.detach().cpu()
    return (values.float() if values.dtype.is_floating_point else values).numpy()


def _check_grey(masks: np.ndarray, name: str) -> None:
    """Three or four masks as channels of one picture would all serve all prompts."""
    if (masks[..., 1:3] != masks[..., :1]).any():
        raise SpecError(
            "masks of one picture in colours, or several masks",
            where=name,
            got=f"shape {masks.shape[-1:] + masks.shape[1:3]}",
            expected="(N, 1, H, W) for several masks, (1, 3, H, W) for one in colours",
        )


def _no_picture(given: Any, name: str) -> SpecError:
    is_file = isinstance(given, str | bytes | os.PathLike)
    return SpecError(
        "not a picture",
        where=name,
        got=type(given).__name__,
        expected="a PIL image, tensor or array" + ("" if given is not None else " for every prompt"),
        next_step="open it: PIL.Image.open(...)" if is_file else "",
    )


def joined(embeddings: Array | Sequence[Array]) -> np.ndarray:
    """(images, 16, h, w), of one array, or of several, each with or without its first dimension."""
    name = "image_embeddings"
    arrays = [values.numbers(name, to_numbers(one), (3, 4)) for one in _listed(embeddings)]
    if len({one.shape[-3:] for one in arrays}) != 1:
        raise SpecError("embeddings of several sizes, or none", where=name, got=[one.shape for one in arrays])
    return np.concatenate([one if one.ndim == 4 else one[None] for one in arrays])


def pixels_of(cells: int) -> int:
    """Pixels along a side that an embedding was made for, up to a multiple of 8 that renders."""
    pixels = int(cells * 10.67) * STAGE_B_COMPRESSION  # as the published decoder does it
    return -(-pixels // SIDE_STEP) * SIDE_STEP


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]
