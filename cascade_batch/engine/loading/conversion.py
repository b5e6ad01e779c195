"""A part's weights in the other layout: other names, the same bytes."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from cascade_batch.engine.loading.stored import open_part, tensors_of
from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts import config_note, original_name
from cascade_batch.model.parts import PartFiles

CLASSES = {"stage_c": "StableCascadeUNet", "stage_b": "StableCascadeUNet", "stage_a": "PaellaVQModel"}
"""`_class_name` in `config.json`, by which diffusers knows what to build."""


def write_diffusers(part: str, files: PartFiles, weights: Path) -> None:
    """Write `weights`, and `config.json` beside it. Raises WeightsError if the part cannot be read."""
    stored = open_part(files.files, part)
    config = stored.config(files.config)
    if part in CLASSES:
        config = {"_class_name": CLASSES[part], **config}
    weights.parent.mkdir(parents=True)
    _write_json(weights.parent / "config.json", config)
    _save(dict(tensors_of(stored)), weights, {"format": "pt"})


def write_original(part: str, files: PartFiles, weights: Path) -> None:
    """Write one file under the original release's names, with the config as a note.

    Raises WeightsError if the part cannot be read.
    """
    stored = open_part(files.files, part)
    config = stored.config(files.config)
    tensors = dict(_joined(tensors_of(stored), part, stored.where))
    _save(tensors, weights, {"format": "pt", config_note(part): json.dumps(config)})


def _joined(
    tensors: Iterator[tuple[str, torch.Tensor]], part: str, where: str
) -> Iterator[tuple[str, torch.Tensor]]:
    """Original names; queries, keys and values under one."""
    waiting: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in tensors:
        key, third = original_name(name, part)
        if third is None:
            yield key, tensor
            continue
        thirds = waiting.setdefault(key, {})
        thirds[third] = tensor
        if len(thirds) == 3:
            yield key, torch.cat([thirds[n] for n in range(3)])
            del waiting[key]
    if waiting:
        raise WeightsError("attention without its query, key or value", where=where, got=", ".join(waiting))


def _save(tensors: dict[str, torch.Tensor], path: Path, notes: dict[str, str]) -> None:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata=notes)
    path.chmod(0o644)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
