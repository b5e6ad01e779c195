"""Weights as a worker gets them: located, fetched once per node, and held to the run's `weights.json`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cascade_batch import weights
from cascade_batch.errors import WeightsError
from cascade_batch.model.parts import LORAS, parts_for
from cascade_batch.settings import ModelSpec

if TYPE_CHECKING:
    from cascade_batch.model.parts import Lora, PartFiles


def weight_digests(model: ModelSpec, extra: Sequence[str] = ()) -> dict[str, str]:
    """sha256 of every part, and of the optional ones named, fetching what is not on this node yet.

    Raises WeightsError for parts that are damaged or not made for each other, and for LoRAs whose numbers would spoil
    every picture, before the long work of hashing them.
    """
    located = weights.locate(model, extra)
    loras = weights.locate_loras(model, located)
    check_parts(located)
    digests = {name: weights.digest(part, weights.fetch(part)) for name, part in located.items()}
    if loras:
        digests[LORAS] = weights.loras_digest(model, loras)
        _check_numbers(local_loras(model, loras))
    return digests


def check_parts(located: Mapping[str, weights.Part]) -> None:
    """Build every network without weights and compare it with its files' headers. Raises WeightsError."""
    from cascade_batch.engine.loading import matching  # torch: not for the driver

    matching.check_parts({name: local_files(part) for name, part in located.items()})


def _check_numbers(loras: Sequence[Lora]) -> None:
    from cascade_batch.engine.loading.lora_merging import check_numbers  # torch: not for the driver

    check_numbers(loras)


def extra_parts(model: ModelSpec, conditions: Collection[str]) -> tuple[str, ...]:
    """Parts that a table with these columns needs besides those of every run, located. Raises WeightsError."""
    needed = parts_for(conditions)
    if not needed:  # most tables: the model need not be looked through again
        return ()
    located = weights.locate(model, needed)
    # The ControlNet for super-resolution looks at an embedding of its picture.
    if "controlnet" in needed and "large" in weights.read_config(located["controlnet"])["trunk"]:
        needed = parts_for(conditions, with_super_resolution=True)
        weights.locate(model, needed)
    return needed


def load_parts(
    model: ModelSpec, names: Sequence[str], expected: Mapping[str, str] | None
) -> dict[str, PartFiles]:
    """Local files of the named parts; WeightsError if one is not the `expected` one that the run began with."""
    located = weights.locate(model, names)
    if expected is not None:
        for part in (located[name] for name in names):
            _check_digest(part.name, weights.digest(part, weights.fetch(part)), expected, part.uri)
    return {name: local_files(located[name]) for name in names}


def local_files(part: weights.Part) -> PartFiles:
    """A part on this node's disk, fetched if it is not there yet."""
    from cascade_batch.model.parts import PartFiles  # torch: not for the driver

    folder = weights.fetch(part)
    here = replace(part, uri=str(folder))  # what was fetched is not asked for again
    config = None if part.name == "tokenizer" else weights.read_config(here)
    return PartFiles(config, folder, tuple(folder / file for file in part.files))


def load_loras(model: ModelSpec, expected: Mapping[str, str] | None) -> list[Lora]:
    """Local files of the model's LoRAs; WeightsError if they are not those that the run began with."""
    if not model.loras:
        return []
    located = weights.locate_loras(model, weights.locate(model))
    if expected is not None:
        where = ", ".join(lora.uri for lora in model.loras)
        _check_digest(LORAS, weights.loras_digest(model, located), expected, where)
    return local_loras(model, located)


def local_loras(model: ModelSpec, located: list[weights.Part]) -> list[Lora]:
    """The model's LoRAs on this node's disk."""
    from cascade_batch.model.parts import Lora

    files = weights.lora_files(located)
    return [
        Lora(path, lora.weight, lora.tokens, lora.alpha, config)
        for (path, config), lora in zip(files, model.loras, strict=True)
    ]


def _check_digest(name: str, found: str, expected: Mapping[str, str], where: str) -> None:
    if found != expected[name]:
        raise WeightsError(
            f"the weights of {name} are not those the run began with",
            where=where,
            got=found,
            expected=expected[name],
            next_step="restore them on this node, or start a new run",
        )
