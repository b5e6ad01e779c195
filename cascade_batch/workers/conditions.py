"""A row's conditions besides text, from the prompt table's columns to arrays and back to batches.

The reading step fetches, decodes and cuts pictures, so that a broken one fails its row alone and pool C gets arrays. A
row's settings, and the sha256 of its arrays, are its `conditions`: they stand in the manifest and decide stage keys.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from cascade_batch.engine import pictures
from cascade_batch.errors import PictureError, SpecError, StorageError
from cascade_batch.model.geometry import ENCODER_STRIDE, embedding_side, latent_side
from cascade_batch.run.stage_keys import SOURCES
from cascade_batch.settings.values import numbers, real, times
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import is_absolute, split_key, split_query

Row = Mapping[str, Any]
MOST_BYTES = 16
"""Of a picture's file, for each of the pixels that it may have: four channels of 32 bits, unpacked."""


@dataclass
class RowConditions:
    """Of one prompt: arrays without the batch's dimension, plain settings, and where pictures came from."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, list[str]] = field(default_factory=dict)

    def described(self) -> str:
        """JSON of all that decides, and of the sources."""
        hashes = {name: _sha256(array) for name, array in self.arrays.items()}
        sources = {SOURCES: self.sources} if self.sources else {}
        return json.dumps(self.settings | hashes | sources, sort_keys=True)

    @property
    def kind(self) -> tuple:
        """What images must have in common to share a batch."""
        shapes = ((name, array.shape) for name, array in sorted(self.arrays.items()))
        return (*shapes, json.dumps(self.settings, sort_keys=True))


NO_CONDITIONS = RowConditions()


class RowReader:
    """Makes a row's conditions for Stage C."""

    def __init__(self, root: str, image_size: int | None, most_pixels: int = pictures.MOST_PIXELS) -> None:
        """`root`: where relative paths lie; `image_size`: what the image encoder looks at."""
        self._root, self._image_size, self._most_pixels = root, image_size, most_pixels

    def read(self, row: Row) -> RowConditions:
        """Raises PictureError or SpecError for values of this row that cannot be used."""
        found = RowConditions()
        width, height = embedding_side(row["width"]), embedding_side(row["height"])
        area = (width * ENCODER_STRIDE, height * ENCODER_STRIDE)
        if row.get("image") is not None and self._image_size is not None:
            found.arrays["image"] = self._crops(found, row["image"], self._image_size)
        for name in ("init_image", "control_image"):
            if row.get(name) is not None:
                with pictures.refusing(name):
                    image = pictures.as_rgb(self._picture(found, name, row[name]))
                    found.arrays[name] = pictures.covering(image, *area)
        if row.get("mask") is not None:
            with pictures.refusing("mask"):
                mask = pictures.as_mask(self._picture(found, "mask", row["mask"]))
                found.arrays["mask"] = pictures.brightness(mask, *area)
        _add_numbers(found, row, (height, width))
        _add_settings(found, row)
        return found

    def _crops(self, found: RowConditions, value: Any, size: int) -> np.ndarray:
        given = value if isinstance(value, list) else [value]
        with pictures.refusing("image"):
            images = (pictures.as_rgb(self._picture(found, "image", one)) for one in given)
            cut = [pictures.clip_crop(image, size) for image in images]
            if not cut:
                raise PictureError("an empty list of pictures")
            return np.stack(cut)

    def _picture(self, found: RowConditions, name: str, value: Any) -> Image.Image:
        if isinstance(value, dict):
            value = value["path"] if value["bytes"] is None else value["bytes"]
        if value is None:
            raise PictureError("a picture is null", where=name)
        if isinstance(value, str):
            found.sources.setdefault(name, []).append(split_query(value)[0])
            value = self._fetched(value, name)
        return pictures.decode(value, self._most_pixels)

    def _fetched(self, uri: str, name: str) -> bytes:
        """A picture's bytes. A store that fails for now leaves the shard undone; one that says no fails the row."""
        full = uri if is_absolute(uri) else f"{self._root}/{uri}"
        plain, query = split_query(full)
        folder, key = split_key(plain)
        most = self._most_pixels * MOST_BYTES + 2**20
        try:
            data = _read(Storage(folder, query), key, most)
        except StorageError as error:
            if error.transient:
                raise
            raise PictureError(
                "a picture cannot be fetched", where=name, got=f"{split_query(uri)[0]}: {error.what}"
            ) from None
        except SpecError as error:  # a URL with credentials, which the manifest would repeat
            raise PictureError(error.what, where=name, got=error.where) from None
        if len(data) > most:
            raise PictureError(
                "a file is too large for a picture",
                where=name,
                got=split_query(uri)[0],
                expected=f"{most:,} bytes",
            )
        return data


