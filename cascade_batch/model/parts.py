"""The parts that a model is made of: their names, which stage needs which, and how one lies on the local disk."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cascade_batch.model.conditions import CONDITIONS

PARTS = ("stage_c", "stage_b", "stage_a", "text_encoder", "tokenizer")
OPTIONAL = ("image_encoder", "effnet_encoder", "controlnet")
"""What a run loads only if its prompt table asks for it."""
STAGE_C_PARTS = ("stage_c", "text_encoder", "tokenizer")
STAGE_BA_PARTS = ("stage_b", "stage_a")
LORAS = "loras"
"""In `weights.json`, if a run has any: what all its LoRAs hash to, weights and tokens included."""


def parts_for(conditions: Collection[str], with_super_resolution: bool = False) -> tuple[str, ...]:
    """The parts that these conditions need besides those that every image does."""
    needed = {row.part for row in CONDITIONS.values() if row.part and row.column in conditions}
    if with_super_resolution and "controlnet" in needed:
        needed.add("effnet_encoder")
    return tuple(sorted(needed))


@dataclass(frozen=True)
class PartFiles:
    """One part of a model on the local disk; `files` are its safetensors, none for a tokenizer."""

    config: dict | None
    """None: read it off the weights."""
    folder: Path
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Lora:
    """A LoRA file on the local disk and how much of it is wanted."""

    path: Path
    weight: float = 1.0
    tokens: Mapping[str, str] = field(default_factory=dict)
    """New token -> the word whose row it starts from, in the order of the file's rows."""
    alpha: float | None = None
    """Of changes that bring none of their own, where the user states it."""
    config: Mapping[str, Any] | None = None
    """What `adapter_config.json` beside the file holds."""
