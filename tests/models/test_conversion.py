"""The two layouts: there and back byte for byte, for every network, and the same network loaded from either."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_stable_cascade import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from safetensors.torch import load_file, save_file
from torch import nn

from cascade_batch.errors import WeightsError
from cascade_batch.models.checkpoints import (
    PartFiles,
    load_stage_a,
    load_stage_b,
    load_stage_c,
    load_text_encoder,
)
from cascade_batch.models.conversion import write_diffusers, write_original
from tests.layouts.published import CONFIGS, original_weights, part_of, small_weights

LOAD: Mapping[str, Callable[..., nn.Module]] = {
    "stage_c": load_stage_c, "stage_b": load_stage_b, "stage_a": load_stage_a, "text_encoder": load_text_encoder,
}  # fmt: skip


def same_bytes(a: Path, b: Path) -> bool:
    """Whether two files hold the same tensors, to the bit."""
    ours, theirs = load_file(a), load_file(b)
    return ours.keys() == theirs.keys() and all(
        ours[key].dtype == theirs[key].dtype and torch.equal(_bits(ours[key]), _bits(theirs[key]))
        for key in ours
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def in_original(folder: Path, name: str, dtype: torch.dtype) -> PartFiles:
    """A small network as the original release would store it: one file, no config."""
    tensors = original_weights(small_weights(name), part_of(name))
    path = folder / f"{name}.safetensors"
    stored = {
        key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in tensors.items()
    }
    save_file({key: tensor.contiguous() for key, tensor in stored.items()}, path)
    return PartFiles(None, folder, (path,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_there_and_back_byte_for_byte(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    part, given = part_of(name), in_original(tmp_path, name, dtype)
    there = tmp_path / "there" / "diffusion_pytorch_model.safetensors"
    write_diffusers(part, given, there)
    back = tmp_path / "back.safetensors"
    write_original(part, PartFiles(None, there.parent, (there,)), back)
    assert same_bytes(given.files[0], back)
    again = tmp_path / "again" / "diffusion_pytorch_model.safetensors"
    write_diffusers(part, PartFiles(None, tmp_path, (back,)), again)
    assert same_bytes(there, again)
    assert (there.parent / "config.json").read_text() == (again.parent / "config.json").read_text()


@pytest.mark.parametrize("name", CONFIGS)
def test_either_layout_is_the_network_that_diffusers_loads(tmp_path: Path, name: str) -> None:
    part, given = part_of(name), in_original(tmp_path, name, torch.float32)
    there = tmp_path / "there" / "diffusion_pytorch_model.safetensors"
    write_diffusers(part, given, there)
    kind = PaellaVQModel if part == "stage_a" else StableCascadeUNet
    theirs = kind.from_pretrained(there.parent).state_dict()
    for files in (given.files, [there]):
        ours = LOAD[part](None, files, "float32", "cpu").state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_network_of_our_own_keeps_its_config_in_the_original_layout(tmp_path: Path) -> None:
    """Attention to the text alone and another scale cannot be read off shapes."""
    config = asdict(CONFIGS["stage_c"]) | {"self_attn": False, "prediction_type": "v_prediction"}
    source = tmp_path / "source.safetensors"
    save_file(small_weights("stage_c"), source)
    write_original("stage_c", PartFiles(config, tmp_path, (source,)), tmp_path / "stage_c.safetensors")
    loaded = load_stage_c(None, [tmp_path / "stage_c.safetensors"], "float32", "cpu")
    assert (loaded.config.self_attn, loaded.config.prediction_type) == (False, "v_prediction")


def test_every_part_of_a_community_file_loads(tmp_path: Path) -> None:
    text = small_weights("text_encoder")
    tower, projection = "text_encoder.clip_g.transformer.", text.pop("text_projection.weight")
    stored = {f"{tower}{key}": tensor for key, tensor in text.items()}
    stored["text_encoder.clip_g.text_projection"] = projection.T.contiguous()
    for part, prefix in (("stage_c", "model.diffusion_model."), ("stage_a", "vae.")):
        stored |= {prefix + key: t for key, t in original_weights(small_weights(part), part).items()}
    path = tmp_path / "all.safetensors"
    save_file(stored, path)
    for part in ("stage_c", "stage_a", "text_encoder"):
        loaded, expected = LOAD[part](None, [path], "float32", "cpu").state_dict(), small_weights(part)
        assert {key for key in loaded if "position_ids" not in key} == expected.keys()
        assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    with pytest.raises(WeightsError, match="no stage_b in these weights"):
        load_stage_b(None, [path], "float32", "cpu")


def test_a_dtype_that_holds_no_weights_is_refused(tmp_path: Path) -> None:
    tensors = small_weights("stage_b")
    tensors["clf.1.bias"] = tensors["clf.1.bias"].to(torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match=r"clf\.1\.bias in F8_E4M3"):
        load_stage_b(None, [tmp_path / "b.safetensors"], "float32", "cpu")
