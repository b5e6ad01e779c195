"""Pictures to start from, to keep in part, and to follow: what comes out is what the formulas say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cascade_batch.api import Cascade, PriorOutput
from cascade_batch.engine.loading.checkpoints import load_effnet_encoder
from cascade_batch.errors import SpecError
from tests.api.test_parity import picture
from tests.whole_model import write_model

SIZE = {"height": 256, "width": 384}
CELLS = (6, 9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def ours(folder: Path) -> Cascade:
    return loaded(folder)


def loaded(folder: Path) -> Cascade:
    parts = {part: str(folder / f"{part}.safetensors") for part in ("effnet_encoder", "controlnet")}
    return Cascade.load(str(folder), image_encoder=str(folder / "image_encoder"), device="cpu", **parts)


def embeddings(model: Cascade, **given: Any) -> torch.Tensor:
    output = model.prior(**{"prompt": "a red cat", "seed": 3, "num_inference_steps": 10, **SIZE, **given})
    assert isinstance(output, PriorOutput)
    return output.image_embeddings


def encoded(folder: Path, image: Image.Image) -> torch.Tensor:
    """The picture's own embedding, by the encoder alone."""
    net = load_effnet_encoder([folder / "effnet_encoder.safetensors"], "float32", "cpu")
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        return net.encode(pixels)


def test_strength_0_gives_the_picture_back(ours: Cascade, folder: Path) -> None:
    image = picture(1, (9 * 32, 6 * 32))  # the size that the encoder sees, so nothing is scaled
    got = embeddings(ours, init_image=image, strength=0.0)
    assert torch.allclose(got, encoded(folder, image), atol=1e-5)
    assert got.std(dim=(2, 3)).min() > 0.001  # not one value for all pictures


def test_strength_decides_how_much_stays(ours: Cascade, folder: Path) -> None:
    image = picture(1, (9 * 32, 6 * 32))
    kept = encoded(folder, image)
    distances = [
        float((embeddings(ours, init_image=image, strength=strength) - kept).square().mean())
        for strength in (0.0, 0.1, 0.4, 0.7, 1.0)
    ]
    assert distances == sorted(distances)
    assert distances[0] < 1e-10
    assert distances[1] > 1e-4
    assert torch.equal(
        embeddings(ours, init_image=image), embeddings(ours, init_image=image, strength=0.8)
    )  # the original release's noise level


def test_strength_is_a_share_of_the_steps(ours: Cascade) -> None:
    seen: list[float] = []

    def note(_model: Cascade, _step: int, time: float, _tensors: Any) -> None:
        seen.append(time)

    embeddings(ours, init_image=picture(1), strength=0.5, callback_on_step_end=note)
    assert np.allclose(seen, [0.5, 0.4, 0.3, 0.2, 0.1])


def test_a_mask_keeps_what_is_black(ours: Cascade, folder: Path) -> None:
    image, mask = picture(1, (9 * 32, 6 * 32)), Image.new("L", (9 * 32, 6 * 32), 0)
    mask.paste(255, (0, 0, 4 * 32, 6 * 32))
    got, kept = embeddings(ours, init_image=image, mask=mask), encoded(folder, image)
    assert torch.allclose(got[..., 4:], kept[..., 4:], atol=1e-5)
    assert (got[..., :4] - kept[..., :4]).abs().mean() > 0.1
    white = embeddings(ours, init_image=image, mask=Image.new("L", image.size, 255))
    assert torch.equal(white, embeddings(ours, init_image=image, strength=1.0))


def test_a_controlnet_moves_the_picture_by_its_strength(ours: Cascade) -> None:
    plain, control = embeddings(ours), picture(4, (300, 200))
    assert torch.equal(plain, embeddings(ours, control_image=control, control_strength=0.0))
    moved = [
        float((embeddings(ours, control_image=control, control_strength=s) - plain).abs().mean())
        for s in (0.25, 0.5, 1.0)
    ]
    assert 0 < moved[0] < moved[1] < moved[2]


def test_a_canny_controlnet_sees_edges_only(ours: Cascade) -> None:
    """Two flat colours have the same edges: none; a square has others, whatever its colour's sign."""
    red, blue = (Image.new("RGB", (288, 192), colour) for colour in ("red", "blue"))
    same = [embeddings(ours, control_image=flat) for flat in (red, blue)]
    assert torch.equal(*same)
    square = red.copy()
    square.paste((0, 0, 0), (80, 60, 200, 140))
    assert not torch.equal(embeddings(ours, control_image=square), same[0])


def test_a_controlnet_for_inpainting_sees_the_rest(tmp_path: Path) -> None:
    """What is masked does not count; what is not, does."""
    model = loaded(write_model(tmp_path / "inpainting", channels=4))
    mask = Image.new("L", (288, 192), 0)
    mask.paste(255, (0, 0, 144, 192))
    one, other = picture(1, (288, 192)), picture(1, (288, 192))
    other.paste((9, 200, 30), (10, 10, 100, 100))  # under the mask
    assert torch.equal(
        embeddings(model, control_image=one, mask=mask), embeddings(model, control_image=other, mask=mask)
    )
    other.paste((9, 200, 30), (200, 10, 280, 100))
    assert not torch.equal(
        embeddings(model, control_image=one, mask=mask), embeddings(model, control_image=other, mask=mask)
    )
    with pytest.raises(SpecError, match="needs a mask"):
        embeddings(model, control_image=one)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"init_image": picture(1)}, "effnet_encoder"),
        ({"control_image": picture(1)}, "controlnet"),
        ({"images": picture(1)}, "image_encoder"),
        ({"mask": picture(1)}, "a mask without a picture"),
        ({"init_image": picture(1), "strength": 1.5}, "strength"),
        ({"init_image": picture(1), "strength": 0.5, "timesteps": [0.5]}, "where to begin"),
        ({"init_image": [picture(1)] * 3}, "init_image do not match"),
        ({"height": 250}, "height"),
    ],
)
def test_what_is_missing_is_named(given: dict[str, Any], named: str) -> None:
    with pytest.raises(SpecError, match=named):
        embeddings(Cascade.load("tiny", device="cpu"), **given)


def test_masks_soften_by_cell(ours: Cascade, folder: Path) -> None:
    """A half-bright mask mixes half of each."""
    image = picture(1, (9 * 32, 6 * 32))
    half = embeddings(ours, init_image=image, mask=Image.new("L", image.size, 128), num_inference_steps=1)
    new = embeddings(ours, init_image=image, mask=Image.new("L", image.size, 255), num_inference_steps=1)
    expected = torch.lerp(encoded(folder, image), new, 128 / 255)
    assert F.mse_loss(half, expected) < 1e-10
