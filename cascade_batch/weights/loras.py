"""A run's LoRA files: found, checked against the model before anything is spent, fetched and hashed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from cascade_batch.errors import WeightsError
from cascade_batch.layouts import recognise
from cascade_batch.layouts.loras import TARGETS, changes_of
from cascade_batch.spec import LoraSpec, ModelSpec
from cascade_batch.storage import Storage
from cascade_batch.weights.fetching import digest, fetch
from cascade_batch.weights.hub_ids import hub_url
from cascade_batch.weights.parts import Part, file_header, read_json

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""The names that PEFT gives."""


def locate_loras(model: ModelSpec, parts: Mapping[str, Part]) -> list[Part]:
    """The LoRAs of a model whose parts are located, in the order of merging. Reads headers alone.

    Raises WeightsError for one that is missing, damaged, or changes what the model does not have.
    """
    if not model.loras:
        return []
    networks = {name: _shapes(parts[name]) for name in TARGETS}
    return [_locate(lora, networks) for lora in model.loras]


def _locate(lora: LoraSpec, networks: Mapping[str, Mapping[str, tuple[int, ...]]]) -> Part:
    folder, _, file = hub_url(lora.uri).rpartition("/")
    storage = Storage(folder or ".")
    changes_of(file_header(storage, file).shapes, networks, lora.uri)
    has_config = file == ADAPTER and storage.exists(ADAPTER_CONFIG)
    return Part("lora", storage.uri, (file,), (ADAPTER_CONFIG,) if has_config else ())


def lora_files(parts: list[Part]) -> list[tuple[Path, float | None]]:
    """A local copy of each LoRA, and the alpha that a PEFT config beside it states. Raises WeightsError."""
    return [(fetch(part) / part.files[0], _stated_alpha(part)) for part in parts]


def loras_digest(model: ModelSpec, parts: list[Part]) -> str:
    """sha256 over every LoRA's bytes, weight and tokens."""
    entries = [
        [digest(p, fetch(p)), asdict(lora) | {"uri": ""}] for p, lora in zip(parts, model.loras, strict=True)
    ]
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _stated_alpha(part: Part) -> float | None:
    if not part.extras:
        return None
    storage = Storage(part.uri)
    alpha = read_json(storage, ADAPTER_CONFIG).get("lora_alpha")
    if alpha is not None and not isinstance(alpha, int | float):
        raise WeightsError("lora_alpha is no number", where=storage.url(ADAPTER_CONFIG), got=alpha)
    return alpha


def _shapes(part: Part) -> dict[str, tuple[int, ...]]:
    storage, stored = Storage(part.uri), {}
    for file in part.files:
        stored |= file_header(storage, file).shapes
    found = next((found for found in recognise(stored, part.uri) if found.part == part.name), None)
    if found is None:
        raise WeightsError(f"no {part.name} in these weights", where=part.uri, got=", ".join(part.files))
    return found.shapes
