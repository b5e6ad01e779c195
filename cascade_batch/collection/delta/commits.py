"""What a version of a Delta table tells of itself. No I/O."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cascade_batch.errors import IntegrityError

KEY = "cascade_batch"
"""Of our JSON in a commit's metadata."""


@dataclass(frozen=True)
class Commit:
    """One version. `metadata` is {} and `token` None for commits that others made."""

    version: int
    time: datetime
    metadata: Mapping[str, Any]
    token: str | None
    operation: str


class Conflict(IntegrityError):
    """Another commit has taken the version; nothing was committed."""

    @classmethod
    def at(cls, url: str, after: int, newest: int) -> "Conflict":
        return cls(
            "the table was changed meanwhile, nothing was committed",
            where=url,
            got=f"version {newest}",
            expected=f"version {after}",
            next_step="begin again",
        )


def to_text(metadata: Mapping[str, Any], token: str) -> str:
    return json.dumps({"metadata": metadata, "token": token})


def commit_of(told: Mapping[str, Any], version: int) -> Commit:
    """From a commit's `commitInfo`."""
    try:
        ours = json.loads(told.get(KEY) or "{}")
        metadata, token = ours.get("metadata", {}), ours.get("token")
    except (ValueError, TypeError, AttributeError):
        metadata, token = {}, None
    when = datetime.fromtimestamp(told.get("timestamp", 0) / 1000, UTC)
    return Commit(version, when, metadata, token, told.get("operation", ""))


def token_of(entry: bytes) -> str | None:
    """Of a commit's file in the log."""
    told = [json.loads(line).get("commitInfo") for line in entry.splitlines()]
    return next((commit_of(info, 0).token for info in told if info), None)
