"""Parts in the diffusers layout: one folder each, with its weights in one variant or several.

Which one is taken, and where a part does without the variant that was asked for, is told in `variants`. A sharded
index wins over a single file, as in diffusers.
"""

import reprlib

from cascade_batch.errors import WeightsError
from cascade_batch.storage import Storage
from cascade_batch.weights.part import CONFIG, SUMS, Part, read_json
from cascade_batch.weights.variants import chosen_variant, variant_of

SUBFOLDERS = {
    "stage_c": "prior",
    "stage_b": "decoder",
    "stage_a": "vqgan",
    "text_encoder": "text_encoder",
    "tokenizer": "tokenizer",
    "image_encoder": "image_encoder",
    "effnet_encoder": "effnet_encoder",
    "controlnet": "controlnet",
}
COMBINED = {"stage_c": "prior_prior", "image_encoder": "prior_image_encoder"}
"""Folders that are of another name where both pipelines were saved as one."""
TOKENIZER_FILES = (
    "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip


def is_part(storage: Storage, name: str) -> bool:
    """Whether a folder is a part's own."""
    markers = ("tokenizer.json", "vocab.json") if name == "tokenizer" else (CONFIG,)
    return any(storage.exists(marker) for marker in markers)


def stem_of(name: str) -> str:
    """What diffusers calls a part's weights, before variant and `.safetensors`."""
    return "model" if name in ("text_encoder", "image_encoder") else "diffusion_pytorch_model"


def folder_part(name: str, storage: Storage, variant: str | None) -> Part:
    """The part in its folder. Raises WeightsError for a folder without weights, or with several and none asked for."""
    names = {info.key for info in storage.list()}
    if name == "tokenizer":
        return Part(name, storage.uri, (), tuple(f for f in (*TOKENIZER_FILES, SUMS) if f in names))
    stem = stem_of(name)
    stored = _variants(names, stem)
    if not stored:
        raise WeightsError(
            f"{name} has no weights",
            where=storage.uri,
            got=sorted(names - {CONFIG}),
            expected=f"{stem}.safetensors",
            next_step=f"set model.{name} to another folder; only safetensors are read",
        )
    file = stored[chosen_variant(stored, variant, storage.uri, name)]
    index = (file,) if file.endswith(".json") else ()
    files = shard_files(storage, names, file) if index else (file,)
    return Part(name, storage.uri, files, (CONFIG, *index, *({SUMS} & names)))


def _variants(names: set[str], stem: str) -> dict[str | None, str]:
    """Variant, None for the plain weights -> its shard index, or else its single file."""
    found: dict[str | None, str] = {}
    for file in sorted(
        names, key=lambda name: (name.endswith(".json"), name)
    ):  # an index takes its file's place
        variant = variant_of(file, stem)
        if variant is not None:
            found[variant or None] = file
    return found


def shard_files(storage: Storage, names: set[str], index: str) -> tuple[str, ...]:
    """The files that a shard index names. Raises WeightsError for one that is not in its folder."""
    content = read_json(storage, index).get("weight_map")
    files = {str(file) for file in content.values()} if isinstance(content, dict) else set()
    strange = sorted(file for file in files if file not in names or not file.endswith(".safetensors"))
    if strange or not files:
        raise WeightsError(
            "the shard index does not fit its folder",
            where=storage.url(index),
            got=reprlib.repr(strange or content),
            expected=f"safetensors files among {sorted(names)}",
            next_step="copy the missing files, or the whole folder again",
        )
    return tuple(sorted(files))
