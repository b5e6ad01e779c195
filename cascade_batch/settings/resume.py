"""What a resume may change in a spec, and naming what it must not."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from cascade_batch.settings.tree import Spec

FREE_ON_RESUME = (
    "pools.c.actors",
    "pools.c.max_actors",
    "pools.c.gpus",
    "pools.ba.actors",
    "pools.ba.max_actors",
    "pools.ba.gpus",
    "pools.rates_from",
    "output.uri",
    "prompts.uri",
    "limits",
    "log",
)
"""What a resume may change: nothing here decides a picture."""
NUMERICS = ("pools.c.batch", "pools.c.threads", "pools.ba.batch", "pools.ba.threads")
"""What `numerics/` holds a run to (see `run.records.Numerics`), not `run.json`."""


def differing_fields(stored: Spec, wanted: Spec) -> dict[str, tuple[Any, Any]]:
    """Keys that a resume must not change: name -> (the run's value, the value now)."""
    before, after = dict(_leaves(dataclasses.asdict(stored))), dict(_leaves(dataclasses.asdict(wanted)))
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not _is_free(key)
    }


def binding_fields(spec: Spec) -> dict[str, Any]:
    """All that a run holds to, its numerics included: key -> value."""
    leaves = _leaves(dataclasses.asdict(spec))
    return {key: value for key, value in leaves if not any(map(key.startswith, FREE_ON_RESUME))}


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(free + ".") for free in FREE_ON_RESUME + NUMERICS)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and prefix + key != "prompts.columns":
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
