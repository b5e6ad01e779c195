"""Merged weights are those of PEFT's and LyCORIS' own merging, and undoing gives back every bit."""

import copy
import json
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from peft import (
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from cascade_batch.engine.loading.lora_changes import added
from cascade_batch.engine.loading.lora_merging import merge
from cascade_batch.model.config import TINY_STAGE_C
from cascade_batch.model.layouts.lora_layouts import changes_of
from cascade_batch.model.parts import Lora
from tests.engine.oracle import pair_c, text_parts

TARGETS = ["to_q", "to_v", "to_out.0", "clf.1"]
"""Matrices, and a convolution."""
ADAPTERS: dict[str, Any] = {
    "lora": LoraConfig(r=4, lora_alpha=6),
    "rank stabilised": LoraConfig(r=4, lora_alpha=6, use_rslora=True),
    "patterns": LoraConfig(
        r=4, lora_alpha=6, rank_pattern={"to_q": 2, "up_blocks.*to_v": 3}, alpha_pattern={"clf.1": 9, "0.5.*to_q": 1}
    ),
    "both": LoraConfig(r=4, lora_alpha=6, use_rslora=True, rank_pattern={"clf.1": 1}, alpha_pattern={"to_v": 5}),
    "dora": LoraConfig(r=4, lora_alpha=6, use_dora=True, use_rslora=True),
    "biases": LoraConfig(r=4, lora_alpha=6, lora_bias=True, bias="lora_only"),
    "whole modules": LoraConfig(r=4, lora_alpha=6, bias="all", modules_to_save=["clip_txt_mapper", "embedding.1"]),
    "dropped fan": LoraConfig(r=4, lora_alpha=6, fan_in_fan_out=True, lora_dropout=0.1),
    "loha": LoHaConfig(r=4, alpha=6, rank_pattern={"to_q": 2}, alpha_pattern={"to_v": 1}),
    "lokr": LoKrConfig(r=2, alpha=6, decompose_factor=4),
    "lokr of two products": LoKrConfig(r=1, alpha=3, decompose_both=True, decompose_factor=8),
    "lokr of whole matrices": LoKrConfig(r=64, alpha=16, alpha_pattern={"to_q": 32}),
}  # fmt: skip


@cache
def networks() -> tuple:
    """Stage C, theirs and ours, and the text encoder's parts."""
    tokenizer, tower = text_parts()
    return *pair_c(TINY_STAGE_C), tokenizer, tower.requires_grad_(False)


def trained(network: nn.Module, config: Any, targets: list[str], folder: Path) -> dict[str, Tensor]:
    """Save a random adapter of a network as PEFT does, and merge it as PEFT does."""
    model = get_peft_model(copy.deepcopy(network), replace(config, target_modules=targets))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            wide = 0.5 if "magnitude" in name or parameter.ndim < 2 else parameter[0].numel() ** -0.5
            noise = torch.randn(parameter.shape, generator=generator) * wide
            parameter.data = parameter.data + noise if "magnitude" in name else noise
    model.save_pretrained(str(folder))
    return model.merge_and_unload().state_dict()


def adapter(folder: Path) -> Lora:
    config = json.loads((folder / "adapter_config.json").read_text())
    return Lora(folder / "adapter_model.safetensors", config=config)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ADAPTERS)
def test_stage_c_with_an_adapter_of_peft(name: str, tmp_path: Path) -> None:
    theirs, ours, tokenizer, tower = networks()
    before = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    expected = trained(theirs, ADAPTERS[name], TARGETS, tmp_path)
    merged = merge([adapter(tmp_path)], ours, tower, tokenizer)
    now = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    merged.undo()
    for key in before:
        torch.testing.assert_close(now[key], expected[key], rtol=1e-5, atol=1e-6)
        assert torch.equal(ours.state_dict()[key], before[key])
    assert sum(not torch.equal(now[key], before[key]) for key in before) > 15


