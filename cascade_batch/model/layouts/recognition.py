"""Which parts a file holds, each by a key that no other part has, whatever prefix stands before it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts.renames import (
    COMFYUI,
    JOINED,
    PROJECTION,
    RENAMED,
    STAGE_B_POOLED,
    Source,
    sources_of,
)

MARKS = {
    "stage_c": ("clip_txt_mapper.weight",),
    "stage_b": ("effnet_mapper.0.weight",),
    "stage_a": ("vquantizer.embedding.weight", "vquantizer.codebook.weight"),
    "text_encoder": ("text_model.embeddings.token_embedding.weight",),
    "image_encoder": ("vision_model.embeddings.class_embedding",),
    "effnet_encoder": ("mapper.1.running_mean",),  # the rest of it is in ControlNets too
    "previewer": ("blocks.11.num_batches_tracked",),
    "controlnet": ("projections.0.0.weight",),
}
"""Part -> keys of which it has one."""
ORIGINAL_SIGNS = (JOINED, *RENAMED, "." + STAGE_B_POOLED[0])
TOLERATED = {
    "text_model.embeddings.position_ids": "a constant that transformers wrote until 4.31",
    "vision_model.embeddings.position_ids": "the same, of the image encoder",
    "logit_scale": "the temperature of CLIP's training, in community files",
}
"""Endings of keys that no network has, each with the reason why they are let pass."""
SCALES = {
    "scaled_fp8": "scaled float8",
    "scale_weight": "scaled float8",
    "scale_input": "scaled float8",
    "weight_scale": "scaled float8",
    "weight_scale_2": "scaled float4",
    "input_scale": "scaled float8",
    "comfy_quant": "ComfyUI's quantized",
    "absmax": "bitsandbytes' quantized",
    "quant_map": "bitsandbytes' quantized",
    "qweight": "GPTQ's or AWQ's quantized",
}
"""Last words of keys without which a file's weights mean nothing, and what such a file is."""
TOWER = "transformer."
"""Community files keep the text projection beside `transformer.`, where the rest of the tower is."""


SHOWN_KEYS = 5


@dataclass(frozen=True)
class Found:
    """One part in a file."""

    part: str
    layout: str
    """diffusers, original or comfyui."""
    prefix: str
    """What stands before all of its keys."""
    sources: dict[str, Source]
    """Names of the diffusers layout, and where each tensor is."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: source.shape for name, source in self.sources.items()}


def recognise(shapes: Mapping[str, tuple[int, ...]], where: str) -> list[Found]:
    """The parts among the keys of a file, or of all files of a sharded part.

    A key belongs to the part with the longest prefix that fits it. Raises WeightsError if a part is there twice.
    """
    prefixes = _prefixes(shapes, where)
    owned: dict[str, dict[str, str]] = {prefix: {} for prefix in prefixes}
    for key in shapes:
        fitting = [prefix for prefix in prefixes if key.startswith(prefix) or key == _projection(prefix)]
        if fitting and not key.endswith(tuple(TOLERATED)):
            owner = max(fitting, key=len)
            owned[owner][key[len(owner) :] if key.startswith(owner) else PROJECTION] = key
    return [_found(part, prefix, owned[prefix], shapes) for prefix, part in prefixes.items()]


def _prefixes(shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, str]:
    """Prefix -> its part."""
    prefixes = {}
    for part, marks in MARKS.items():
        found = [key[: -len(mark)] for key in shapes for mark in marks if _ends_with(key, mark)]
        if len(found) > 1 or (found and found[0] in prefixes):
            raise WeightsError(
                "more than one network under one name",
                where=where,
                got=", ".join(f"{part} behind {prefix!r}" for prefix in found),
                next_step="give each part a file of its own",
            )
        prefixes |= dict.fromkeys(found, part)
    return prefixes


def _projection(prefix: str) -> str | None:
    return prefix.removesuffix(TOWER) + PROJECTION if prefix.endswith(TOWER) else None


def strangers(shapes: Mapping[str, tuple[int, ...]], found: list[Found]) -> list[str]:
    """Keys of a file that belong to none of its parts."""
    known = {source.key for part in found for source in part.sources.values()}
    return [key for key in shapes if key not in known and not key.endswith(tuple(TOLERATED))]


def scales(shapes: Iterable[str]) -> list[str]:
    """Keys that make a file one of quantized weights."""
    return [key for key in shapes if key.rpartition(".")[2] in SCALES]


def check_unscaled(shapes: Iterable[str], where: str) -> None:
    """Raise WeightsError for quantized weights, saying of which kind: read without their scales they are noise."""
    if keys := scales(shapes):
        raise WeightsError(
            f"{SCALES[keys[0].rpartition('.')[2]]} weights cannot be read",
            where=where,
            got=first_keys(keys),
            expected="weights in float32, bfloat16, float16, or float8 without scales",
            next_step="take the file that this one was made from",
        )


def first_keys(keys: Sequence[str]) -> str:
    """Keys for a message: the first few, and how many more there are."""
    more = len(keys) - SHOWN_KEYS
    return ", ".join(keys[:SHOWN_KEYS]) + (f" and {more} more" if more > 0 else "")


def _ends_with(key: str, mark: str) -> bool:
    return key == mark or key.endswith("." + mark)


def _found(part: str, prefix: str, keys: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> Found:
    """The part of the given names, each with its key in the file."""
    sources: dict[str, Source] = {}
    for name, key in keys.items():
        sources |= sources_of(name, key, shapes[key])
    return Found(part, _layout(keys), prefix, sources)


def _layout(names: Iterable[str]) -> str:
    text = "\n".join(f".{name}" for name in names)
    if any(sign in text for sign in COMFYUI):
        return "comfyui"
    return "original" if any(sign in text for sign in ORIGINAL_SIGNS) else "diffusers"
