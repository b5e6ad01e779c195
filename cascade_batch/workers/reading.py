"""The reading steps beside the pools: prompts for Stage C, committed embeddings for Stage B + A."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from cascade_batch.errors import IntegrityError
from cascade_batch.prompts import image_requests, read_rows, rows_sha256
from cascade_batch.stores.embeddings import read_embeddings
from cascade_batch.workers.context import RunRef, open_run
from cascade_batch.workers.shards import ShardData, Ticket


def read_shard(data: ShardData, ref: RunRef) -> ShardData:
    """The shard's image requests, unless its embeddings stand already."""
    ticket = data.ticket
    if ticket.has_embeddings and not ticket.retry:
        return data
    requests, sha256 = requests_of(ticket, ref)
    if ticket.has_embeddings:
        wanted = _without_embedding(read_embeddings(open_run(ref).storage, ticket.shard), ticket.retry)
        requests = only(requests, wanted)
    return replace(data, requests=requests if requests.num_rows else None, prompts_sha256=sha256)


def read_committed(data: ShardData, ref: RunRef) -> ShardData:
    """Requests and embeddings of a shard whose Stage C is committed: the one way into pool BA."""
    ticket = data.ticket
    requests, sha256 = requests_of(ticket, ref)
    embeddings = read_embeddings(open_run(ref).storage, ticket.shard)
    stored = set(embeddings["prompts_sha256"].to_pylist())
    if stored != {sha256}:
        raise table_changed(ticket, ref, sha256, stored)
    if ticket.retry:
        requests, embeddings = only(requests, ticket.retry), only(embeddings, ticket.retry)
    if requests["image_id"].to_pylist() != embeddings["image_id"].to_pylist():
        raise IntegrityError(
            "an embedding shard holds other images than the plan", where=f"shard {ticket.shard}"
        )
    return replace(data, requests=requests, embeddings=embeddings, prompts_sha256=sha256)


def requests_of(ticket: Ticket, ref: RunRef) -> tuple[pa.Table, str]:
    """A shard's image requests and the hash of its prompt rows."""
    run = open_run(ref)
    rows = read_rows(run.table, ticket.file, ticket.first_row, ticket.rows)
    requests = image_requests(rows, ticket, run.spec.render, run.spec.seed)
    return requests, rows_sha256(rows)


def table_changed(ticket: Ticket, ref: RunRef, now: str, stored: set[str]) -> IntegrityError:
    run = open_run(ref)
    return IntegrityError(
        "table_changed: prompt rows differ from those the shard was rendered from",
        where=f"shard {ticket.shard}, {run.table.files[ticket.file].path} from row {ticket.first_row}",
        got=now,
        expected=", ".join(sorted(stored)),
        next_step="restore the prompt table, or start a new run for the new one",
    )


def only(table: pa.Table, image_ids: tuple[str, ...]) -> pa.Table:
    """The rows of these images, in table order."""
    wanted = pa.array(image_ids, pa.string())  # typed, because none at all is a case too
    return table.filter(pc.field("image_id").isin(wanted))


def _without_embedding(embeddings: pa.Table, image_ids: tuple[str, ...]) -> tuple[str, ...]:
    failed = only(embeddings, image_ids).filter(pc.field("status") == "failed")
    return tuple(failed["image_id"].to_pylist())
