"""The plan on storage, `plan.parquet`: one row per shard."""

from dataclasses import dataclass

import pyarrow as pa

from cascade_batch.run import parquet, paths
from cascade_batch.storage import ObjectExists, Storage


@dataclass(frozen=True)
class Shard:
    """One row of the plan. `first_image` counts within the first prompt; it is 0 unless that one is split."""

    shard: int
    prompt_file: str
    file: int
    first_row: int
    rows: int
    first_image: int
    images: int


def write_plan(storage: Storage, shards: pa.Table) -> pa.Table:
    """Create the plan. Returns the one that stands, which another driver may have written first."""
    try:
        storage.create(paths.PLAN, parquet.to_bytes(shards))
    except ObjectExists:
        return read_plan(storage)
    return shards


def read_plan(storage: Storage) -> pa.Table:
    again = f"delete {paths.PLAN}; the next render plans the unchanged table again, which gives the same plan"
    return parquet.from_bytes(storage.read(paths.PLAN), paths.PLAN, again)
