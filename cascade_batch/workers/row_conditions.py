"""A row's conditions besides text, from the prompt table's cells to arrays and settings.

The reading step fetches, decodes and cuts pictures, so that a broken one fails its row alone and the pools get arrays.
A row's settings, and the sha256 of its arrays, are its `conditions`: they stand in the manifest and decide stage keys.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL.Image import Image

from cascade_batch.engine import pictures
from cascade_batch.errors import PictureError, SpecError
from cascade_batch.model.conditions import Condition, Kind, check_together, of_stage, settled
from cascade_batch.model.geometry import ENCODER_STRIDE, embedding_side, latent_side
from cascade_batch.model.stages import C, Stage
from cascade_batch.run.stage_keys import SOURCES
from cascade_batch.settings.values import numbers, real, times
from cascade_batch.workers.row_pictures import PictureOpener, Sources

Row = Mapping[str, Any]
Size = tuple[int, int]
"""Height and width of the image in pixels."""


@dataclass
class RowConditions:
    """Of one prompt: arrays without the batch's dimension, plain settings, and where pictures came from."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    sources: Sources = field(default_factory=dict)

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
    """Makes a row's conditions for one stage."""

    def __init__(
        self,
        root: str,
        image_size: int | None,
        most_pixels: int = pictures.MOST_PIXELS,
        stage: Stage = C,
    ) -> None:
        """`root`: where relative paths lie; `image_size`: what the image encoder looks at, if there is one."""
        self._opener = PictureOpener(root, most_pixels)
        self._image_size, self._conditions = image_size, of_stage(stage)

    def read(self, row: Row) -> RowConditions:
        """Raises PictureError or SpecError for values of this row that cannot be used."""
        found, size = RowConditions(), (row["height"], row["width"])
        present = {c.column: row[c.column] for c in self._conditions if row.get(c.column) is not None}
        given = settled(present)
        for condition in self._conditions:
            name = condition.column
            if name not in given or (condition.neutral is not None and given[name] == condition.neutral):
                continue
            value = self._value(condition, given[name], size, found.sources)
            if isinstance(value, np.ndarray):
                found.arrays[name] = value
            else:
                found.settings[name] = value
        check_together(present)
        return found

    def _value(
        self, condition: Condition, cell: Any, size: Size, sources: Sources
    ) -> np.ndarray | float | list[float]:
        """A cell as its kind is read: an array, or a setting."""
        name = condition.column
        match condition.kind:
            case Kind.PICTURE | Kind.MASK | Kind.PICTURES:
                with pictures.refusing(name):
                    return self._cut(condition, cell, size, sources)
            case Kind.EMBEDS:
                return np.atleast_2d(numbers(name, cell, (1, 2)))
            case Kind.TOKENS:
                return numbers(name, cell, (2,))
            case Kind.POOLED:
                return numbers(name, cell, (1,))
            case Kind.LATENTS:
                return _latents(condition, cell, size)
            case Kind.FACTOR:
                return np.asarray(real(name, cell), np.float32)
            case Kind.REAL:
                return real(name, cell)
            case Kind.TIMES:
                return times(name, cell)

    def _cut(self, condition: Condition, cell: Any, size: Size, sources: Sources) -> np.ndarray:
        name = condition.column
        if condition.kind is Kind.PICTURES:
            several = cell if isinstance(cell, list) else [cell]
            return self._crops(self._opener.open(one, name, sources) for one in several)
        image = self._opener.open(cell, name, sources)
        height, width = (embedding_side(side) * ENCODER_STRIDE for side in size)
        if condition.kind is Kind.MASK:
            return pictures.brightness(pictures.as_mask(image), width, height)
        return pictures.covering(pictures.as_rgb(image), width, height)

    def _crops(self, opened: Iterable[Image]) -> np.ndarray:
        assert self._image_size is not None, "only a table with pictures to vary has some"
        cut = [pictures.clip_crop(pictures.as_rgb(image), self._image_size) for image in opened]
        if not cut:
            raise PictureError("an empty list of pictures")
        return np.stack(cut)


def _latents(condition: Condition, cell: Any, size: Size) -> np.ndarray:
    """(channels, height, width), of a tensor or of a flat list in that order."""
    side = embedding_side if condition.stage == C else latent_side
    name, cells = condition.column, (side(size[0]), side(size[1]))
    array = numbers(name, cell, (1, 3))
    if array.ndim == 1 and array.size % (cells[0] * cells[1]) == 0:
        array = array.reshape(-1, *cells)
    if array.shape[1:] != cells:
        raise SpecError("latents of another size", where=name, got=array.shape, expected=("channels", *cells))
    return array


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()
