"""The effnet encoder is torchvision's EfficientNetV2-S to the last name, and computes what that computes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cascade_batch.engine.loading.checkpoints import load_effnet_encoder
from cascade_batch.engine.networks.effnet import EffnetEncoder, build_backbone
from cascade_batch.errors import WeightsError
from cascade_batch.model.config import EFFNET, TINY_EFFNET, parse_effnet
from cascade_batch.model.layouts import infer_config, recognise
from tests.engine.make_keys import KEYS, expand, shapes_of
from tests.engine.oracle import relative_error
from tests.engine.torchvision_effnet import OUTPUTS, STEMS, picture, seeded

TOLERANCE = 1e-5


def published() -> dict[str, list[int]]:
    """Names and shapes of the published file."""
    return expand(json.loads((KEYS / "effnet_encoder.json").read_text()))


def their_output(name: str) -> Tensor:
    return torch.tensor(json.loads(OUTPUTS.read_text())[name])


def tiny_weights(prefix: str = "") -> dict[str, Tensor]:
    weights = seeded(shapes_of(EffnetEncoder(TINY_EFFNET)))
    return {prefix + name: tensor for name, tensor in weights.items()}


def saved(folder: Path, tensors: dict[str, Tensor]) -> list[Path]:
    path = folder / "effnet_encoder.safetensors"
    save_file(tensors, path)
    return [path]


def test_names_shapes_and_count_are_the_published_ones() -> None:
    with torch.device("meta"):
        encoder = EffnetEncoder(EFFNET)
    assert shapes_of(encoder) == published()
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 20_197_968


def test_the_full_size_encoder_computes_what_torchvision_does() -> None:
    encoder = EffnetEncoder(EFFNET).eval()
    encoder.load_state_dict(seeded(published()))
    with torch.inference_mode():
        embeddings = encoder.encode(picture(3, 64, 96))
    assert (embeddings.shape, embeddings.dtype) == ((2, 16, 2, 3), torch.float32)
    assert relative_error(embeddings, their_output("encoder")) < TOLERANCE


@pytest.mark.parametrize("channels", STEMS)
def test_the_trunk_of_a_controlnet_computes_what_torchvision_does(channels: int) -> None:
    trunk = build_backbone(replace(TINY_EFFNET, in_channels=channels, stem_padding=0)).eval()
    trunk.load_state_dict(seeded(shapes_of(trunk)))
    with torch.inference_mode():
        features = trunk(picture(channels, 96, 70).permute(0, 2, 3, 1))
    assert relative_error(features.permute(0, 3, 1, 2), their_output(f"trunk {channels}")) < TOLERANCE


def test_shapes_tell_the_published_and_other_sizes() -> None:
    shapes = {name: tuple(shape) for name, shape in published().items()}
    assert parse_effnet(infer_config("effnet_encoder", shapes, {}, "a file")) == EFFNET
    shapes = {name: tuple(tensor.shape) for name, tensor in tiny_weights().items()}
    assert parse_effnet(infer_config("effnet_encoder", shapes, {}, "a file")) == TINY_EFFNET
    shapes["backbone.8.0.block.0.0.weight"] = (8, 8, 3, 3)
    with pytest.raises(WeightsError, match="7 are not the 6 of EfficientNetV2-S"):
        infer_config("effnet_encoder", shapes, {}, "a file")


@pytest.mark.parametrize("prefix", ["", "state_dict.", "encoder."])
def test_files_load_behind_any_prefix_with_their_counters(tmp_path: Path, prefix: str) -> None:
    tensors = tiny_weights()
    encoder = load_effnet_encoder(saved(tmp_path, tiny_weights(prefix)), "float32", "cpu")
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name
    assert encoder.state_dict()["mapper.1.num_batches_tracked"].dtype == torch.int64
    assert not encoder.training


def test_bfloat16_is_near_float32(tmp_path: Path) -> None:
    files = saved(tmp_path, tiny_weights())
    exact, near = (load_effnet_encoder(files, dtype, "cpu") for dtype in ("float32", "bfloat16"))
    with torch.inference_mode():
        expected, got = exact.encode(picture(3, 64, 64)), near.encode(picture(3, 64, 64))
    assert got.dtype == torch.float32
    assert 1e-4 < float((got - expected).norm() / expected.norm()) < 0.05


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("backbone.4.1.block.2.fc1.bias"), "1 missing: backbone.4.1.block.2.fc1.bias"),
        (lambda t: t.pop("backbone.4.0.block.3.0.weight"), "no usable 'backbone.4.0.block.3.0.weight'"),
        (
            lambda t: t.update({"mapper.1.running_mean": torch.zeros(3)}),
            r"1 of another shape: mapper.1.running_mean \[3\], not \[16\]",
        ),
        (lambda t: t.update({"mapper.1.weight": torch.zeros(16)}), "1 unexpected: mapper.1.weight"),
    ],
)
def test_a_damaged_file_is_refused_by_the_tensor(
    tmp_path: Path, damage: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    tensors = tiny_weights()
    damage(tensors)
    with pytest.raises(WeightsError, match=message):
        load_effnet_encoder(saved(tmp_path, tensors), "float32", "cpu")


def test_the_encoder_is_told_from_a_previewer_in_the_same_file() -> None:
    shapes = {f"encoder.{name}": tuple(shape) for name, shape in published().items()}
    found = recognise({**shapes, "previewer.blocks.11.num_batches_tracked": ()}, "a file")
    assert {part.part: part.prefix for part in found} == {
        "effnet_encoder": "encoder.",
        "previewer": "previewer.",
    }
