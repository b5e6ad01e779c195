"""The committing steps beside the pools: data first, the commit record last, nothing ever overwritten.

`--retry-failed` is the one exception: it replaces exactly one shard's record, under If-Match.
"""

import json
import os
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa

from cascade_batch import __version__
from cascade_batch.errors import IntegrityError
from cascade_batch.model import stages
from cascade_batch.model.numerics import NUMERICS_VERSION
from cascade_batch.prompts import read_rows, rows_sha256
from cascade_batch.run import parquet, paths
from cascade_batch.run.embeddings import encode_embeddings
from cascade_batch.run.images import ImageFile, commit_image, encoder_version
from cascade_batch.run.manifest import with_carried
from cascade_batch.run.records import check_numerics
from cascade_batch.run.run import Run
from cascade_batch.run.schemas import COST, MANIFEST, check_error_codes
from cascade_batch.run.stage_keys import stage_ba_key, stage_c_key
from cascade_batch.storage import ObjectExists
from cascade_batch.workers.condition_tables import joined_conditions
from cascade_batch.workers.context import RunRef, open_run
from cascade_batch.workers.reading import table_changed
from cascade_batch.workers.shards import ShardData, Ticket

UNREAD = ("null_prompt", "bad_image", "bad_condition")
"""Failures of rows that never were a whole request, and so have no stage key."""
UPLOADS = min(8, 2 * (os.cpu_count() or 1))
"""Pictures of one shard encoded and uploaded at once."""


def commit_embeddings(data: ShardData, ref: RunRef) -> ShardData:
    """Commit 1. A writer that loses the race drops its arrays: pool BA reads what was committed first."""
    if data.embeddings is None:
        return data
    assert data.requests is not None
    check_error_codes(data.embeddings["error_code"].to_pylist())
    run = open_run(ref)
    _check_device_kinds(ref, data.embeddings)
    table = _with_keys(data.embeddings, data.requests, data.prompts_sha256, run)
    key = paths.embeddings_key(data.ticket.shard)
    if data.ticket.has_embeddings:
        _replace_rows(run, key, table, encode_embeddings)
    else:
        with suppress(ObjectExists):  # another driver was first; its embeddings are the shard's
            run.storage.create(key, encode_embeddings(table))
    return replace(data, requests=None, embeddings=None)


def commit_images(data: ShardData, ref: RunRef) -> ShardData:
    """Commit 2: every picture, then the manifest that makes the shard done."""
    assert data.embeddings is not None
    assert data.pixels is not None
    check_error_codes(data.pixels["error_code"].to_pylist())
    run, ticket = open_run(ref), data.ticket
    _check_device_kinds(ref, data.pixels)
    files = _commit_pngs(data, run)
    manifest = _manifest(data, files, run, ref)
    key = paths.manifest_key(ticket.shard)
    if ticket.retry:
        manifest = _replace_rows(
            run, key, manifest, parquet.to_bytes, data.embeddings["attempts"].to_pylist()
        )
    else:
        try:
            run.storage.create(key, parquet.to_bytes(manifest))
        except ObjectExists:
            manifest = parquet.from_bytes(run.storage.read(key), key)
    failed = manifest["status"].to_pylist().count("failed")
    return replace(data, requests=None, embeddings=None, pixels=None, failed_rows=failed)


def _check_device_kinds(ref: RunRef, table: pa.Table) -> None:
    for kind in set(table["device"].to_pylist()):
        _check_numerics_once(ref, kind)


@lru_cache
def _check_numerics_once(ref: RunRef, device_kind: str) -> None:
    check_numerics(open_run(ref).storage, device_kind, json.loads(ref.numerics_text))


def _with_keys(table: pa.Table, requests: pa.Table, prompts_sha256: str, run: Run) -> pa.Table:
    dtypes = table["dtype"].to_pylist()
    codes = table["error_code"].to_pylist()
    keys = [
        None if code in UNREAD else stage_c_key(request, run.weights, dtype, run.sampling.c, run.text)
        for request, dtype, code in zip(requests.to_pylist(), dtypes, codes, strict=True)
    ]
    rows, token = table.num_rows, uuid.uuid4().hex
    for name, values in (
        ("conditions", requests["conditions"].to_pylist()),
        ("stage_c_key", keys),
        ("prompts_sha256", [prompts_sha256] * rows),
        ("writer_token", [token] * rows),
    ):
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table


def _commit_pngs(data: ShardData, run: Run) -> list[ImageFile | None]:
    assert data.pixels is not None
    assert data.requests is not None
    pixels, level = data.pixels["pixels"].combine_chunks(), run.spec.output.png_level
    requests = data.requests.select(["image_id", "height", "width"]).to_pylist()

    def commit(row: int) -> ImageFile | None:
        if not pixels[row].is_valid:
            return None
        shape = (requests[row]["height"], requests[row]["width"], 3)
        array = np.frombuffer(pixels[row].as_buffer(), np.uint8).reshape(shape)
        return commit_image(run.storage, data.ticket.shard, requests[row]["image_id"], array, level)

    with ThreadPoolExecutor(UPLOADS) as uploads:
        return list(uploads.map(commit, range(len(requests))))


