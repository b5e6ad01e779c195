"""What is left to do of a run, as tickets: told from what is committed, and in which order it is best done."""

import pyarrow.compute as pc

from cascade_batch.pipeline.creating import FindSources, ensure_sources
from cascade_batch.run.embeddings import committed_embeddings
from cascade_batch.run.manifest import read_manifests
from cascade_batch.run.run import Run
from cascade_batch.run.sources import shards_with_sources
from cascade_batch.workers.shards import Ticket, ticket_from_row


def undone(run: Run, done: set[int], find_sources: FindSources | None) -> list[Ticket]:
    """Shards without a manifest; those whose Stage C is committed or stored first, so that pool BA starts at once."""
    rows = [row for row in run.shards.to_pylist() if row["shard"] not in done]
    embedded = committed_embeddings(run.storage, [row["shard"] for row in rows])
    stored: set[int] = set()
    if rows and find_sources:
        ensure_sources(run, run.shards, find_sources)
        stored = shards_with_sources(run.storage)
    tickets = [
        ticket_from_row(row, row["shard"] in embedded, is_stored=row["shard"] in stored) for row in rows
    ]
    return sorted(tickets, key=lambda t: (not t.has_embeddings, not t.is_stored, t.shard))


def retries(run: Run, failed: dict[int, list[str]]) -> list[Ticket]:
    rows = run.shards.filter(pc.field("shard").isin(list(failed))).to_pylist()
    return [ticket_from_row(row, True, tuple(failed[row["shard"]])) for row in rows]


def failed_images(run: Run, done: set[int]) -> dict[int, list[str]]:
    """Failed images of every done shard, all sittings."""
    failed = {}
    for shard, manifest in read_manifests(run.storage, sorted(done), ["image_id", "status"]):
        ids = manifest.filter(pc.field("status") == "failed")["image_id"].to_pylist()
        if ids:
            failed[shard] = ids
    return failed
