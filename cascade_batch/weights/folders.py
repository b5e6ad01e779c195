"""Parts in the diffusers layout: one folder each.

With a `variant`, the networks must have it; the CLIP encoders fall back to their plain file
with a warning, as diffusers' pipelines do. A sharded index wins over a single file, as in diffusers.
"""

import logging

from cascade_batch.errors import WeightsError
from cascade_batch.storage import Storage
from cascade_batch.weights.parts import CONFIG, SUMS, Part, read_json

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
TOKENIZER_FILES = (
    "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip

log = logging.getLogger(__name__)


def is_part(storage: Storage, name: str) -> bool:
    """Whether a folder is a part's own."""
    markers = ("tokenizer.json", "vocab.json") if name == "tokenizer" else (CONFIG,)
    return any(storage.exists(marker) for marker in markers)


def stem_of(name: str) -> str:
    """What diffusers calls a part's weights, before variant and `.safetensors`."""
    return "model" if name in ("text_encoder", "image_encoder") else "diffusion_pytorch_model"


def folder_part(name: str, storage: Storage, variant: str | None) -> Part:
    """The part in its folder. Raises WeightsError if the folder has no weights, or not of the variant."""
    names = {info.key for info in storage.list()}
    if name == "tokenizer":
        return Part(name, storage.uri, (), tuple(f for f in (*TOKENIZER_FILES, SUMS) if f in names))
    stem = stem_of(name)
    weights = _weight_files(storage, names, stem, variant)
    if weights is None and variant and stem == "model":
        weights = _weight_files(storage, names, stem, None)
        log.warning("%s has no variant %s, its plain file is used", storage.uri, variant)
    if weights is None:
        raise WeightsError(
            f"{name} has no weights" + (f" of variant {variant}" if variant else ""),
            where=storage.uri,
            got=sorted(names - {"config.json"}),
            expected=_single_file(stem, variant),
            next_step=f"set model.variant, or model.{name} to another folder; only safetensors are read",
        )
    files, index = weights
    return Part(name, storage.uri, files, (CONFIG, *index, *({SUMS} & names)))


def _weight_files(
    storage: Storage, names: set[str], stem: str, variant: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """(weight files, index file if sharded), None if there are none of this variant."""
    index = f"{stem}.safetensors.index.{variant}.json" if variant else f"{stem}.safetensors.index.json"
    if index in names:
        return _shard_files(storage, names, index), (index,)
    single = _single_file(stem, variant)
    return ((single,), ()) if single in names else None


def _single_file(stem: str, variant: str | None) -> str:
    return f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"


def _shard_files(storage: Storage, names: set[str], index: str) -> tuple[str, ...]:
    content = read_json(storage, index).get("weight_map")
    files = set(content.values()) if isinstance(content, dict) else set()
    strange = sorted(str(f) for f in files if f not in names or not str(f).endswith(".safetensors"))
    if strange or not files:
        raise WeightsError(
            "the shard index does not fit its folder",
            where=storage.url(index),
            got=strange or content,
            expected=f"safetensors files among {sorted(names)}",
            next_step="copy the missing files, or the whole folder again",
        )
    return tuple(sorted(files))
