"""The way from the names of the original release to those of the diffusers layout, and back.

    original                            diffusers
    ...attention.attn.in_proj_weight    ...attention.to_q.weight, to_k.weight, to_v.weight   rows in thirds
    ...attention.attn.out_proj.weight   ...attention.to_out.0.weight
    clip_mapper.weight (Stage B)        clip_txt_pooled_mapper.weight
    vquantizer.codebook.weight          vquantizer.embedding.weight
    text_projection (community files)   text_projection.weight                               transposed

and so for the biases. All other names are the same.
"""

from dataclasses import dataclass

RENAMED = {
    ".attention.attn.out_proj.": ".attention.to_out.0.",
    "vquantizer.codebook.": "vquantizer.embedding.",
}
"""Parts of a name: original -> diffusers."""
STAGE_B_POOLED = ("clip_mapper.", "clip_txt_pooled_mapper.")
"""Beginnings of a name, in Stage B alone: Stage C has `clip_txt_pooled_mapper` in both layouts."""
JOINED, SPLIT = ".attention.attn.in_proj_", (".attention.to_q.", ".attention.to_k.", ".attention.to_v.")
PROJECTION = "text_projection"


@dataclass(frozen=True)
class Source:
    """Where in a file a tensor of the diffusers layout is."""

    key: str
    shape: tuple[int, ...]
    """Of the tensor in the diffusers layout."""
    third: int | None = None
    """Which third of the stored rows; None for all."""
    is_transposed: bool = False


def sources_of(name: str, key: str, shape: tuple[int, ...]) -> dict[str, Source]:
    """What a stored tensor is in the diffusers layout: one tensor, or three.

    `key` is its key in the file, `name` that without the part's prefix, `shape` as stored.
    """
    if JOINED in name and shape and shape[0] % 3 == 0:
        before, kind = name.split(JOINED)
        rows = (shape[0] // 3, *shape[1:])
        return {f"{before}{split}{kind}": Source(key, rows, third) for third, split in enumerate(SPLIT)}
    if name == PROJECTION:
        return {f"{name}.weight": Source(key, shape[::-1], is_transposed=True)}
    return {_renamed(name): Source(key, shape)}


def _renamed(name: str) -> str:
    for original, ours in RENAMED.items():
        name = name.replace(original, ours)
    original, ours = STAGE_B_POOLED
    return ours + name.removeprefix(original) if name.startswith(original) else name


def original_name(key: str, part: str) -> tuple[str, int | None]:
    """The name of a tensor in the original layout, and which third of its rows it is there."""
    for third, name in enumerate(SPLIT):
        if name in key:
            return key.replace(name, JOINED), third
    for original, ours in RENAMED.items():
        key = key.replace(ours, original)
    original, ours = STAGE_B_POOLED
    if part == "stage_b" and key.startswith(ours):
        key = original + key.removeprefix(ours)
    return key, None
