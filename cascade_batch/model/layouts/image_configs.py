"""Configs of the parts that look at pictures, read off their shapes: CLIP's vision tower, effnet encoder, ControlNets.

Shapes do not show at which stages an EfficientNet halves the picture, nor which of Stage C's blocks a ControlNet
adds to. Both are taken from the published networks. Every function raises KeyError or ValueError for shapes that do
not tell; `infer_config` says so in the user's words.
"""

import math
from typing import Any

from cascade_batch.model.layouts.shapes import Shapes, heads_of

STAGE_STRIDES = (1, 2, 2, 2, 1, 2)
"""Of EfficientNetV2-S, after a stem that halves."""
BLOCKS = {8: (0, 4, 8, 12, 51, 55, 59, 63), 64: tuple(range(64))}
"""Projections of a ControlNet -> the residual blocks of Stage C that they are for."""


def image_encoder(shapes: Shapes) -> dict[str, Any]:
    """`config.json` of a CLIP vision tower; what shapes do not show is ViT-L/14's."""
    embeddings, layer = "vision_model.embeddings.", "vision_model.encoder.layers."
    width, channels, patch, _ = shapes[f"{embeddings}patch_embedding.weight"]
    patches = shapes[f"{embeddings}position_embedding.weight"][0] - 1
    if math.isqrt(patches) ** 2 != patches:
        raise ValueError(f"image size, {patches} patches make no square")
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": shapes[f"{layer}0.mlp.fc1.weight"][0],
        "num_hidden_layers": sum(key.startswith(layer) and key.endswith(".mlp.fc1.weight") for key in shapes),
        "num_attention_heads": heads_of(width),
        "num_channels": channels,
        "image_size": math.isqrt(patches) * patch,
        "patch_size": patch,
        "hidden_act": "quick_gelu",
        "projection_dim": shapes["visual_projection.weight"][0],
        "layer_norm_eps": 1e-5,
    }


def effnet_encoder(shapes: Shapes) -> dict[str, Any]:
    """Fields of `EffnetConfig`."""
    return _effnet(shapes) | {"latent_channels": shapes["mapper.0.weight"][0]}


def controlnet(shapes: Shapes) -> dict[str, Any]:
    """Fields of `ControlNetConfig`, the trunk's under the trunk's name."""
    projections = sum(key.startswith("projections.") and key.endswith(".0.weight") for key in shapes)
    if projections not in BLOCKS:
        raise ValueError(f"projections, {projections} are neither the published 8 nor all 64")
    return {
        "trunk": _trunk(shapes),
        "out_channels": shapes["projections.0.2.weight"][0],
        "blocks": BLOCKS[projections],
    }


def _trunk(shapes: Shapes) -> dict[str, dict[str, Any]]:
    if "backbone.0.0.weight" in shapes:
        effnet = _effnet(shapes)
        # The original release swaps the stem of other than 3 channels, and its swap has no padding.
        return {"effnet": effnet | {"stem_padding": 1 if effnet["in_channels"] == 3 else 0}}
    layers = sum(key.startswith("backbone.") and key.endswith(".blocks.0.weight") for key in shapes)
    if not layers:
        return {"simple": {"in_channels": shapes["backbone.0.weight"][1]}}
    wide, channels = shapes["backbone.0.weight"][:2]
    inner, features = shapes["backbone.2.weight"][0], shapes["projections.0.0.weight"][1]
    return {
        "large": {
            "in_channels": channels,
            "wide_channels": wide,
            "inner_channels": inner,
            "layers": layers,
            "features": features,
        }
    }


def _effnet(shapes: Shapes) -> dict[str, Any]:
    stages = sorted({int(key.split(".")[1]) for key in shapes if ".block." in key})
    if len(stages) != len(STAGE_STRIDES):
        raise ValueError(f"stages, {len(stages)} are not the {len(STAGE_STRIDES)} of EfficientNetV2-S")
    kinds = [_first_block(shapes, f"backbone.{stage}.0.block.") for stage in stages]
    stem, channels = shapes["backbone.0.0.weight"][:2]
    return {
        "in_channels": channels,
        "stem_channels": stem,
        "stage_channels": [channels for _, _, channels in kinds],
        "stage_layers": [_layers(shapes, f"backbone.{stage}.") for stage in stages],
        "stage_strides": STAGE_STRIDES,
        "stage_expansions": [expansion for _, expansion, _ in kinds],
        "stage_fused": [fused for fused, _, _ in kinds],
        "features": shapes[f"backbone.{len(stages) + 1}.0.weight"][0],
    }


def _first_block(shapes: Shapes, block: str) -> tuple[bool, int, int]:
    """Of a stage's blocks: whether they are fused, how far they widen, and the channels that come out."""
    wide, channels_in, kernel_size = shapes[f"{block}0.0.weight"][:3]
    if kernel_size == 1:
        return False, wide // channels_in, shapes[f"{block}3.0.weight"][0]
    if f"{block}1.0.weight" in shapes:
        return True, wide // channels_in, shapes[f"{block}1.0.weight"][0]
    return True, 1, wide


def _layers(shapes: Shapes, stage: str) -> int:
    return len({key.removeprefix(stage).split(".")[0] for key in shapes if key.startswith(stage)})
