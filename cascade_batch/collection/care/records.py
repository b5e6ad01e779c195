"""What two editions were asked for that decides every picture: weights, sampler, texts, dtypes, numerics."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cascade_batch.collection.editions import Edition
from cascade_batch.model.parts import STAGE_BA_PARTS


class RecordChange(NamedTuple):
    """One thing that differs."""

    name: str
    stage: str
    """c or ba: whose keys it changes first; those of Stage C decide the others."""
    was: Any
    now: Any


def record_changes(before: Edition, after: Edition) -> tuple[RecordChange, ...]:
    """All that differs, in the order of the stages."""
    found = [*_weights(before, after), *_spec(before.spec, after.spec), *_dtypes(before, after)]
    if before.numerics != after.numerics:
        found.append(RecordChange("numerics version", "c", before.numerics, after.numerics))
    return tuple(sorted(found, key=lambda change: (change.stage != "c", change.name)))


def _weights(before: Edition, after: Edition) -> Iterator[RecordChange]:
    for part in sorted(before.weights.keys() | after.weights.keys()):
        was, now = before.weights.get(part), after.weights.get(part)
        if was != now:
            yield RecordChange(f"weights of {part}", "ba" if part in STAGE_BA_PARTS else "c", was, now)


def _spec(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[RecordChange]:
    for section, name in (("sampler", "sampler"), ("text", "text settings")):
        was, now = dict(_leaves(before.get(section, {}))), dict(_leaves(after.get(section, {})))
        for key in sorted(was.keys() | now.keys()):
            if was.get(key) != now.get(key):
                stage = "ba" if key.startswith(("ba.", "stage_a")) else "c"
                yield RecordChange(f"{name} {key}", stage, was.get(key), now.get(key))


def _dtypes(before: Edition, after: Edition) -> Iterator[RecordChange]:
    for pool in sorted(before.dtypes.keys() | after.dtypes.keys()):
        was, now = before.dtypes.get(pool), after.dtypes.get(pool)
        if was != now:
            yield RecordChange(f"dtype of pool {pool.upper()}", pool, was, now)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