def _read(storage: Storage, file: str, most: int) -> bytes:
    """One byte more than `most`, if there are; never from a pipe or a device, which may not end."""
    if storage.is_local and storage.info(file) is None:
        raise StorageError("storage: no such file")
    return storage.read_head(file, most + 1)


def _add_numbers(found: RowConditions, row: Row, cells: tuple[int, int]) -> None:
    for name, dimensions in _STATES.items():
        if row.get(name) is not None:
            found.arrays[name] = numbers(name, row[name], (dimensions,))
    if row.get("image_embeds") is not None:
        found.arrays["image_embeds"] = np.atleast_2d(numbers("image_embeds", row["image_embeds"], (1, 2)))
    if row.get("prior_latents") is not None:
        found.arrays["prior_latents"] = _latents("prior_latents", row["prior_latents"], cells)


_STATES = {
    "prompt_embeds": 2,
    "prompt_embeds_pooled": 1,
    "negative_prompt_embeds": 2,
    "negative_prompt_embeds_pooled": 1,
}
"""Text states that come ready made, and their dimensions."""


def _add_settings(found: RowConditions, row: Row) -> None:
    if "init_image" in found.arrays:
        found.settings["strength"] = pictures.strength_of(row.get("strength"), "mask" in found.arrays)
    if "control_image" in found.arrays:
        strength = row.get("control_strength")
        value = real("control_strength", 1.0 if strength is None else strength)
        found.arrays["control_strength"] = np.asarray(value, np.float32)
    for name in ("sca", "crp"):
        if row.get(name):  # 0 is the same as none
            found.settings[name] = real(name, row[name])
    if row.get("prior_timesteps") is not None:
        found.settings["prior_timesteps"] = times("prior_timesteps", row["prior_timesteps"])
    if row.get("strength") is not None and "prior_timesteps" in found.settings:
        raise SpecError("strength and prior_timesteps both say where to begin", where="strength")
    if "mask" in found.arrays and not {"init_image", "control_image"} & found.arrays.keys():
        raise SpecError(
            "a mask without a picture", where="mask", expected="init_image or control_image beside it"
        )


def decoder_conditions(row: Row) -> RowConditions:
    """A row's conditions for Stage B. Raises SpecError for values that cannot be used."""
    found = RowConditions()
    if row.get("decoder_latents") is not None:
        size = (latent_side(row["height"]), latent_side(row["width"]))
        found.arrays["decoder_latents"] = _latents("decoder_latents", row["decoder_latents"], size)
    if row.get("decoder_timesteps") is not None:
        found.settings["decoder_timesteps"] = times("decoder_timesteps", row["decoder_timesteps"])
    return found


def _latents(name: str, value: Any, size: tuple[int, int]) -> np.ndarray:
    """(channels, height, width), of a tensor or of a flat list in that order."""
    array = numbers(name, value, (1, 3))
    if array.ndim == 1 and array.size % (size[0] * size[1]) == 0:
        array = array.reshape(-1, *size)
    if array.shape[1:] != size:
        raise SpecError("latents of another size", where=name, got=array.shape, expected=("channels", *size))
    return array


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()
