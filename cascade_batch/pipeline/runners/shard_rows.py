"""A shard as one row of a Ray dataset, and back.

One row is one shard, because Ray merges and splits blocks: a block border is not a shard border. Tables
travel as Arrow IPC bytes in large_binary columns, whose 64-bit offsets hold more than 2 GB.
"""

import json
from dataclasses import fields, replace
from typing import Any

import pyarrow as pa

from cascade_batch.model.stages import PerPool
from cascade_batch.workers.shards import ShardData, Ticket

_TABLES = ("requests", "conditioned", "embeddings", "pixels")
_PLAIN = tuple(f.name for f in fields(ShardData) if f.name not in (*_TABLES, "ticket", "seconds"))

SCHEMA = pa.schema([("shard", pa.string()), *((name, pa.large_binary()) for name in _TABLES)])


def to_row(data: ShardData) -> pa.Table:
    """One row of `SCHEMA`: the ticket and counts as JSON, each table as IPC bytes."""
    plain = {
        "ticket": data.ticket.to_json(),
        "seconds": list(data.seconds),
        **{name: getattr(data, name) for name in _PLAIN},
    }
    tables = {name: [_to_ipc(getattr(data, name))] for name in _TABLES}
    return pa.table({"shard": [json.dumps(plain)], **tables}, schema=SCHEMA)


def from_row(row: pa.Table) -> ShardData:
    """The shard of a one-row table."""
    assert row.num_rows == 1, "a row is a shard; batches of several would mix them"
    plain: dict[str, Any] = json.loads(row["shard"][0].as_py())
    ticket = Ticket.from_json(plain.pop("ticket"))
    seconds = PerPool(*plain.pop("seconds"))
    data = ShardData(ticket, seconds=seconds, **plain)
    return replace(data, **{name: _from_ipc(row[name][0]) for name in _TABLES})


def _to_ipc(table: pa.Table | None) -> Any:
    if table is None:
        return None
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())


def _from_ipc(value: pa.LargeBinaryScalar) -> pa.Table | None:
    if not value.is_valid:
        return None
    return pa.ipc.open_stream(value.as_buffer()).read_all()
