"""How far a run is, told from storage alone."""

from collections import Counter
from dataclasses import dataclass

import pyarrow.compute as pc

from cascade_batch.run.embeddings import committed_embeddings
from cascade_batch.run.heartbeat import read_driver
from cascade_batch.run.manifest import committed_shards, read_manifests
from cascade_batch.run.records import Outcome, read_outcome
from cascade_batch.run.run import Run


@dataclass(frozen=True)
class RunStatus:
    shards: int
    shards_done: int
    shards_embedded: int
    """Shards whose Stage C is committed, done ones included."""
    images: int
    images_done: int
    failed: dict[str, int] | None
    """Failed rows by error code; None if no rows were read."""
    driver: str
    outcome: Outcome | None
    """How the last sitting ended, None if none has."""


def run_status(run: Run, rows: bool = False) -> RunStatus:
    """Counts of what is committed, by listings and the plan; `rows` reads every manifest shard for its failures."""
    planned = run.planned
    done = committed_shards(run.storage, planned) & planned
    left = planned - done  # a shard that is done has embeddings
    embedded = committed_embeddings(run.storage, left) & left
    return RunStatus(
        shards=run.shards.num_rows,
        shards_done=len(done),
        shards_embedded=len(done) + len(embedded),
        images=run.images,
        images_done=run.images_of(done),
        failed=_failed(run, done) if rows else None,
        driver=_driver(run),
        outcome=read_outcome(run.storage),
    )


def _failed(run: Run, done: set[int]) -> dict[str, int]:
    failed = Counter()
    for _, manifest in read_manifests(run.storage, sorted(done), ["status", "error_code"]):
        codes = manifest.filter(pc.field("status") == "failed")["error_code"]
        failed.update(codes.to_pylist())
    return dict(failed)


def _driver(run: Run) -> str:
    driver = read_driver(run.storage)
    if driver is None:
        return "none yet"
    if driver.stopped:
        return f"stopped on {driver.host} {driver.silence:.0f} s ago"
    alive = "alive" if driver.is_alive else "silent"
    return f"{alive} on {driver.host}, last heard {driver.silence:.0f} s ago"
