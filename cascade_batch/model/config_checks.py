"""What can be told of a `config.json` before a network is built from it: types of its values, and sane counts."""

import math
import reprlib
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin

from cascade_batch.errors import WeightsError

COUNTS = (
    "down_num_layers_per_block",
    "up_num_layers_per_block",
    "down_blocks_repeat_mappers",
    "up_blocks_repeat_mappers",
    "levels",
    "bottleneck_blocks",
    "num_hidden_layers",
)
"""Fields that say how many of something with weights of its own there are."""
CLIP_FIELDS = {
    **dict.fromkeys(
        (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "max_position_embeddings", "projection_dim", "image_size", "patch_size", "num_channels",
        ),
        int,
    ),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), int | None),
    "layer_norm_eps": float,
    "hidden_act": str,
}  # fmt: skip
"""What decides a CLIP tower."""


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type; an int is a float, a bool is no number, and lists count as tuples."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in get_args(kind))
    if origin is tuple:
        return isinstance(value, list | tuple) and all(fits(entry, get_args(kind)[0]) for entry in value)
    if kind is None or kind is types.NoneType:
        return value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is kind


def check_types(config: Mapping[str, Any], kinds: Mapping[str, Any], where: str) -> None:
    """Raise WeightsError for a value of another type than its field's; sizes and counts are never negative."""
    for name, kind in kinds.items():
        if name not in config:
            continue
        value = config[name]
        if not fits(value, kind) or _least(value) < 0:
            raise WeightsError(
                f"{name} in a network's config is no value of its kind",
                where=where,
                got=reprlib.repr(value),
                expected=getattr(kind, "__name__", str(kind)),
            )


def check_counts(config: Mapping[str, Any], keys: int, where: str) -> None:
    """Raise WeightsError for a config of more blocks than the file has keys: building it could take forever."""
    for name in COUNTS:
        value = config.get(name)
        counts = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(count, int) and count > keys for count in counts):
            raise WeightsError(
                f"{name} in a network's config does not fit its weights",
                where=where,
                got=reprlib.repr(value),
                expected=f"at most the {keys} keys that are stored",
            )


def clip_config(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The config of a CLIP tower with its types checked. Raises WeightsError."""
    check_types(config, CLIP_FIELDS, where)
    return dict(config)


def _least(value: Any) -> float:
    if isinstance(value, list | tuple):
        return min(map(_least, value), default=0)
    return value if isinstance(value, int | float) else 0
