"""Pictures given as arrays and tensors, of every type, range and shape that the published pipelines' users have."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from cascade_batch.api.arguments import pictures_of
from cascade_batch.errors import PictureError, SpecError
from tests.engine.pictures.scenes import grey_scene, scene

WHOLE = scene()
UNIT = WHOLE.astype(np.float64) / 255

VALUES = {
    "uint8": WHOLE,
    "int16": WHOLE.astype(np.int16),
    "uint16 of 0..255": WHOLE.astype(np.uint16),
    "uint16": WHOLE.astype(np.uint16) * 257,
    "int32": WHOLE.astype(np.int32),
    "int32 of 16 bits": WHOLE.astype(np.int32) * 257,
    "int64": WHOLE.astype(np.int64),
    "uint64": WHOLE.astype(np.uint64),
    "float16": UNIT.astype(np.float16),
    "float32": UNIT.astype(np.float32),
    "float64": UNIT,
    "float32 of 0..255": WHOLE.astype(np.float32),
    "float64 of 0..255, broken": WHOLE * 0.9999,
    "float32 of 16 bits": WHOLE.astype(np.float32) * 257,
    "float32 of -1..1": (UNIT * 2 - 1).astype(np.float32),
    "float16 of -1..1": (UNIT * 2 - 1).astype(np.float16),
}


def read(given: Any) -> np.ndarray:
    return np.stack([np.asarray(one) for one in pictures_of(given, "init_image")])


def as_tensor(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.ascontiguousarray(np.moveaxis(values, -1, -3)))


@pytest.mark.parametrize("name", VALUES)
def test_numbers_of_every_type_and_range(name: str) -> None:
    values = VALUES[name]
    for given in (
        values,
        values[None],
        np.moveaxis(values, -1, 0),
        as_tensor(values),
        as_tensor(values)[None],
    ):
        (got,) = read(given)
        assert np.abs(got.astype(int) - WHOLE).max() <= 1


def test_tensors_as_the_published_pipelines_make_them() -> None:
    image = Image.fromarray(WHOLE)
    for processor in (
        VaeImageProcessor(do_resize=False),
        VaeImageProcessor(do_resize=False, do_normalize=False),
    ):
        made = processor.preprocess(image)
        for given in (made, made.half(), made.bfloat16(), made.requires_grad_()):
            (got,) = read(given)
            assert np.abs(got.astype(int) - WHOLE).max() <= (2 if given.dtype is torch.bfloat16 else 1)


@pytest.mark.parametrize(
    "values",
    [
        grey_scene(),
        grey_scene()[..., None],
        grey_scene()[None],
        grey_scene()[None, ..., None],
        grey_scene()[None, None],
    ],
)
@pytest.mark.parametrize("make", [np.asarray, torch.tensor], ids=["array", "tensor"])
def test_greys_of_every_shape(values: np.ndarray, make: Any) -> None:
    (got,) = read(make(values))
    assert np.array_equal(got, np.repeat(grey_scene()[..., None], 3, axis=-1))


def test_batches_and_alpha() -> None:
    assert read(np.stack([WHOLE] * 5)).shape == (5, 48, 64, 3)
    assert read(as_tensor(np.stack([WHOLE] * 5))).shape == (5, 48, 64, 3)
    assert read(np.stack([grey_scene()] * 7)).shape == (7, 48, 64, 3)
    seen = np.dstack([UNIT, np.full((48, 64), 0.5)])
    for given in (seen, as_tensor(seen), as_tensor(seen)[None]):
        assert np.abs(read(given)[0] - (WHOLE / 2 + 127.5)).max() <= 1
    assert np.array_equal(read(np.eye(8, dtype=bool))[0, ..., 0], np.eye(8) * 255)


@pytest.mark.parametrize(
    ("given", "kind", "named"),
    [
        (UNIT * 4 - 2, PictureError, "floats from -2 to 2"),
        (UNIT * 1.5, PictureError, "unclear"),
        (UNIT * np.nan, PictureError, "NaN"),
        (WHOLE.astype(int) - 10, PictureError, "from -10"),
        (WHOLE.astype(int) * 5, PictureError, "up to 1275"),
        ((WHOLE > 99).astype(int), PictureError, "bool"),
        (WHOLE.astype(complex), PictureError, "complex"),
        (np.array([["x"]]), PictureError, "type <U1"),
        (WHOLE[:0], PictureError, "shape"),
        (WHOLE.reshape(-1), PictureError, "shape"),
        (WHOLE[None, None], PictureError, "shape"),
        (None, SpecError, "for every prompt"),
        ("photo.png", SpecError, "PIL.Image.open"),
        (b"...", SpecError, "PIL.Image.open"),
        ([[1, 2]], SpecError, "list"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(given: Any, kind: type[Exception], named: str) -> None:
    with pytest.raises(kind, match=named) as caught:
        read(given)
    assert "init_image" in str(caught.value)
