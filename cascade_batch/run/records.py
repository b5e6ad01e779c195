"""The small JSON records of a run: what was asked, which weights and numerics, who drives, how it ended."""

import json
import time
from collections.abc import Mapping
from typing import Any

from cascade_batch.errors import IntegrityError
from cascade_batch.run import paths
from cascade_batch.storage import ObjectExists, Storage

HEARTBEAT_FRESH_S = 30.0
"""A driver silent for longer is dead and never blocks another."""


def encode(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()


def read_json(storage: Storage, key: str) -> dict[str, Any] | None:
    """A record, or None if it is not there."""
    if not storage.exists(key):
        return None
    try:
        return json.loads(storage.read(key))
    except ValueError:
        raise IntegrityError("a run's record is not JSON", where=f"{storage.uri}/{key}") from None


def create_json(storage: Storage, key: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Create a record, or read the one that another driver created first. Returns the one that stands."""
    try:
        storage.create(key, encode(record))
    except ObjectExists:
        stored = read_json(storage, key)
        assert stored is not None
        return stored
    return json.loads(encode(record))


def beat(storage: Storage, token: str, host: str, stopped: bool = False) -> None:
    """Say that this driver is alive now (or has stopped cleanly)."""
    record = {"token": token, "host": host, "time": time.time(), "stopped": stopped}
    storage.put(paths.DRIVER, encode(record))


def other_driver(storage: Storage, token: str) -> tuple[str, float] | None:
    """Host and silence in seconds of another driver that is still alive, None if there is none."""
    record = read_json(storage, paths.DRIVER)
    if record is None or record["token"] == token or record["stopped"]:
        return None
    silence = time.time() - record["time"]
    return (record["host"], silence) if silence < HEARTBEAT_FRESH_S else None


def write_outcome(storage: Storage, outcome: Mapping[str, Any]) -> None:
    storage.put(paths.OUTCOME, encode(outcome))


def check_numerics(storage: Storage, device_kind: str, numerics: Mapping[str, Any]) -> None:
    """Fix this device kind's numerics at first use; afterwards refuse any others."""
    key = paths.numerics_key(device_kind)
    stored = create_json(storage, key, numerics)
    wanted = json.loads(encode(numerics))
    differing = sorted(k for k in stored.keys() | wanted.keys() if stored.get(k) != wanted.get(k))
    if differing:
        raise IntegrityError(
            "numerics differ from those the run began with",
            where=f"{key}: {', '.join(differing)}",
            got={k: wanted.get(k) for k in differing},
            expected={k: stored.get(k) for k in differing},
            next_step="restore them, or start a new run: other numerics give other bytes",
        )
