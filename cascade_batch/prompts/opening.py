"""Opening a prompt table: its files found, their footers read, their columns agreed upon."""

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from cascade_batch.model.conditions import CONDITIONS
from cascade_batch.prompts.columns import (
    PLANNED,
    carried_fields,
    check_mapping,
    check_ours,
    check_reserved,
    sources,
    unify,
)
from cascade_batch.prompts.finding import find_files
from cascade_batch.prompts.footers import Summary, read_footer, summarise
from cascade_batch.prompts.own_runs import check_apart
from cascade_batch.run.prompt_table import PromptFile, PromptTable
from cascade_batch.settings import PromptsSpec
from cascade_batch.storage import ObjectInfo

THREADS = 32
"""Footers are small and far away: many at a time."""


def open_table(prompts: PromptsSpec, reserved: Collection[str] = (), out: str = "") -> PromptTable:
    """Find the table's files, read their footers, and check every column's name and type.

    Args:
        prompts: `uri` is one file, a folder (every `*.parquet` below it, hidden and `_` names skipped)
            or a glob (`*`, `**`, `?`, `[...]`); `columns` maps names.
        reserved: names that carried columns must not have: the manifest's.
        out: where a new run is to be written, which must not be among the prompts.

    Raises:
        PromptTableError: no files, not Parquet, a missing or clashing column, a type that cannot be read.
        SpecError, StorageError: a URL that is refused, a run among its prompts, or a store that fails.
    """
    where = find_files(prompts.uri)
    storage, found = where.storage, where.files
    if out:
        check_apart(storage.uri, [info.key for info in found], where.sees, out)
    prompt_column = prompts.columns.get("prompt", "prompt")

    def summary(info: ObjectInfo) -> Summary:
        return summarise(read_footer(storage, info.key), prompt_column)

    with ThreadPoolExecutor(THREADS) as pool:
        summaries = list(pool.map(summary, found))
    first_paths: dict[bytes, str] = {}
    for info, summary_ in zip(found, summaries, strict=True):
        first_paths.setdefault(summary_.layout, info.key)
    schemas = {layout: pa.ipc.read_schema(pa.BufferReader(layout)) for layout in first_paths}
    layouts = [(first_paths[layout], schema) for layout, schema in schemas.items()]
    carried = _agree(storage.uri, layouts, prompts.columns, reserved)
    planned = {layout: _planned(schema, prompts.columns) for layout, schema in schemas.items()}
    files = tuple(
        PromptFile(info.key, info.size, s.rows, s.sha256, info.etag, planned[s.layout], info.modified)
        for info, s in zip(found, summaries, strict=True)
    )
    named = {name for _, schema in layouts for name in sources(schema.names, prompts.columns)}
    conditions = tuple(name for name in CONDITIONS if name in named)
    nulls, examples = _null_prompts(summaries), _examples(summaries)
    return PromptTable(
        storage.uri,
        dict(prompts.columns),
        files=files,
        carried=carried,
        null_prompts=nulls,
        conditions=conditions,
        layouts=examples,
        query=where.query,
    )


def _examples(summaries: list[Summary]) -> tuple[int, ...]:
    """One file of each layout, with rows if any of its kind has some."""
    found: dict[bytes, int] = {}
    for index, summary in enumerate(summaries):
        best = found.setdefault(summary.layout, index)
        if summary.rows and not summaries[best].rows:
            found[summary.layout] = index
    return tuple(found.values())


def _agree(
    root: str, layouts: list[tuple[str, pa.Schema]], mapping: Mapping[str, str], reserved: Collection[str]
) -> pa.Schema:
    """Check the columns of every distinct layout (named by a file that has it); the carried schema."""
    check_mapping(list(dict.fromkeys(n for _, schema in layouts for n in schema.names)), mapping, root)
    carried = []
    for path, schema in layouts:
        where = f"{root}/{path}"
        found = sources(schema.names, mapping, where)
        check_ours(schema, found, where)
        fields = carried_fields(schema, found)
        check_reserved(fields, reserved, where)
        carried.append((path, fields))
    return unify(carried)


def _planned(schema: pa.Schema, mapping: Mapping[str, str]) -> tuple[str, ...]:
    found = sources(schema.names, mapping)
    return tuple(name for name in PLANNED if name in found)


def _null_prompts(summaries: list[Summary]) -> int | None:
    counts = [s.null_prompts for s in summaries]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
