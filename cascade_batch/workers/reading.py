"""The reading steps beside the pools: prompts for Stage C, committed embeddings for Stage B + A."""

from dataclasses import replace
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from cascade_batch.errors import IntegrityError
from cascade_batch.model.conditions import of_stage
from cascade_batch.model.stages import BA, C, Stage
from cascade_batch.prompts import image_requests, read_rows, rows_sha256
from cascade_batch.run.embeddings import read_embeddings
from cascade_batch.workers.condition_tables import read_conditions, with_conditions
from cascade_batch.workers.context import RunRef, open_run
from cascade_batch.workers.row_conditions import RowReader
from cascade_batch.workers.shards import ShardData, Ticket


def read_shard(data: ShardData, ref: RunRef) -> ShardData:
    """The shard's image requests, and what they bring for Stage C, unless its embeddings stand already."""
    ticket = data.ticket
    if not ticket.needs_stage_c:
        return data
    rows, requests = requests_of(ticket, ref)
    if ticket.has_embeddings:
        wanted = _without_embedding(read_embeddings(open_run(ref).storage, ticket.shard), ticket.retry)
        requests = only(requests, wanted)
    sha256 = rows_sha256(rows)
    if not requests.num_rows:
        return replace(data, requests=None, prompts_sha256=sha256)
    conditioned = conditioned_by(rows, requests, ref, C)
    return replace(
        data, requests=with_conditions(requests, conditioned), conditioned=conditioned, prompts_sha256=sha256
    )


def read_committed(data: ShardData, ref: RunRef) -> ShardData:
    """Requests and embeddings of a shard whose Stage C is committed: the one way into pool BA."""
    ticket = data.ticket
    rows, requests = requests_of(ticket, ref)
    sha256 = rows_sha256(rows)
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
    conditioned = conditioned_by(rows, requests, ref, BA)
    return replace(
        data,
        requests=with_conditions(requests, conditioned),
        conditioned=conditioned,
        embeddings=embeddings,
        prompts_sha256=sha256,
    )


def requests_of(ticket: Ticket, ref: RunRef) -> tuple[pa.Table, pa.Table]:
    """A shard's prompt rows, and its image requests."""
    run = open_run(ref)
    rows = read_rows(run.table, ticket.file, ticket.first_row, ticket.rows)
    return rows, image_requests(rows, ticket, run.spec.render, run.spec.seed)


def conditioned_by(rows: pa.Table, requests: pa.Table, ref: RunRef, stage: Stage) -> pa.Table:
    """What the rows give a stage, of the columns that were conditions when the run was begun."""
    begun_with = open_run(ref).record.table.conditions
    names = [condition.column for condition in of_stage(stage) if condition.column in begun_with]
    return read_conditions(rows, requests, names, _row_reader(ref, stage).read)


@lru_cache(maxsize=4)
def _row_reader(ref: RunRef, stage: Stage) -> RowReader:
    return RowReader(open_run(ref).table.root, ref.picture_side, ref.picture_pixels, stage)


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
