"""Creating a run: planned and written down once, afterwards only ever read and compared."""

from collections.abc import Callable
from contextlib import suppress
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
from cascade_batch.storage import ObjectExists, Storage
from cascade_batch.storage.urls import split_query

FindSources = Callable[[PromptTable, pa.Table], bytes]
"""Makes `sources.parquet` from the prompt table and the plan."""


def open_or_create(
    spec: Spec,
    storage: Storage,
    check: Callable[[PromptTable], object] = lambda _table: None,
    find_sources: FindSources | None = None,
) -> Run:
    """The run at the spec's output, planned now if it is new.

    Args:
        check: sees the table before anything is written, and may raise.
        find_sources: of a run that takes embeddings from elsewhere; may raise, likewise.

    Raises:
        SpecError: the run was made with a spec that gives other pictures; every field is named.
        PromptTableError: the table cannot be planned, or is no longer the one that was planned.
    """
    record = read_run_record(storage)
    if record is None:
        return _create(spec, storage, check, find_sources)
    table = open_table(spec.prompts, reserved=MANIFEST_COLUMNS)
    check(table)
    return _resume(spec, storage, record, table, find_sources)


def _create(
    spec: Spec,
    storage: Storage,
    check: Callable[[PromptTable], object],
    find_sources: FindSources | None,
) -> Run:
    table, plan = plan_table(spec)
    check(table)
    sources = find_sources(table, plan.shards) if find_sources else None
    record = _record(spec, table, plan)
    stored = RunRecord.from_json(create_json(storage, paths.RUN, record.to_json()), storage.uri)
    if stored.created != record.created:  # another driver created it first
        return _resume(spec, storage, stored, table, find_sources)
    if sources is not None:
        _write_sources(storage, sources)
    return _with_plan(Run(storage, stored, table), plan.shards)


def ensure_sources(run: Run, shards: pa.Table, find_sources: FindSources | None) -> None:
    """Make `sources.parquet` of a run that has none yet, or none any more; the same if its source is the same."""
    if find_sources is not None and not run.storage.exists(paths.SOURCES):
        _write_sources(run.storage, find_sources(run.table, shards))


def _write_sources(storage: Storage, sources: bytes) -> None:
    with suppress(
        ObjectExists
    ):  # another driver was first, and found others perhaps: what stands is the run's
        storage.create(paths.SOURCES, sources)


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


def _resume(
    spec: Spec,
    storage: Storage,
    record: RunRecord,
    table: PromptTable,
    find_sources: FindSources | None,
) -> Run:
    _check_spec(record.spec, spec, storage.uri)
    _check_table(record.table, table)
    run = Run(storage, record, record.table.at(table.root, table.query))
    if storage.exists(paths.PLAN):
        return run
    # The driver that wrote run.json died before it wrote the plan, or is just about to.
    shards = make_plan(run.table, record.spec).shards
    ensure_sources(run, shards, find_sources)
    return _with_plan(run, shards)


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
