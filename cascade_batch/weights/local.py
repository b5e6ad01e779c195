"""A located model's files on this node: fetched once, and held to the run's `weights.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cascade_batch.errors import WeightsError
from cascade_batch.model.parts import LORAS, Lora, PartFiles
from cascade_batch.weights.fetching import digest, fetch
from cascade_batch.weights.loras import lora_files, loras_digest
from cascade_batch.weights.model import Model
from cascade_batch.weights.part import Part, read_config


def local_files(part: Part) -> PartFiles:
    """A part on this node's disk, fetched if it is not there yet."""
    return _files_in(fetch(part), part)


def local_loras(model: Model) -> list[Lora]:
    """The model's LoRAs on this node's disk."""
    return [
        Lora(path, lora.weight, lora.tokens, lora.alpha, config)
        for (path, config), lora in zip(lora_files(model.loras), model.spec.loras, strict=True)
    ]


def digests(model: Model) -> dict[str, str]:
    """sha256 of every located part, and of all LoRAs together; fetches what is not on this node yet."""
    found = {name: digest(part, fetch(part)) for name, part in model.parts.items()}
    return found | ({LORAS: loras_digest(model.spec, model.loras)} if model.loras else {})


def load_parts(
    model: Model, names: Sequence[str], expected: Mapping[str, str] | None = None
) -> dict[str, PartFiles]:
    """Local files of the named parts; WeightsError if one is not the `expected` one that a run began with."""
    folders = {name: fetch(model.parts[name]) for name in names}
    if expected is not None:
        for name, folder in folders.items():
            part = model.parts[name]
            _check_digest(name, digest(part, folder), expected, part.uri)
    return {name: _files_in(folder, model.parts[name]) for name, folder in folders.items()}


def load_loras(model: Model, expected: Mapping[str, str] | None) -> list[Lora]:
    """Local files of the model's LoRAs; WeightsError if they are not those that the run began with."""
    if not model.loras:
        return []
    if expected is not None:
        where = ", ".join(lora.uri for lora in model.spec.loras)
        _check_digest(LORAS, loras_digest(model.spec, model.loras), expected, where)
    return local_loras(model)


def _files_in(folder: Path, part: Part) -> PartFiles:
    here = replace(part, uri=str(folder))  # what was fetched is not asked for again
    config = None if part.name == "tokenizer" else read_config(here)
    return PartFiles(config, folder, tuple(folder / file for file in part.files))


def _check_digest(name: str, found: str, expected: Mapping[str, str], where: str) -> None:
    if found != expected[name]:
        raise WeightsError(
            f"the weights of {name} are not those the run began with",
            where=where,
            got=found,
            expected=expected[name],
            next_step="restore them on this node, or start a new run",
        )
