"""The two layouts: there and back byte for byte, for every network, and the same network loaded from either."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_stable_cascade import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from safetensors.torch import load_file, save_file
from torch import nn

from cascade_batch.engine.loading.checkpoints import (
    load_stage_a,
    load_stage_b,
    load_stage_c,
    load_text_encoder,
)
from cascade_batch.engine.loading.conversion import write_diffusers, write_original
from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts import original_name
from cascade_batch.model.parts import PartFiles
from tests.model.published import CONFIGS, Tensors, original_weights, part_of, small_weights

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


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e8m0fnu])
def test_a_dtype_that_holds_no_weights_is_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = small_weights("stage_b")
    tensors["clf.1.bias"] = torch.ones_like(tensors["clf.1.bias"]).to(dtype)
    save_file(tensors, tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match=r"clf\.1\.bias in (I8|F8_E8M0)"):
        load_stage_b(None, [tmp_path / "b.safetensors"], "float32", "cpu")


def by_comfyui(tensors: Tensors, part: str, dtype: torch.dtype = torch.float32) -> Tensors:
    """As ComfyUI saves a network: the original names, but queries, keys and values apart; matrices in `dtype`."""
    saved = {}
    for key, tensor in tensors.items():
        name, third = original_name(key, part)
        name = name if third is None else name.replace("in_proj_", f"to_{'qkv'[third]}.")
        saved[f"model.diffusion_model.{name}"] = tensor.to(dtype) if tensor.ndim > 1 else tensor
    return saved


@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("part", ["stage_c", "stage_b"])
def test_what_comfyui_saved(
    tmp_path: Path,
    part: str,
    dtype: torch.dtype,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved, path = by_comfyui(small_weights(part), part, dtype), tmp_path / "comfyui.safetensors"
    assert any(".attention.attn.to_q.weight" in key for key in saved)
    save_file(saved, path)
    caplog.set_level("WARNING", "cascade_batch")
    monkeypatch.setattr(logging.getLogger("cascade_batch"), "propagate", True)
    loaded = LOAD[part](None, [path], "float32", "cpu").state_dict()
    assert ("float8 rounded off" in caplog.text) == (dtype != torch.float32)
    for key, tensor in small_weights(part).items():
        assert torch.equal(loaded[key], tensor.to(dtype).float() if tensor.ndim > 1 else tensor)
    there, back = tmp_path / "there" / "diffusion_pytorch_model.safetensors", tmp_path / "back.safetensors"
    write_diffusers(part, PartFiles(None, tmp_path, (path,)), there)
    theirs = StableCascadeUNet.from_pretrained(there.parent).state_dict()
    assert all(torch.equal(theirs[key].float(), loaded[key]) for key in loaded)
    write_original(part, PartFiles(None, tmp_path, (path,)), back)
    again = load_file(back)
    assert again.keys() == original_weights(small_weights(part), part).keys()
    assert {tensor.dtype for tensor in again.values()} == {torch.float32, dtype}


@pytest.mark.parametrize(
    "scales", ["scaled_fp8", "clf.1.scale_weight", "clf.1.scale_input", "clf.1.weight_scale", "clf.1.comfy_quant"]
)  # fmt: skip
def test_quantized_weights_are_refused_by_name(tmp_path: Path, scales: str) -> None:
    saved = by_comfyui(small_weights("stage_c"), "stage_c", torch.float8_e4m3fn)
    save_file({**saved, f"model.diffusion_model.{scales}": torch.ones(2)}, tmp_path / "c.safetensors")
    with pytest.raises(WeightsError, match=rf"(?s)cannot be read.*model\.diffusion_model\.{scales}"):
        load_stage_c(None, [tmp_path / "c.safetensors"], "float32", "cpu")
