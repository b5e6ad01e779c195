"""Opening a run: planned and written down once, afterwards only ever read and compared."""

from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from cascade_batch import __version__, loads
from cascade_batch.errors import PromptTableError, SpecError, StorageError
from cascade_batch.geometry import embedding_side
from cascade_batch.loads import SizeLoad
from cascade_batch.plan import Plan, make_plan
from cascade_batch.prompts import PromptTable, check_carried, open_table
from cascade_batch.schemas import FORMAT, FORMATS, MANIFEST_COLUMNS, embedding_schema, manifest_schema
from cascade_batch.spec import Spec, differing_fields, spec_from_dict, spec_to_dict
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import split_query
from cascade_batch.stores import layout
from cascade_batch.stores.run_record import create_json, read_json, read_plan, write_plan


@dataclass(frozen=True)
class OpenRun:
    """A run as it stands on storage."""

    storage: Storage
    spec: Spec
    """As stored, which decides every picture."""
    record: dict[str, Any]
    shards: pa.Table
    table: PromptTable

    @property
    def planned(self) -> set[int]:
        """Shard numbers of the plan; a stray object of another number is none of the run's."""
        return set(self.shards["shard"].to_pylist())

    @property
    def images(self) -> int:
        return self.record["plan"]["images"]

    def images_of(self, shards: Set[int]) -> int:
        """Images of these shards together, by the plan."""
        planned = zip(self.shards["shard"].to_pylist(), self.shards["images"].to_pylist(), strict=True)
        return sum(images for shard, images in planned if shard in shards)

    @property
    def loads(self) -> dict[str, tuple[SizeLoad, ...]]:
        """By pool, "c" and "ba"; empty for runs that were planned before loads were kept."""
        stored = self.record["plan"].get("loads", {})
        return {pool: loads.from_json(stored.get(pool, ())) for pool in ("c", "ba")}

    @property
    def embeddings_schema(self) -> pa.Schema:
        size = self.record["embedding_size"]
        return embedding_schema(tuple(size) if size else None, self.record["format"])

    @property
    def manifest_schema(self) -> pa.Schema:
        return manifest_schema(self.table.carried)


def plan_table(spec: Spec) -> tuple[PromptTable, Plan]:
    """The prompt table of a new run and its shards; every error of the table is raised here."""
    table = open_table(spec.prompts, reserved=MANIFEST_COLUMNS, out=spec.output.uri)
    check_carried(table)
    return table, make_plan(table, spec)


def open_or_create(
    spec: Spec, storage: Storage, check: Callable[[PromptTable], object] = lambda _table: None
) -> OpenRun:
    """The run at the spec's output, planned now if it is new.

    `check` sees the table before anything is written, and may raise.

    Raises:
        SpecError: the run was made with a spec that gives other pictures; every field is named.
        PromptTableError: the table cannot be planned, or is no longer the one that was planned.
    """
    record = read_json(storage, layout.RUN)
    if record is None:
        return _create(spec, storage, check)
    table = open_table(spec.prompts, reserved=MANIFEST_COLUMNS)
    check(table)
    return _resume(spec, storage, record, table)


def open_existing(uri: str) -> OpenRun:
    """A run for reading: status, verify, report."""
    storage = Storage(uri)
    record = read_json(storage, layout.RUN)
    if record is None:
        raise StorageError("there is no run here", where=uri, expected=f"{layout.RUN} in it")
    if not storage.exists(layout.PLAN):
        raise StorageError(
            "the run has no plan yet", where=uri, next_step="repeat the render command, it goes on from here"
        )
    _check_format(record, uri)
    spec, table = spec_from_dict(record["spec"]), PromptTable.from_json(record["table"])
    return OpenRun(storage, spec, record, read_plan(storage), table)


def _create(spec: Spec, storage: Storage, check: Callable[[PromptTable], object]) -> OpenRun:
    table, plan = plan_table(spec)
    check(table)
    record = _record(spec, table, plan)
    stored = create_json(storage, layout.RUN, record)
    if stored["created"] != record["created"]:  # another driver created it first
        return _resume(spec, storage, stored, table)
    return OpenRun(storage, spec, stored, write_plan(storage, plan.shards), table)


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


def _resume(spec: Spec, storage: Storage, record: dict[str, Any], table: PromptTable) -> OpenRun:
    _check_format(record, storage.uri)
    stored = spec_from_dict(record["spec"])
    _check_spec(stored, spec, storage.uri)
    planned = PromptTable.from_json(record["table"], root=table.root, query=table.query)
    _check_table(planned, table)
    if storage.exists(layout.PLAN):
        return OpenRun(storage, stored, record, read_plan(storage), planned)
    # The driver that wrote run.json died before it wrote the plan, or is just about to.
    return OpenRun(storage, stored, record, write_plan(storage, make_plan(planned, stored).shards), planned)


def _check_format(record: dict[str, Any], uri: str) -> None:
    if record.get("format") not in FORMATS:
        raise SpecError(
            f"{layout.RUN} is not one of this program's, or of another version",
            where=uri,
            got=f"format {record.get('format')}",
            expected=f"format {' or '.join(map(str, FORMATS))}",
            next_step="choose another --out",
        )


def _check_spec(stored: Spec, wanted: Spec, uri: str) -> None:
    differing = differing_fields(stored, wanted)
    if not differing:
        return
    lines = [f"{key}: the run has {was!r}, now {now!r}" for key, (was, now) in differing.items()]
    raise SpecError(
        "this run was begun with another spec; going on would mix pictures",
        where=f"{uri}/{layout.RUN}",
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