def _manifest(data: ShardData, files: list[ImageFile | None], run: Run, ref: RunRef) -> pa.Table:
    assert data.requests is not None
    assert data.embeddings is not None
    assert data.pixels is not None
    ticket = data.ticket
    rows = zip(
        data.requests.drop(["row"]).to_pylist(),
        data.embeddings.to_pylist(),
        data.pixels.drop(["pixels"]).to_pylist(),
        files,
        strict=True,
    )
    positions = _embedding_rows(ticket, run, data.requests["image_id"].to_pylist())
    shared = {
        "shard": ticket.shard,
        "embedding_uri": paths.embeddings_key(ticket.shard),
        "versions": versions(),
        "numerics": NUMERICS_VERSION,
        "encoder": encoder_version(run.spec.output.png_level),
        "prompts_sha256": data.prompts_sha256,
        "writer_token": uuid.uuid4().hex,
        "created_at": datetime.now(UTC),
    }
    ours = [
        shared | _image_row(*row, run, ticket) | {"embedding_row": position}
        for row, position in zip(rows, positions, strict=True)
    ]
    return _with_carried(pa.Table.from_pylist(ours, schema=MANIFEST), data, run, ref)


@cache
def versions() -> str:
    """Of what decides bits on one device: `versions` of a manifest."""
    return f"cascade-batch {__version__} torch {version('torch')} transformers {version('transformers')}"


def _embedding_rows(ticket: Ticket, run: Run, image_ids: list[str]) -> list[int]:
    if not ticket.retry:
        return list(range(len(image_ids)))
    key = paths.embeddings_key(ticket.shard)
    order = parquet.from_bytes(run.storage.read(key), key)["image_id"].to_pylist()
    return [order.index(image_id) for image_id in image_ids]


def _image_row(
    request: dict[str, Any],
    embedding: dict[str, Any],
    rendered: dict[str, Any],
    file: ImageFile | None,
    run: Run,
    ticket: Ticket,
) -> dict[str, Any]:
    """One manifest row without what the whole shard shares."""
    c_key = embedding["stage_c_key"]
    ba_key = None
    if c_key is not None and rendered["error_code"] not in UNREAD:
        ba_key = stage_ba_key(request, c_key, run.weights, rendered["dtype"], run.sampling)
    return {
        **request,
        "conditions": joined_conditions(embedding["conditions"], request["conditions"]),
        **{name: rendered[name] for name in ("status", "error_code", "error_message")},
        **{name: embedding[name] for name in ("prompt_tokens", "prompt_truncated", "embedding_sha256")},
        # In a retry the embedding's count is of all sittings already, and `_replace_rows` adds to this one.
        "attempts": rendered["attempts"]
        if ticket.retry
        else max(embedding["attempts"], rendered["attempts"]),
        "image_uri": file.uri if file else None,
        "image_bytes": file.bytes if file else None,
        "image_sha256": file.sha256 if file else None,
        "pixel_sha256": file.pixel_sha256 if file else None,
        "stage_c_key": c_key,
        "stage_ba_key": ba_key,
        **{stages.C.cost(name): embedding[name] for name, _ in COST},
        **{stages.BA.cost(name): rendered[name] for name, _ in COST},
    }


def _with_carried(table: pa.Table, data: ShardData, run: Run, ref: RunRef) -> pa.Table:
    """The manifest with the prompt table's own columns, read again so that they need not pass the pools."""
    assert data.requests is not None
    ticket = data.ticket
    rows = read_rows(run.table, ticket.file, ticket.first_row, ticket.rows)
    if rows_sha256(rows) != data.prompts_sha256:
        raise table_changed(ticket, ref, rows_sha256(rows), {data.prompts_sha256})
    return with_carried(table, rows, data.requests["row"], run.table.carried)


def _replace_rows(
    run: Run, key: str, rows: pa.Table, encode: Any, attempts_at_least: Sequence[int] = ()
) -> pa.Table:
    """Swap the rows of these images in a committed record, the others kept as they are.

    A row that is good already stays: another driver retried it, or this very step ran before.
    The new rows' attempts are added to those of earlier sittings, or are `attempts_at_least` if that is more.
    """
    stored_bytes = run.storage.read(key)
    stored = parquet.from_bytes(stored_bytes, key)
    ids, statuses = stored["image_id"].to_pylist(), stored["status"].to_pylist()
    failed = {image_id for image_id, status in zip(ids, statuses, strict=True) if status == "failed"}
    new = {image_id: i for i, image_id in enumerate(rows["image_id"].to_pylist()) if image_id in failed}
    if not set(rows["image_id"].to_pylist()) <= set(ids):
        raise IntegrityError("images to replace are not in the record", where=key)
    rows = _with_attempts(
        rows, dict(zip(ids, stored["attempts"].to_pylist(), strict=True)), attempts_at_least
    )
    order = [stored.num_rows + new[image_id] if image_id in new else row for row, image_id in enumerate(ids)]
    merged = parquet.replaced(stored, rows, order)
    run.storage.replace(key, encode(merged), stored_bytes)
    return merged


def _with_attempts(rows: pa.Table, before: dict[str, int], at_least: Sequence[int]) -> pa.Table:
    counted = zip(
        rows["image_id"].to_pylist(),
        rows["attempts"].to_pylist(),
        at_least or [0] * rows.num_rows,
        strict=True,
    )
    total = [max(before[image_id] + now, least) for image_id, now, least in counted]
    index = rows.schema.get_field_index("attempts")
    return rows.set_column(index, rows.schema.field(index), pa.array(total, pa.int32()))
