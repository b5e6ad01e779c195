"""Creating a run: planned and written down once, afterwards only ever read and compared."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from cascade_batch import __version__
from cascade_batch.errors import PromptTableError, SpecError
from cascade_batch.model.geometry import embedding_side
from cascade_batch.plan.planning import Plan, make_plan, plan_table
from cascade_batch.prompts import PromptTable, open_table
from cascade_batch.run import loads, paths
from cascade_batch.run.records import create_json, read_json
from cascade_batch.run.run import Run, check_format
from cascade_batch.run.schemas import FORMAT, MANIFEST_COLUMNS, embedding_schema, manifest_schema
from cascade_batch.run.shards import read_plan, write_plan
from cascade_batch.settings import Spec, differing_fields, spec_from_dict, spec_to_dict
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import split_query


def open_or_create(
    spec: Spec, storage: Storage, check: Callable[[PromptTable], object] = lambda _table: None
) -> Run:
    """The run at the spec's output, planned now if it is new.

    `check` sees the table before anything is written, and may raise.

    Raises:
        SpecError: the run was made with a spec that gives other pictures; every field is named.
        PromptTableError: the table cannot be planned, or is no longer the one that was planned.
    """
    record = read_json(storage, paths.RUN)
    if record is None:
        return _create(spec, storage, check)
    table = open_table(spec.prompts, reserved=MANIFEST_COLUMNS)
    check(table)
    return _resume(spec, storage, record, table)


def _create(spec: Spec, storage: Storage, check: Callable[[PromptTable], object]) -> Run:
    table, plan = plan_table(spec)
    check(table)
    record = _record(spec, table, plan)
    stored = create_json(storage, paths.RUN, record)
    if stored["created"] != record["created"]:  # another driver created it first
        return _resume(spec, storage, stored, table)
    return Run(storage, spec, stored, write_plan(storage, plan.shards), table)


def _record(spec: Spec, table: PromptTable, plan: Plan) -> dict[str, Any]:
    sizes = {(embedding_side(height), embedding_side(width)) for width, height in plan.sizes}
    size = sizes.pop() if len(sizes) == 1 else None
    return {
        "format": FORMAT,
        "spec": spec_to_dict(_without_query(spec)),
        "table": table.to_json(),
        "plan": {
            "prompts": plan.prompts,
            "images": plan.images,
            "shards": plan.shards.num_rows,
            "padded_c": plan.padded_c,
            "padded_ba": plan.padded_ba,
            "loads": {"c": loads.to_json(plan.loads_c), "ba": loads.to_json(plan.loads_ba)},
        },
        "embedding_size": size,
        "schemas": {
            "embeddings": _described(embedding_schema(size)),
            "manifest": _described(manifest_schema(table.carried)),
        },
        "versions": {"cascade_batch": __version__, "pyarrow": pa.__version__},
        "created": datetime.now(UTC).isoformat(),
    }


def _without_query(spec: Spec) -> Spec:
    """The query of the table's URL may be a signature."""
    return replace(spec, prompts=replace(spec.prompts, uri=split_query(spec.prompts.uri)[0]))


def _described(schema: pa.Schema) -> list[str]:
    return [f"{field.name}: {field.type}" for field in schema]


def _resume(spec: Spec, storage: Storage, record: dict[str, Any], table: PromptTable) -> Run:
    check_format(record, storage.uri)
    stored = spec_from_dict(record["spec"])
    _check_spec(stored, spec, storage.uri)
    planned = PromptTable.from_json(record["table"], root=table.root, query=table.query)
    _check_table(planned, table)
    if storage.exists(paths.PLAN):
        return Run(storage, stored, record, read_plan(storage), planned)
    # The driver that wrote run.json died before it wrote the plan, or is just about to.
    return Run(storage, stored, record, write_plan(storage, make_plan(planned, stored).shards), planned)


def _check_spec(stored: Spec, wanted: Spec, uri: str) -> None:
    differing = differing_fields(stored, wanted)
    if not differing:
        return
    lines = [f"{key}: the run has {was!r}, now {now!r}" for key, (was, now) in differing.items()]
    raise SpecError(
        "this run was begun with another spec; going on would mix pictures",
        where=f"{uri}/{paths.RUN}",
        got="; ".join(lines),
        next_step=f"restore {', '.join(differing)}, or choose another --out",
    )


def _check_table(planned: PromptTable, now: PromptTable) -> None:
    if planned.digest == now.digest:
        return
    before, after = ({f.path: (f.size, f.footer_sha256) for f in t.files} for t in (planned, now))
    changed = sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))
    if not changed:
        return  # rewritten with the same content, such as a copy with a new ETag
    raise PromptTableError(
        "table_changed: the prompt table is not the one this run was planned from",
        where=now.root,
        got=f"{len(changed)} files differ: {', '.join(changed[:5])}",
        next_step="restore the table, or start a new run for the new one",
    )
