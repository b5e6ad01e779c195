"""Shapes of the published networks, and small networks of the same build with weights, in every layout."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import nn

from cascade_batch.engine.networks.stage_a import StageA
from cascade_batch.engine.networks.stage_b import StageB
from cascade_batch.engine.networks.stage_c import StageC
from cascade_batch.engine.networks.text import build_text_tower
from cascade_batch.model import config
from cascade_batch.model.layouts import original_name
from jobs.model_folder import text_config
from tests.engine.make_keys import KEYS, expand

Shapes = dict[str, tuple[int, ...]]
Tensors = dict[str, torch.Tensor]

PUBLISHED = ("stage_c", "stage_c_lite", "stage_b", "stage_b_lite", "stage_a")

_C = replace(
    config.STAGE_C,
    conditioning_dim=24,
    block_out_channels=(64, 64),
    num_attention_heads=(1, 1),
    down_num_layers_per_block=(1, 2),
    up_num_layers_per_block=(2, 1),
    clip_text_in_channels=64,
    clip_text_pooled_in_channels=64,
    clip_image_in_channels=8,
)
_B = replace(
    config.STAGE_B,
    conditioning_dim=16,
    block_out_channels=(16, 24, 64, 64),
    num_attention_heads=(0, 0, 1, 1),
    down_num_layers_per_block=(1, 1, 2, 1),
    up_num_layers_per_block=(1, 2, 1, 1),
    up_blocks_repeat_mappers=(3, 3, 2, 2),
    clip_text_pooled_in_channels=64,
)
CONFIGS = {
    "stage_c": _C,
    "stage_c_lite": replace(_C, down_num_layers_per_block=(1, 1), up_num_layers_per_block=(1, 1)),
    "stage_b": _B,
    "stage_b_lite": replace(_B, up_blocks_repeat_mappers=(2, 2, 2, 2)),
    "stage_a": replace(config.STAGE_A, bottleneck_blocks=2, embed_dim=24, num_vq_embeddings=16),
}
"""Small networks with the published ones' attention heads of 64."""
TEXT_CONFIG = text_config(vocabulary=530, width=64, layers=2, heads=1, length=77)


def published_shapes(name: str) -> Shapes:
    """Names and shapes of a published network in the diffusers layout."""
    table = expand(json.loads((KEYS / f"{name}.json").read_text()))
    return {key: tuple(shape) for key, shape in table.items()}


def part_of(name: str) -> str:
    return name.removesuffix("_lite")


def small_weights(name: str, seed: int = 0) -> Tensors:
    """Random weights of a small network, diffusers layout."""
    build: Mapping[str, Callable[[], nn.Module]] = {
        "stage_c": lambda: StageC(CONFIGS[name]),
        "stage_b": lambda: StageB(CONFIGS[name]),
        "stage_a": lambda: StageA(CONFIGS[name]),
        "text_encoder": lambda: build_text_tower(TEXT_CONFIG),
    }
    generator = torch.Generator().manual_seed(seed)
    tensors = build[part_of(name)]().state_dict()
    return {
        key: torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for key, tensor in tensors.items()
    }


def original_shapes(shapes: Shapes, part: str) -> Shapes:
    """The same in the original layout: queries, keys and values in one tensor."""
    renamed = {}
    for key, shape in shapes.items():
        name, third = original_name(key, part)
        renamed[name] = shape if third is None else (3 * shape[0], *shape[1:])
    return renamed


def original_weights(tensors: Tensors, part: str) -> Tensors:
    """Weights in the original layout."""
    found: dict[str, list[torch.Tensor]] = {}
    for key, tensor in tensors.items():
        found.setdefault(original_name(key, part)[0], []).append(tensor)
    return {key: torch.cat(thirds) if len(thirds) > 1 else thirds[0] for key, thirds in found.items()}
