"""Weights as a worker gets them: located, fetched once per node, and held to the run's `weights.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from cascade_batch import weights
from cascade_batch.errors import WeightsError
from cascade_batch.spec import ModelSpec

if TYPE_CHECKING:
    from cascade_batch.models.checkpoints import PartFiles


def weight_digests(model: ModelSpec) -> dict[str, str]:
    """sha256 of every part, fetching what is not on this node yet."""
    located = weights.locate(model)
    return {name: weights.digest(part, weights.fetch(part)) for name, part in located.items()}


def load_parts(model: ModelSpec, names: Iterable[str], expected: Mapping[str, str]) -> dict[str, PartFiles]:
    """Local files of the named parts; WeightsError if one is not the part that the run began with."""
    from cascade_batch.models.checkpoints import PartFiles  # torch: not for the driver

    located = weights.locate(model)
    parts = {}
    for name in names:
        part = located[name]
        folder = weights.fetch(part)
        found = weights.digest(part, folder)
        if found != expected[name]:
            raise WeightsError(
                f"the weights of {name} are not those the run began with",
                where=part.uri,
                got=found,
                expected=expected[name],
                next_step="restore them on this node, or start a new run",
            )
        config = None if name == "tokenizer" else weights.read_config(part)
        parts[name] = PartFiles(config, folder, tuple(folder / file for file in part.files))
    return parts
