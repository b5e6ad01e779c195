"""`outcomes/`: how each regeneration ended, for schedulers that learn no more from a job than that it failed."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from cascade_batch.collection import paths
from cascade_batch.collection.place import Collection, open_collection
from cascade_batch.collection.regenerating.regenerate import Result
from cascade_batch.errors import CascadeError
from cascade_batch.run.records import encode

FAILED = "failed"
"""State of a regeneration that ended with an error, besides those of a result."""
LAST = "last"
"""Name of the outcome that every regeneration writes."""


def write_outcome(into: str, result: Result, name: str | None, seconds: float) -> None:
    """Write down how a regeneration ended: as the last one, and under its name, or the number of a new edition."""
    edition = result.edition
    told = {
        "state": result.state,
        "edition": edition.number if edition else None,
        "counts": edition.to_json()["counts"] if edition else None,
        "run": result.run,
        "errors": list(result.outcome.errors) if result.outcome else [],
    }
    number = f"{edition.number:06d}" if edition and result.is_new else None
    _write(open_collection(into), told, name, name or number, seconds)


def write_failure(into: str, error: CascadeError, name: str | None, seconds: float) -> None:
    """The same of one that ended with an error, where there is a collection to write it into."""
    told = {"state": FAILED, "edition": None, "counts": None, "run": None, "errors": [str(error)]}
    with suppress(CascadeError):  # the first error is the one to tell
        _write(open_collection(into), told, name, name, seconds)


def _write(
    collection: Collection, told: dict[str, Any], name: str | None, key: str | None, seconds: float
) -> None:
    told = {**told, "name": name, "seconds": seconds, "ended": datetime.now(UTC).isoformat()}
    for place in {LAST, _as_key(key) if key else LAST}:
        collection.storage.put(paths.outcome_key(place), encode(told))


def _as_key(name: str) -> str:
    """A name that an object can have."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name).lstrip(".") or "-"
