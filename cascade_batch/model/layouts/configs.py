"""A network's `config.json` for files that come without one: noted in the file, or read off its shapes.

What shapes do not show is taken from the published networks: attention heads are 64 wide, pooled states become 4
tokens, Stage C's levels are of one size, Stage A's latents are scaled by 0.3764, and noise is predicted. Files that
this project writes note their config, so that a network which differs in these is not taken for another.
"""

import json
import reprlib
from collections.abc import Mapping
from typing import Any

from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts import image_configs
from cascade_batch.model.layouts.shapes import Shapes, heads_of

RES, TIME, ATTENTION = "SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"
KINDS = {"channelwise.4.weight": RES, "mapper.weight": TIME, "attention.to_q.weight": ATTENTION}
"""A key of a block -> the block's type."""
CLIP_SEQ, STAGE_A_SCALE = 4, 0.3764
CONDITIONS = ("sca", "crp")
CLIP_TOKENS = 49408
"""Of CLIP's tokenizer, start and end last; what a text encoder has beyond was added to it."""


def config_note(part: str) -> str:
    """The name of the note that holds a part's `config.json`."""
    return f"config.{part}"


def infer_config(part: str, shapes: Shapes, notes: Mapping[str, str], where: str) -> dict[str, Any]:
    """The `config.json` of a part from its file's notes, else from shapes under its diffusers names.

    Raises WeightsError if a shape that it needs is missing or not one of the published networks'.
    """
    if note := notes.get(config_note(part)):
        return _noted(note, where)
    try:
        return _INFER[part](shapes)
    except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError, StopIteration) as error:
        raise WeightsError(
            f"the keys do not tell what {part} this is",
            where=where,
            got=f"no usable {error}",
            next_step="use the diffusers layout, whose config.json tells",
        ) from None


def _noted(note: str, where: str) -> dict[str, Any]:
    try:
        config = json.loads(note)
    except (ValueError, RecursionError) as error:
        raise WeightsError("the config noted in the file cannot be read", where=where, got=error) from None
    if not isinstance(config, dict):
        raise WeightsError("the config noted in the file is no object", where=where, got=reprlib.repr(config))
    return config


def _stage_c(shapes: Shapes) -> dict[str, Any]:
    config = _unet(shapes, patch=1)
    return config | {
        "switch_level": [False] * (len(config["block_out_channels"]) - 1),
        "clip_text_in_channels": shapes["clip_txt_mapper.weight"][1],
        "clip_image_in_channels": shapes["clip_img_mapper.weight"][1],
    }


def _stage_b(shapes: Shapes) -> dict[str, Any]:
    return _unet(shapes, patch=2) | {
        "effnet_in_channels": shapes["effnet_mapper.0.weight"][1],
        "pixel_mapper_in_channels": shapes["pixels_mapper.0.weight"][1],
    }


