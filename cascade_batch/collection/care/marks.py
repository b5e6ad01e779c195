"""What gc has marked, and what it has decided to delete: objects below `gc/`, each written once.

A set of marks is `marks-N.parquet`, keys of objects that no kept edition refers to. `decision-N.json` is created once,
by gc, which sweeps the set, or by who needs one of its objects again and so saves the set: create-only, so that of two
that decide at once one is told. What is swept stands in a list that the decision names. Decisions stay; marks and lists
go once their objects have.
"""

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cascade_batch.collection.paths import GC
from cascade_batch.run import parquet
from cascade_batch.run.records import create_json, read_json
from cascade_batch.storage import Storage

SWEPT, SAVED = "swept", "saved"
_NAME = re.compile(rf"{GC}(marks|decision)-(\d{{8}})\.(?:parquet|json)")
_NEXT_STEP = "delete it: gc marks anew, with a new grace period"


@dataclass(frozen=True)
class MarkSet:
    """Objects marked at once. `modified` by the store's clock."""

    number: int
    modified: float | None
    decision: dict[str, Any] | None
    keys: pa.Array
    """Below the collection's root."""
    editions: tuple[int, ...]
    """Those that cannot be read, or not whole, without these objects."""

    @property
    def is_undecided(self) -> bool:
        return self.decision is None


def mark_sets(storage: Storage) -> list[MarkSet]:
    """Those whose objects may still be there, the oldest first; a set that was saved is none any more."""
    found = {info.key: info for info in storage.list(GC)}
    sets = []
    for number in sorted(int(m[2]) for m in map(_NAME.fullmatch, found) if m and m[1] == "marks"):
        decision = read_json(storage, decision_key(number)) if decision_key(number) in found else None
        if decision is None or decision["decision"] == SWEPT:
            table = _read(storage, marks_key(number))
            editions = json.loads((table.schema.metadata or {}).get(b"editions", b"[]"))
            modified = found[marks_key(number)].modified
            sets.append(MarkSet(number, modified, decision, table["key"].combine_chunks(), tuple(editions)))
    return sets


def decisions(storage: Storage) -> list[dict[str, Any]]:
    """All decisions ever made, the oldest first."""
    keys = [info.key for info in storage.list(f"{GC}decision-")]
    return [decision for key in keys if (decision := read_json(storage, key)) is not None]


def write_marks(storage: Storage, keys: pa.Array, editions: Sequence[int]) -> int:
    """Mark objects. Returns the number of the set."""
    names = [m for m in (_NAME.fullmatch(info.key) for info in storage.list(GC)) if m]
    number = 1 + max((int(name[2]) for name in names), default=0)
    storage.create(marks_key(number), _written(keys, editions))
    return number


def write_list(storage: Storage, number: int, keys: pa.Array) -> str:
    """The list of what a sweep is going to delete, for its decision to name."""
    key = f"{GC}list-{number:08d}-{uuid.uuid4().hex[:8]}.parquet"
    storage.create(key, _written(keys, ()))
    return key


def read_list(storage: Storage, key: str) -> pa.Array:
    return _read(storage, key)["key"].combine_chunks()


def decide(storage: Storage, number: int, decision: dict[str, Any]) -> dict[str, Any]:
    """Decide on a set once and for all. Returns the decision that stands, which may be another's."""
    return create_json(storage, decision_key(number), decision)


def finish(storage: Storage, marks: MarkSet) -> None:
    """Forget a set whose objects are gone. The marks first: without them nobody asks for the list."""
    storage.delete(marks_key(marks.number))
    if marks.decision:
        storage.delete(marks.decision["list"])


def drop_leftovers(storage: Storage) -> None:
    """Marks that were saved, and lists that no decision names or that are through, of a gc that was killed."""
    needed = set()
    for info in storage.list(f"{GC}marks-"):
        match = _NAME.fullmatch(info.key)
        decision = read_json(storage, decision_key(int(match[2]))) if match else None
        if decision is not None and decision["decision"] == SAVED:
            storage.delete(info.key)
        elif decision is not None:
            needed.add(decision["list"])
    for info in storage.list(f"{GC}list-"):
        if info.key not in needed:
            storage.delete(info.key)


def marks_key(number: int) -> str:
    return f"{GC}marks-{number:08d}.parquet"


def decision_key(number: int) -> str:
    return f"{GC}decision-{number:08d}.json"


def _written(keys: pa.Array, editions: Sequence[int]) -> bytes:
    schema = pa.schema([("key", pa.string())], {"editions": json.dumps(list(editions))})
    return parquet.to_bytes(pa.table([keys], schema=schema))


def _read(storage: Storage, key: str) -> pa.Table:
    return parquet.from_bytes(storage.read(key), key, _NEXT_STEP)
