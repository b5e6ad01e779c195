"""The copying step: a shard's embeddings from where `run.sources` says, each held to the key that its row asks for."""

import json
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cascade_batch.errors import IntegrityError
from cascade_batch.model.geometry import embedding_side
from cascade_batch.model.stages import C
from cascade_batch.prompts import rows_sha256
from cascade_batch.run import parquet, paths
from cascade_batch.run.embeddings import (
    embedding_arrays,
    embedding_column,
    embedding_sha256,
    encode_embeddings,
)
from cascade_batch.run.run import Run
from cascade_batch.run.sources import read_sources
from cascade_batch.run.stage_keys import stage_c_key
from cascade_batch.run.uris import locate
from cascade_batch.storage import ObjectExists, ObjectMissing
from cascade_batch.storage.failures import reached
from cascade_batch.workers.condition_tables import with_conditions
from cascade_batch.workers.context import RunRef, open_run
from cascade_batch.workers.keying import refused
from cascade_batch.workers.reading import conditioned_by, requests_of
from cascade_batch.workers.rendering import worker_name
from cascade_batch.workers.shards import ShardData

READERS = 4
"""Embedding shards that are read at once, megabytes each."""
_UNREAD = ("bad_image", "the picture could not be read when this run was planned; --retry-failed renders it")
_COPIED = (
    *("pooled", "negative_pooled", "prompt_tokens", "prompt_truncated"),
    *("device", "worker", "batch", "threads", "dtype"),
)


def copy_embeddings(data: ShardData, ref: RunRef) -> ShardData:
    """Commit 1 without Stage C. Passes on a shard that has its embeddings, or has none elsewhere.

    Raises:
        IntegrityError: an embedding is gone, or is not what was found when the run was planned, or not what its row
            asks for now.
    """
    ticket = data.ticket
    if ticket.has_embeddings or not ticket.is_stored:
        return data
    run = open_run(ref)
    rows, requests = requests_of(ticket, ref)
    conditioned = conditioned_by(rows, requests, ref, C)
    requests = with_conditions(requests, conditioned)
    sources = _sources(run, ticket.shard, requests)
    failures = [
        why or (_UNREAD if source["embedding_uri"] is None else None)
        for why, source in zip(refused(requests, conditioned, C), sources, strict=True)
    ]
    table = _copies(run, ref, requests.to_pylist(), sources, failures)
    table = _with(table, {"prompts_sha256": rows_sha256(rows), "writer_token": uuid.uuid4().hex})
    with suppress(ObjectExists):  # another driver was first; its embeddings are the shard's
        run.storage.create(paths.embeddings_key(ticket.shard), encode_embeddings(table))
    return data


def _sources(run: Run, shard: int, requests: pa.Table) -> list[dict[str, Any]]:
    sources = read_sources(run.storage, shard)
    if sources["image_id"].to_pylist() != requests["image_id"].to_pylist():
        raise IntegrityError(f"{paths.SOURCES} has other images than the plan", where=f"shard {shard}")
    return sources.to_pylist()


def _copies(
    run: Run,
    ref: RunRef,
    requests: Sequence[Mapping[str, Any]],
    sources: Sequence[Mapping[str, Any]],
    failures: Sequence[tuple[str, str] | None],
) -> pa.Table:
    """Rows of the run's embedding shards. Images with a failure have no embedding."""
    wanted = [source for source, why in zip(sources, failures, strict=True) if why is None]
    stored, arrays = _stored(run, wanted)
    places = np.cumsum([why is None for why in failures]) - 1
    place = [None if why else int(at) for at, why in zip(places, failures, strict=True)]
    copied = _without_gaps(stored.take(pa.array(place, pa.int64())), ref)
    dtypes = copied["dtype"].to_pylist()
    keys = [
        None if at is None else _checked_key(run, request, source, dtype)
        for at, request, source, dtype in zip(place, requests, sources, dtypes, strict=True)
    ]
    schema = run.embeddings_schema
    columns: dict[str, Any] = {
        **{name: copied[name] for name in _COPIED},
        **{name: [request[name] for request in requests] for name in ("image_id", "conditions")},
        **{side: [embedding_side(request[side]) for request in requests] for side in ("height", "width")},
        "embedding": embedding_column([None if at is None else arrays[at] for at in place], schema),
        "stage_c_key": keys,
        "embedding_sha256": [
            None if at is None else s["embedding_sha256"] for at, s in zip(place, sources, strict=True)
        ],
        "status": ["failed" if why else "ok" for why in failures],
        "error_code": [why[0] if why else None for why in failures],
        "error_message": [why[1] if why else None for why in failures],
        "attempts": [0] * len(requests),
        "seconds": [0.0] * len(requests),
    }
    columns |= {name: [None] * len(requests) for name in ("prompts_sha256", "writer_token")}
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _stored(run: Run, wanted: Sequence[Mapping[str, Any]]) -> tuple[pa.Table, list[np.ndarray]]:
    """`_COPIED` and arrays of the wanted embeddings, in their order; each embedding shard is read once."""
    uris = list(dict.fromkeys(source["embedding_uri"] for source in wanted))
    of_uri = {uri: [s for s in wanted if s["embedding_uri"] == uri] for uri in uris}
    with ThreadPoolExecutor(READERS) as readers:
        taken = list(readers.map(lambda uri: _taken(run, uri, of_uri[uri]), uris))
    kinds = pa.schema([run.embeddings_schema.field(name) for name in _COPIED])
    rows = pa.concat_tables([kinds.empty_table(), *(table for table, _ in taken)])
    arrays = [array for _, found in taken for array in found]
    by_uri = (id(source) for uri in uris for source in of_uri[uri])
    place = {source: at for at, source in enumerate(by_uri)}
    order = [place[id(source)] for source in wanted]
    return rows.take(pa.array(order, pa.int64())), [arrays[at] for at in order]


