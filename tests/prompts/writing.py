"""Real prompt tables for tests, on any store."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cascade_batch.plan.planning import Plan, make_plan
from cascade_batch.prompts import PromptTable, open_table
from cascade_batch.run.schemas import MANIFEST_COLUMNS
from cascade_batch.settings import PromptsSpec, ShardsSpec, Spec
from cascade_batch.storage import Storage


def write(root: object, key: str, columns: pa.Table | dict[str, Any], **options: Any) -> str:
    """Put a Parquet file with these columns under a root; its URL."""
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    storage = Storage(str(root))
    storage.put(key, sink.getvalue())
    return storage.url(key)


def opened(uri: object, **mapping: str) -> PromptTable:
    """A table opened as a run opens it."""
    return open_table(PromptsSpec(uri=str(uri), columns=mapping), reserved=MANIFEST_COLUMNS)


def planned(table: PromptTable, limit: int | None = None, prompts: int = 64, images: int = 256) -> Plan:
    return make_plan(
        table, Spec(prompts=PromptsSpec(limit=limit), shards=ShardsSpec(prompts=prompts, images=images))
    )