@pytest.mark.filterwarnings("ignore")
def test_the_text_encoder_with_an_adapter_of_peft(tmp_path: Path) -> None:
    _, stage_c, tokenizer, tower = networks()
    config = LoraConfig(r=2, lora_alpha=5, use_rslora=True, use_dora=True)
    expected = trained(tower, config, ["q_proj", "out_proj", "fc1", "text_projection"], tmp_path)
    merged = merge([adapter(tmp_path)], stage_c, tower, tokenizer)
    now = {key: tensor.clone() for key, tensor in tower.state_dict().items()}
    merged.undo()
    for key in now:
        torch.testing.assert_close(now[key], expected[key], rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_files_that_diffusers_writes_tell_their_strength_in_the_header(tmp_path: Path) -> None:
    theirs, ours, tokenizer, tower = networks()
    layers, expected = {}, {}
    for name, network, targets in (("unet", theirs, TARGETS), ("text_encoder", tower, ["q_proj", "fc2"])):
        config = LoraConfig(
            r=4,
            lora_alpha=6,
            use_rslora=name == "unet",
            alpha_pattern={targets[0]: 3},
            target_modules=targets,
        )
        trained_one = inject_adapter_in_model(config, copy.deepcopy(network))
        for key, parameter in trained_one.named_parameters():
            if "lora_B" in key:
                parameter.data = torch.ones_like(parameter)
        layers[f"{name}_lora_layers"] = get_peft_model_state_dict(trained_one)
        layers[f"{name}_lora_adapter_metadata"] = config.to_dict()
        expected[name] = {
            f"{module}.weight": layer.get_base_layer().weight + layer.get_delta_weight("default")
            for module, layer in trained_one.named_modules()
            if hasattr(layer, "get_delta_weight")
        }
    StableDiffusionLoraLoaderMixin.save_lora_weights(tmp_path, **layers)
    merged = merge([Lora(tmp_path / "pytorch_lora_weights.safetensors")], ours, tower, tokenizer)
    now = {"unet": dict(ours.state_dict()), "text_encoder": dict(tower.state_dict())}
    for name, changed in expected.items():
        for key, weight in changed.items():
            torch.testing.assert_close(now[name][key], weight, rtol=1e-5, atol=1e-6)
    merged.undo()


LAYERS: dict[str, tuple[int, ...]] = {
    "linear": (20, 12),
    "square": (12, 12),
    "1x1": (20, 12, 1, 1),
    "3x3": (8, 12, 3, 3),
}
MODULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "lora": (LoConModule, {}),
    "rank stabilised lora": (LoConModule, {"rs_lora": True}),
    "lora in tucker's form": (LoConModule, {"use_tucker": True}),
    "lora with a scalar": (LoConModule, {"use_scalar": True}),
    "loha": (LohaModule, {}),
    "loha in tucker's form": (LohaModule, {"use_tucker": True, "rs_lora": True}),
    "lokr": (LokrModule, {"factor": 4}),
    "lokr of two products": (LokrModule, {"factor": 4, "lora_dim": 1, "decompose_both": True}),
    "lokr in tucker's form": (LokrModule, {"factor": 2, "use_tucker": True, "lora_dim": 2}),
    "lokr of whole matrices": (LokrModule, {"full_matrix": True}),
}  # fmt: skip


def layer_of(shape: tuple[int, ...]) -> nn.Module:
    rows, columns, *kernel = shape
    return nn.Conv2d(columns, rows, tuple(kernel)) if kernel else nn.Linear(columns, rows)


def filled(module: nn.Module) -> dict[str, Tensor]:
    """Give a module random numbers; what it would save."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "org" not in name and "dora" not in name:
                parameter.copy_(torch.randn_like(parameter))
    return {f"lora_unet_layer.{key}": tensor.contiguous() for key, tensor in module.state_dict().items()}


def their_weight(module: nn.Module, layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """What the layer's weight is with the module in place, read off inputs of a single one."""
    ones = torch.eye(prod(shape[1:])).view(-1, *shape[1:])
    with torch.no_grad():
        return (module(ones) - layer(torch.zeros(1, *shape[1:]))).flatten(1).T.reshape(shape)


@pytest.mark.parametrize("dora", [None, "rows", "channels"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", MODULES)
def test_a_layer_with_a_module_of_lycoris(name: str, layer: str, dora: str | None) -> None:
    kind, settings = MODULES[name]
    torch.manual_seed(0)
    shape, plain = LAYERS[layer], layer_of(LAYERS[layer])
    settings = {"lora_dim": 3, "alpha": 2, **settings}
    if dora:
        settings |= {"weight_decompose": True, "wd_on_out": dora == "rows"}
    module = kind("lora_unet_layer", plain, **settings)
    tensors = filled(module)
    before = plain.get_parameter("weight").detach().clone()
    expected = their_weight(module, plain, shape)
    networks = {"stage_c": {"layer.weight": shape, "layer.bias": shape[:1]}, "text_encoder": {}}
    change, *_ = changes_of({key: tuple(t.shape) for key, t in tensors.items()}, networks, "file")
    parts = {role: tensors[key].float() for role, key in change.keys.items()}
    scale = change.scale(parts["alpha"].item() if "alpha" in parts else None)
    torch.testing.assert_close(
        before + added(change, parts, before, scale, 1.0), expected, rtol=1e-4, atol=1e-4
    )
    halfway = added(change, parts, before, scale, 0.5)
    torch.testing.assert_close(before + halfway, (before + expected) / 2, rtol=1e-4, atol=1e-4)


def test_plain_differences_biases_and_norms(tmp_path: Path) -> None:
    _, ours, tokenizer, tower = networks()
    norm = "text_model.encoder.layers.0.layer_norm1"
    tensors = {
        "lora_unet_clf_1.diff": torch.randn(ours.get_parameter("clf.1.weight").shape),
        "lora_unet_clf_1.diff_b": torch.randn(ours.get_parameter("clf.1.bias").shape),
        f"lora_te_{norm.replace('.', '_')}.w_norm": torch.randn(tower.get_parameter(f"{norm}.weight").shape),
        f"lora_te_{norm.replace('.', '_')}.b_norm": torch.randn(tower.get_parameter(f"{norm}.bias").shape),
    }
    save_file(tensors, tmp_path / "full.safetensors")
    places = [
        (ours, "clf.1.weight"),
        (ours, "clf.1.bias"),
        (tower, f"{norm}.weight"),
        (tower, f"{norm}.bias"),
    ]
    before = [network.get_parameter(name).clone() for network, name in places]
    merged = merge([Lora(tmp_path / "full.safetensors", 0.5)], ours, tower, tokenizer)
    after = [network.get_parameter(name).clone() for network, name in places]
    merged.undo()
    for old, new, change, (network, name) in zip(before, after, tensors.values(), places, strict=True):
        torch.testing.assert_close(new, old + 0.5 * change)
        assert torch.equal(network.get_parameter(name), old)
