"""A run's LoRA files: found, checked against the model before anything is spent, fetched and hashed."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts.lora_layouts import TARGETS, Change, changes_of
from cascade_batch.model.layouts.lora_strength import strengths
from cascade_batch.settings import LoraSpec, ModelSpec
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import split_name
from cascade_batch.weights.fetching import digest, fetch
from cascade_batch.weights.hub_ids import hub_url
from cascade_batch.weights.part import Part, file_header, header_of, read_json
from cascade_batch.weights.single_files import SUFFIX

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""The names that PEFT gives."""
USUAL = (ADAPTER, "pytorch_lora_weights.safetensors")
"""What PEFT and diffusers call the LoRA of a folder."""

log = logging.getLogger(__name__)


def locate_loras(model: ModelSpec, parts: Mapping[str, Part]) -> list[Part]:
    """The LoRAs of a model whose parts are located, in the order of merging. Reads headers and adapter configs alone.

    Raises WeightsError for one that is missing, damaged, changes what the model does not have, or does not tell how
    strong it is.
    """
    if not model.loras:
        return []
    networks = {name: header_of(parts[name]).found.shapes for name in TARGETS}
    return [_locate(lora, networks) for lora in model.loras]


def _locate(lora: LoraSpec, networks: Mapping[str, Mapping[str, tuple[int, ...]]]) -> Part:
    storage, file = _file_of(hub_url(lora.uri).rstrip("/"))
    header, where = file_header(storage, file), storage.url(file)
    changes = changes_of(header.shapes, networks, where)
    config = read_json(storage, ADAPTER_CONFIG) if _has_config(storage, file, changes) else None
    told = strengths(changes, header.notes, config, lora.alpha, where)
    if any(scale is None and _lacks_alpha(change) for change, scale in zip(changes, told, strict=True)):
        log.info("%s names no alpha: taken as equal to its rank, as diffusers does", where)
    return Part("lora", storage.uri, (file,), () if config is None else (ADAPTER_CONFIG,))


def _has_config(storage: Storage, file: str, changes: Sequence[Change]) -> bool:
    """A config beside another file than PEFT's own may be a renamed one's, unless PEFT's own is there as well."""
    if file != ADAPTER:
        wants_one = any(change.is_from_peft or _lacks_alpha(change) for change in changes)
        if not wants_one or storage.exists(ADAPTER):
            return False
    return storage.exists(ADAPTER_CONFIG)


def _lacks_alpha(change: Change) -> bool:
    """Whether a change is spelled as PEFT and diffusers do, and brings no alpha."""
    return ".lora_A." in change.keys.get("down", "") and change.alpha is None


def _file_of(uri: str) -> tuple[Storage, str]:
    """Where a LoRA's file is: the one that is named, or the only one of a folder."""
    if uri.endswith(SUFFIX):
        folder, file = split_name(uri)
        return Storage(folder), file
    storage = Storage(uri)
    if found := next((name for name in USUAL if storage.exists(name)), None):
        return storage, found
    there = sorted(info.key for info in storage.list())
    files = [key for key in there if key.endswith(SUFFIX) and "/" not in key]
    if len(files) != 1:
        raise WeightsError(
            "more than one file in a LoRA's folder" if files else "no LoRA here",
            where=uri,
            got=", ".join((files or there)[:20]) or "nothing there",
            expected=f"a safetensors file, or a folder with one, such as {ADAPTER}",
            next_step="name the file; only safetensors are read",
        )
    return storage, files[0]


def lora_files(parts: Sequence[Part]) -> list[tuple[Path, dict | None]]:
    """A local copy of each LoRA, and the adapter config that lies beside the copy. Raises WeightsError."""
    folders = [fetch(part) for part in parts]
    return [
        (folder / part.files[0], _config(folder, part)) for folder, part in zip(folders, parts, strict=True)
    ]


def loras_digest(model: ModelSpec, parts: Sequence[Part]) -> str:
    """sha256 over every LoRA's bytes, adapter config, weight, alpha and tokens."""
    entries = [[digest(p, fetch(p)), _settings(lora)] for p, lora in zip(parts, model.loras, strict=True)]
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _settings(lora: LoraSpec) -> dict[str, Any]:
    """An alpha that is not stated stays out, as it did before it could be."""
    settings = asdict(lora) | {"uri": ""}
    return {key: value for key, value in settings.items() if key != "alpha" or value is not None}


def _config(folder: Path, part: Part) -> dict | None:
    return read_json(Storage(str(folder)), ADAPTER_CONFIG) if part.extras else None