def _unet(shapes: Shapes, patch: int) -> dict[str, Any]:
    down, up = _levels(shapes, "down_blocks"), _levels(shapes, "up_blocks")
    types = [_types(level) for level in down]
    channels = [shapes[f"down_blocks.{level}.0.channelwise.4.weight"][0] for level in range(len(down))]
    heads = [heads_of(c) if ATTENTION in kinds else 0 for c, kinds in zip(channels, types, strict=True)]
    time = next(key for key in shapes if key.endswith(".mapper.weight"))
    return {
        "in_channels": shapes["embedding.1.weight"][1] // patch**2,
        "out_channels": shapes["clf.1.weight"][0] // patch**2,
        "timestep_ratio_embedding_dim": shapes[time][1],
        "patch_size": patch,
        "conditioning_dim": shapes["clip_txt_pooled_mapper.weight"][0] // CLIP_SEQ,
        "block_out_channels": channels,
        "num_attention_heads": heads,
        "down_num_layers_per_block": [len(n) // len(t) for n, t in zip(down, types, strict=True)],
        "up_num_layers_per_block": [len(n) // len(t) for n, t in zip(up, reversed(types), strict=True)],
        "down_blocks_repeat_mappers": _repeats(shapes, "down_repeat_mappers", len(down)),
        "up_blocks_repeat_mappers": _repeats(shapes, "up_repeat_mappers", len(up)),
        "block_types_per_layer": types,
        "clip_text_pooled_in_channels": shapes["clip_txt_pooled_mapper.weight"][1],
        "clip_seq": CLIP_SEQ,
        "kernel_size": shapes["down_blocks.0.0.depthwise.weight"][-1],
        "dropout": [0.0] * len(down),
        "timestep_conditioning_type": [
            c for c in CONDITIONS if time.replace("mapper", f"mapper_{c}") in shapes
        ],
    }


def _levels(shapes: Shapes, blocks: str) -> list[list[str]]:
    """The types of every level's blocks, in their order."""
    levels: list[dict[int, str]] = []
    for key in shapes:
        for ending, kind in KINDS.items():
            if key.startswith(blocks) and key.endswith("." + ending):
                level, number = (int(text) for text in key.split(".")[1:3])
                if max(level, number) > len(shapes):
                    raise ValueError(f"level, {key} is beyond all keys")
                levels += [{} for _ in range(level + 1 - len(levels))]
                levels[level][number] = kind
    return [[level[number] for number in range(len(level))] for level in levels]


def _types(kinds: list[str]) -> list[str]:
    """The types of one layer: up to where they begin again."""
    return kinds[: kinds.index(kinds[0], 1)] if kinds[0] in kinds[1:] else kinds


def _repeats(shapes: Shapes, mappers: str, levels: int) -> list[int]:
    return [
        1 + sum(key.startswith(f"{mappers}.{level}.") and key.endswith(".weight") for key in shapes)
        for level in range(levels)
    ]


def _stage_a(shapes: Shapes) -> dict[str, Any]:
    patch = 2
    widths = sorted({shape[0] for key, shape in shapes.items() if key.endswith(".channelwise.2.weight")})
    mixing = sum(key.startswith("up_blocks.") and key.endswith(".gammas") for key in shapes)
    codes, channels = shapes["vquantizer.embedding.weight"]
    return {
        "in_channels": shapes["in_block.1.weight"][1] // patch**2,
        "out_channels": shapes["out_block.0.weight"][0] // patch**2,
        "up_down_scale_factor": patch,
        "levels": len(widths),
        "bottleneck_blocks": mixing - len(widths) + 1,
        "embed_dim": widths[-1],
        "latent_channels": channels,
        "num_vq_embeddings": codes,
        "scale_factor": STAGE_A_SCALE,
    }


def _text_encoder(shapes: Shapes) -> dict[str, Any]:
    layer = "text_model.encoder.layers."
    vocabulary, width = shapes["text_model.embeddings.token_embedding.weight"]
    end = min(vocabulary, CLIP_TOKENS) - 1
    return {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes[f"{layer}0.mlp.fc1.weight"][0],
        "num_hidden_layers": sum(key.startswith(layer) and key.endswith(".mlp.fc1.weight") for key in shapes),
        "num_attention_heads": heads_of(width),
        "hidden_act": "gelu",
        "max_position_embeddings": shapes["text_model.embeddings.position_embedding.weight"][0],
        "projection_dim": shapes["text_projection.weight"][0],
        "layer_norm_eps": 1e-5,
        "bos_token_id": end - 1,
        "eos_token_id": end,
        "pad_token_id": end,
    }


_INFER = {
    "stage_c": _stage_c,
    "stage_b": _stage_b,
    "stage_a": _stage_a,
    "text_encoder": _text_encoder,
    "image_encoder": image_configs.image_encoder,
    "effnet_encoder": image_configs.effnet_encoder,
    "controlnet": image_configs.controlnet,
}
