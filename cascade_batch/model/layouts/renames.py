"""The way from other names of a tensor to those of the diffusers layout, and back to the original release's.

    original                            diffusers
    ...attention.attn.in_proj_weight    ...attention.to_q.weight, to_k.weight, to_v.weight   rows in thirds
    ...attention.attn.out_proj.weight   ...attention.to_out.0.weight
    clip_mapper.weight (Stage B)        clip_txt_pooled_mapper.weight
    vquantizer.codebook.weight          vquantizer.embedding.weight
    text_projection (community files)   text_projection.weight                               transposed

    ComfyUI, kohya's trainer
    ...attention.attn.to_q.weight       ...attention.to_q.weight, and so for k and v         out_proj as in the original

and so for the biases. All other names are the same.
"""

from dataclasses import dataclass

RENAMED = {
    ".attention.attn.out_proj.": ".attention.to_out.0.",
    "vquantizer.codebook.": "vquantizer.embedding.",
}
"""Parts of a name: original -> diffusers."""
COMFYUI = {f".attention.attn.to_{letter}.": f".attention.to_{letter}." for letter in "qkv"}
"""The same of what ComfyUI saves: the original's names, with queries, keys and values apart."""
IN_LORAS = {
    **COMFYUI,
    **{f".attention.attn.in_proj.{third}.": f".attention.to_{letter}." for third, letter in enumerate("qkv")},
    ".attention.to_out.": ".attention.to_out.0.",
}
"""The same of what LoRAs alone call weights: OneTrainer's numbered thirds, diffusers' old attention processors."""
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
    for theirs, ours in {**RENAMED, **COMFYUI}.items():
        name = name.replace(theirs, ours)
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


def names_in_loras(key: str, part: str) -> set[str]:
    """Every name that a LoRA may give a weight: of the diffusers layout, the original (joined) one, and others."""
    joined, _ = original_name(key, part)
    others = {key.replace(ours, theirs) for theirs, ours in IN_LORAS.items()}
    return {key, joined.replace(JOINED, JOINED.removesuffix("_") + "."), *others}