def _taken(run: Run, uri: str, wanted: Sequence[Mapping[str, Any]]) -> tuple[pa.Table, list[np.ndarray]]:
    """The wanted rows of one embedding shard of any format."""
    storage, key = locate(run.storage, uri)
    reached(storage.uri)  # when the run was planned
    try:
        shard = parquet.from_bytes(storage.read(key), uri, "restore it from where it came")
    except ObjectMissing:
        raise IntegrityError(
            "embeddings that this run was to take from elsewhere are gone",
            where=storage.url(key),
            next_step="restore them, or begin a new run without prompts.embeddings_from",
        ) from None
    numbers = [source["embedding_row"] for source in wanted]
    if max(numbers) >= shard.num_rows:
        raise _another(uri, max(numbers), f"{shard.num_rows} rows", "the row that was found")
    rows = shard.take(pa.array(numbers, pa.int64()))
    arrays = embedding_arrays(rows)
    for source, array, c_key in zip(wanted, arrays, rows["stage_c_key"].to_pylist(), strict=True):
        got = (c_key, None if array is None else embedding_sha256(array))
        if got != (source["stage_c_key"], source["embedding_sha256"]):
            expected = (source["stage_c_key"], source["embedding_sha256"])
            raise _another(uri, source["embedding_row"], got, expected)
    return rows.select(_COPIED), [array for array in arrays if array is not None]


def _another(uri: str, row: int, got: object, expected: object) -> IntegrityError:
    return IntegrityError(
        "a stored embedding is not the one that was found when this run was planned",
        where=f"{uri}, row {row}",
        got=got,
        expected=expected,
        next_step="restore it, or begin a new run",
    )


def _checked_key(run: Run, request: Mapping[str, Any], source: Mapping[str, Any], dtype: str) -> str:
    """The key of the embedding that a row asks for, in the numbers that it was computed in; that of its source."""
    key = stage_c_key(request, run.weights, dtype, run.sampling.c, run.text)
    if key != source["stage_c_key"]:
        raise IntegrityError(
            "a row asks for another embedding than when this run was planned",
            where=f"image {request['image_id']} of prompt {request['prompt_id']!r}",
            got=f"stage_c_key {key}",
            expected=source["stage_c_key"],
            next_step="restore its pictures, go on with the program that planned it, or begin a new run",
        )
    return key


def _without_gaps(copied: pa.Table, ref: RunRef) -> pa.Table:
    """Failed rows say, as in any shard, what would have rendered them: what rendered the others, or the run's own."""
    numerics = json.loads(ref.numerics_text)["c"]
    device, threads, dtype = ("cpu", numerics["threads"], numerics["dtype"])
    first = copied.select(["device", "threads", "dtype"]).filter(pc.field("device").is_valid()).slice(0, 1)
    if first.num_rows:
        device, threads, dtype = first.to_pylist()[0].values()
    told = {"device": device, "threads": threads, "dtype": dtype, "worker": worker_name(), "batch": 0}
    for name, value in told.items():
        place = copied.schema.get_field_index(name)
        copied = copied.set_column(place, copied.schema.field(name), pc.fill_null(copied[name], value))
    return copied


def _with(table: pa.Table, same: Mapping[str, str]) -> pa.Table:
    """The table with columns that say the same of every row."""
    for name, value in same.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), pa.array([value] * table.num_rows))
    return table
