"""Creating a run: planned and written down once, afterwards only ever read and compared."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa

from cascade_batch import __version__
from cascade_batch.errors import PromptTableError, SpecError
from cascade_batch.model.geometry import embedding_side
from cascade_batch.plan.planning import Plan, make_plan, plan_table
from cascade_batch.prompts import PromptTable, open_table
from cascade_batch.run import paths
from cascade_batch.run.records import PlanRecord, RunRecord, create_json
from cascade_batch.run.run import Run, read_run_record
from cascade_batch.run.schemas import FORMAT, MANIFEST_COLUMNS, embedding_schema, manifest_schema
from cascade_batch.run.shards import write_plan
from cascade_batch.settings import Spec, differing_fields
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
    record = read_run_record(storage)
    if record is None:
        return _create(spec, storage, check)
    table = open_table(spec.prompts, reserved=MANIFEST_COLUMNS)
    check(table)
    return _resume(spec, storage, record, table)


def _create(spec: Spec, storage: Storage, check: Callable[[PromptTable], object]) -> Run:
    table, plan = plan_table(spec)
    check(table)
    record = _record(spec, table, plan)
    stored = RunRecord.from_json(create_json(storage, paths.RUN, record.to_json()), storage.uri)
    if stored.created != record.created:  # another driver created it first
        return _resume(spec, storage, stored, table)
    return _with_plan(Run(storage, stored, table), plan.shards)


def _with_plan(run: Run, shards: pa.Table) -> Run:
    """The run with the plan that stands now, which another driver may have written first."""
    return replace(run, given_shards=write_plan(run.storage, shards))


def _record(spec: Spec, table: PromptTable, plan: Plan) -> RunRecord:
    sizes = {(embedding_side(height), embedding_side(width)) for width, height in plan.sizes}
    size = sizes.pop() if len(sizes) == 1 else None
    return RunRecord(
        format=FORMAT,
        spec=_without_query(spec),
        table=table,
        plan=PlanRecord(plan.prompts, plan.images, plan.shards.num_rows, plan.padded, plan.loads),
        embedding_size=size,
        schemas={
            "embeddings": _described(embedding_schema(size)),
            "manifest": _described(manifest_schema(table.carried)),
        },
        versions={"cascade_batch": __version__, "pyarrow": pa.__version__},
        created=datetime.now(UTC).isoformat(),
    )


def _without_query(spec: Spec) -> Spec:
    """The query of the table's URL may be a signature."""
    return replace(spec, prompts=replace(spec.prompts, uri=split_query(spec.prompts.uri)[0]))


def _described(schema: pa.Schema) -> list[str]:
    return [f"{field.name}: {field.type}" for field in schema]


def _resume(spec: Spec, storage: Storage, record: RunRecord, table: PromptTable) -> Run:
    _check_spec(record.spec, spec, storage.uri)
    _check_table(record.table, table)
    run = Run(storage, record, record.table.at(table.root, table.query))
    if storage.exists(paths.PLAN):
        return run
    # The driver that wrote run.json died before it wrote the plan, or is just about to.
    return _with_plan(run, make_plan(run.table, record.spec).shards)


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
