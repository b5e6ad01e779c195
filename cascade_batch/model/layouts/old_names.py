"""`config.json` files from before March 2024, which name a network's fields as the original release does."""

import reprlib
from collections.abc import Mapping
from typing import Any

from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts.configs import ATTENTION, RES, TIME

MODERN = {
    "c_in": "in_channels",
    "c_out": "out_channels",
    "c_r": "timestep_ratio_embedding_dim",
    "c_cond": "conditioning_dim",
    "c_hidden": "block_out_channels",
    "nhead": "num_attention_heads",
    "c_clip_text": "clip_text_in_channels",
    "c_clip_text_pooled": "clip_text_pooled_in_channels",
    "c_clip_img": "clip_image_in_channels",
    "c_clip_seq": "clip_seq",
    "c_effnet": "effnet_in_channels",
    "c_pixels": "pixel_mapper_in_channels",
    "t_conds": "timestep_conditioning_type",
}
"""Old name -> today's, where the value stays as it is."""
PAIRS = {
    "blocks": ("down_num_layers_per_block", "up_num_layers_per_block"),
    "block_repeat": ("down_blocks_repeat_mappers", "up_blocks_repeat_mappers"),
}
"""Old name of a pair -> today's two names."""
LETTERS = {"C": RES, "T": TIME, "A": ATTENTION}
"""Of `level_config`, such as "CTA"."""


def modern(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The config under today's names; one that has them already comes back as it is.

    Raises WeightsError for an old value that cannot be read.
    """
    renamed: dict[str, Any] = {}
    for key, value in config.items():
        try:
            renamed |= _modern(key, value)
        except (TypeError, ValueError, KeyError) as error:
            raise WeightsError(
                "a network's config cannot be read",
                where=where,
                got=f"{key}: {reprlib.repr(value)}",
                expected=str(error),
            ) from None
    return renamed


def _modern(key: str, value: Any) -> dict[str, Any]:
    if key in PAIRS:
        down, up = value
        return dict(zip(PAIRS[key], (down, up), strict=True))
    if key == "level_config":
        return {"block_types_per_layer": [[LETTERS[letter] for letter in level] for level in value]}
    if key == "nhead":  # -1 stands for a level without attention
        return {MODERN[key]: [max(0, heads) for heads in value]}
    return {MODERN.get(key, key): value}
