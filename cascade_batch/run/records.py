"""The small JSON objects of a run, each a dataclass: what was asked, under which numerics, who drives, how it ended.

`weights.json` is a plain mapping, part -> sha256. What `docs/format.md` promises of these objects is held here.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cascade_batch.errors import IntegrityError, SpecError
from cascade_batch.model.conditions import CONDITIONS
from cascade_batch.model.stages import PerPool
from cascade_batch.run import paths
from cascade_batch.run.loads import SizeLoad, loads_from_json, loads_to_json
from cascade_batch.run.prompt_table import PromptTable
from cascade_batch.run.schemas import FORMATS
from cascade_batch.settings import Spec, spec_from_dict, spec_to_dict
from cascade_batch.storage import ObjectExists, Storage

FINISHED, INCOMPLETE, TOO_MANY_FAILED, INTERRUPTED, REOPENED = (
    "finished",
    "incomplete",
    "too_many_failed",
    "interrupted",
    "reopened",  # by `verify --reopen`, until the next sitting ends: the run that was finished is so no more
)


@dataclass(frozen=True)
class PlanRecord:
    """The totals of `plan.parquet`."""

    prompts: int
    images: int
    shards: int
    padded: PerPool[float]
    """Share of the places in each pool's batches that hold no image; at batch 4 if workers choose."""
    loads: PerPool[tuple[SizeLoad, ...]]
    """What each pool renders; empty for runs that were planned before loads were kept."""

    def to_json(self) -> dict[str, Any]:
        totals = {"prompts": self.prompts, "images": self.images, "shards": self.shards}
        return {**totals, **self.padded.named("padded_"), "loads": self.loads.map(loads_to_json).named()}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "PlanRecord":
        loads = tree.get("loads", {})
        return cls(
            tree["prompts"],
            tree["images"],
            tree["shards"],
            PerPool.of(lambda stage: tree[f"padded_{stage.key}"]),
            PerPool.of(lambda stage: loads_from_json(loads.get(stage.key, ()))),
        )


@dataclass(frozen=True)
class RunRecord:
    """`run.json`: all that decides the pictures of a run, and what its tables look like. Create-only."""

    format: int
    spec: Spec
    table: PromptTable
    """As it was planned, wherever it lies now."""
    plan: PlanRecord
    embedding_size: tuple[int, int] | None
    """Height and width that all embeddings share, None if they differ."""
    schemas: Mapping[str, list[str]]
    versions: Mapping[str, str]
    created: str

    def to_json(self) -> dict[str, Any]:
        trees = {"spec": spec_to_dict(self.spec), "table": self.table.to_json(), "plan": self.plan.to_json()}
        return {field.name: getattr(self, field.name) for field in fields(self)} | trees

    @classmethod
    def from_json(cls, tree: Mapping[str, Any], uri: str) -> "RunRecord":
        """Raises SpecError for a `run.json`, of the run at `uri`, of no format that we read, or with more in it."""
        if tree.get("format") not in FORMATS:
            raise SpecError(
                f"{paths.RUN} is not one of this program's, or of another version",
                where=uri,
                got=f"format {tree.get('format')}",
                expected=f"format {' or '.join(map(str, FORMATS))}",
                next_step="choose another --out",
            )
        if unknown := sorted(set(tree["table"]["conditions"]) - CONDITIONS.keys()):
            raise SpecError(
                "the run was begun by a program that gives images more than this one can",
                where=uri,
                got=", ".join(unknown),
                next_step="go on with that version",
            )
        size = tree["embedding_size"]
        return cls(
            format=tree["format"],
            spec=spec_from_dict(tree["spec"]),
            table=PromptTable.from_json(tree["table"]),
            plan=PlanRecord.from_json(tree["plan"]),
            embedding_size=(size[0], size[1]) if size else None,
            schemas=tree["schemas"],
            versions=tree["versions"],
            created=tree["created"],
        )


@dataclass(frozen=True)
class PoolNumerics:
    """What decides the bits that a pool's workers give."""

    batch: int | str
    """A number, or how the workers find one."""
    threads: int
    dtype: str


@dataclass(frozen=True)
class Numerics(PerPool[PoolNumerics]):
    """`numerics/<device kind>.json`, fixed at the first use of a kind. Create-only."""

    switches: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {**self.map(asdict).named(), "switches": dict(self.switches)}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "Numerics":
        held = PerPool.of(lambda stage: PoolNumerics(**tree[stage.key]))
        return cls(held.c, held.ba, tree["switches"])


@dataclass(frozen=True)
class Outcome:
    """`outcome.json`: how the last sitting ended."""

    state: str
    images: int
    images_done: int
    images_now: int
    failed_rows: int
    """Of all sittings if the run is finished or has a limit of failed rows, else of this sitting."""
    shards_undone: int
    errors: tuple[str, ...]
    seconds: float
    images_per_second: float
    busy_share: PerPool[float]
    padded: PerPool[float]
    """As in `PlanRecord`."""
    ended: str
    retries: int = 0
    """Requests to stores that were sent again in this sitting, by the driver and the workers."""

    def to_json(self) -> dict[str, Any]:
        tree = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("busy_share", "padded")}
        return tree | self.busy_share.named("busy_share_") | self.padded.named("padded_")

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "Outcome":
        values: dict[str, Any] = {f.name: tree[f.name] for f in fields(cls) if f.name in tree}
        for name in ("busy_share", "padded"):
            values[name] = PerPool.of(lambda stage, name=name: tree[f"{name}_{stage.key}"])
        values["errors"] = tuple(tree["errors"])
        return cls(**values)


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


def read_outcome(storage: Storage) -> Outcome | None:
    """How the last sitting ended, None if none has."""
    tree = read_json(storage, paths.OUTCOME)
    return None if tree is None else Outcome.from_json(tree)


def write_outcome(storage: Storage, outcome: Outcome) -> None:
    storage.put(paths.OUTCOME, encode(outcome.to_json()))


def check_numerics(storage: Storage, device_kind: str, numerics: Mapping[str, Any]) -> None:
    """Fix this device kind's numerics (`Numerics.to_json`) at first use; afterwards refuse any others."""
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
