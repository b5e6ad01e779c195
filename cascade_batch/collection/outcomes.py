"""`outcomes/`: how each regeneration ended, for schedulers that learn no more from a job than that it failed."""

from datetime import UTC, datetime
from typing import Any

from cascade_batch.collection import paths
from cascade_batch.collection.place import open_collection
from cascade_batch.collection.regenerating import Result
from cascade_batch.run.records import encode

LAST = "last"
"""Name of the outcome that every regeneration writes."""


def write_outcome(into: str, result: Result, name: str | None, seconds: float) -> None:
    """Write down how a regeneration ended: under the edition's name, or its number, and as the last one."""
    storage, edition = open_collection(into).storage, result.edition
    told: dict[str, Any] = {
        "state": result.state,
        "edition": edition.number if edition else None,
        "name": name,
        "counts": edition.to_json()["counts"] if edition else None,
        "run": result.run,
        "errors": list(result.outcome.errors) if result.outcome else [],
        "seconds": seconds,
        "ended": datetime.now(UTC).isoformat(),
    }
    names = [LAST]
    if name or edition:
        names.append(_as_key(name) if name else f"{edition.number:06d}" if edition else "")
    for key in names:
        storage.put(paths.outcome_key(key), encode(told))


def _as_key(name: str) -> str:
    """A name that an object can have."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name).lstrip(".") or "-"
