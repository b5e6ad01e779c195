"""Image states are those of transformers: its tower, behind its preprocessing of the same picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from cascade_batch.engine.loading.checkpoints import load_image_encoder
from cascade_batch.engine.networks.image_encoder import build_image_tower
from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts import infer_config
from tests.engine.oracle import relative_error

TINY: dict[str, Any] = {
    "architectures": ["CLIPVisionModelWithProjection"],
    "model_type": "clip_vision_model",
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_channels": 3,
    "image_size": 56,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "projection_dim": 24,
    "layer_norm_eps": 1e-5,
}
VIT_L = TINY | {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "projection_dim": 768,
}
POSITIONS = "vision_model.embeddings.position_ids"


def theirs() -> CLIPVisionModelWithProjection:
    torch.manual_seed(0)
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(TINY)).eval()
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return tower


def saved(folder: Path, tensors: dict[str, Tensor]) -> list[Path]:
    path = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return [path]


def photo() -> Image.Image:
    """Neither square nor of one colour."""
    values = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((130, 90), Image.Resampling.BICUBIC)


def cut(image: Image.Image) -> Tensor:
    """CLIP's resize and crop alone."""
    settings = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    processor = CLIPImageProcessorPil(**settings, do_rescale=False, do_normalize=False)
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 1)


@torch.inference_mode()
def their_states(tower: CLIPVisionModelWithProjection, image: Image.Image) -> Tensor:
    settings = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    return tower(**CLIPImageProcessorPil(**settings)(image, return_tensors="pt")).image_embeds


@pytest.mark.parametrize("config", [TINY, None], ids=["config.json", "shapes"])
@pytest.mark.parametrize("prefix", ["", "clip_l_vision.", "state_dict."])
def test_states_are_those_of_transformers(tmp_path: Path, prefix: str, config: dict | None) -> None:
    tower = theirs()
    stored = {prefix + name: tensor for name, tensor in tower.state_dict().items()}
    encoder = load_image_encoder(config, saved(tmp_path, stored), "float32", "cpu")
    pixels = cut(photo())
    assert pixels.shape == (1, encoder.side, encoder.side, 3)
    with torch.inference_mode():
        states = encoder.embed(torch.cat([pixels, pixels.flip(2)]))
    assert (states.shape, states.dtype) == ((2, 24), torch.float32)
    assert relative_error(states[:1], their_states(tower, photo())) < 1e-5
    assert relative_error(states[1:], states[:1]) > 1e-3


def test_bfloat16_gives_float32_states_near_the_exact_ones(tmp_path: Path) -> None:
    tower = theirs()
    encoder = load_image_encoder(TINY, saved(tmp_path, tower.state_dict()), "bfloat16", "cpu")
    with torch.inference_mode():
        states = encoder.embed(cut(photo()))
    assert states.dtype == torch.float32
    assert 1e-4 < relative_error(states, their_states(tower, photo())) < 0.05


def test_shapes_tell_the_published_tower() -> None:
    with torch.device("meta"):
        tower = build_image_tower(VIT_L)
    shapes = {name: tuple(tensor.shape) for name, tensor in tower.state_dict().items()}
    assert sum(parameter.numel() for parameter in tower.parameters()) == 303_966_208
    assert infer_config("image_encoder", shapes, {}, "a file") == VIT_L
    shapes["vision_model.embeddings.position_embedding.weight"] = (259, 1024)
    with pytest.raises(WeightsError, match="258 patches make no square"):
        infer_config("image_encoder", shapes, {}, "a file")


def test_an_old_file_with_position_ids_loads(tmp_path: Path) -> None:
    tower = theirs()
    stored = {**tower.state_dict(), POSITIONS: torch.arange(17)[None]}
    encoder = load_image_encoder(None, saved(tmp_path, stored), "float32", "cpu")
    with torch.inference_mode():
        assert relative_error(encoder.embed(cut(photo())), their_states(tower, photo())) < 1e-5


def test_pictures_of_another_size_are_refused(tmp_path: Path) -> None:
    encoder = load_image_encoder(TINY, saved(tmp_path, theirs().state_dict()), "float32", "cpu")
    with pytest.raises(ValueError, match="64"):
        encoder.embed(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("visual_projection.weight"), "visual_projection.weight"),
        (lambda t: t.pop("vision_model.pre_layrnorm.bias"), "1 missing: vision_model.pre_layrnorm.bias"),
        (lambda t: t.update({"vision_model.head.bias": torch.zeros(3)}), "1 unexpected: vision_model.head"),
    ],
)
def test_a_damaged_file_is_refused_by_the_tensor(
    tmp_path: Path, damage: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    tensors = dict(theirs().state_dict())
    damage(tensors)
    with pytest.raises(WeightsError, match=message):
        load_image_encoder(None, saved(tmp_path, tensors), "float32", "cpu")
