"""The committing steps beside the pools: data first, the commit record last, nothing ever overwritten.

`--retry-failed` is the one exception: it replaces exactly one shard's record, under If-Match.
"""

import json
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from cascade_batch.errors import IntegrityError
from cascade_batch.numerics import NUMERICS_VERSION
from cascade_batch.prompts import read_rows, rows_sha256
from cascade_batch.stage_keys import stage_ba_key, stage_c_key
from cascade_batch.storage import ObjectExists
from cascade_batch.stores import layout, parquet
from cascade_batch.stores.embeddings import encode_embeddings
from cascade_batch.stores.images import ImageFile, commit_image, encoder_version
from cascade_batch.stores.run_record import check_numerics
from cascade_batch.workers.context import RunContext, RunRef, open_run
from cascade_batch.workers.reading import table_changed
from cascade_batch.workers.shards import ShardData, Ticket

UPLOADS = min(8, 2 * (os.cpu_count() or 1))
"""Pictures of one shard encoded and uploaded at once."""


def commit_embeddings(data: ShardData, ref: RunRef) -> ShardData:
    """Commit 1. A writer that loses the race drops its arrays: pool BA reads what was committed first."""
    if data.embeddings is None:
        return data
    assert data.requests is not None
    run = open_run(ref)
    _check_device_kinds(ref, data.embeddings)
    table = _with_keys(data.embeddings, data.requests, data.prompts_sha256, run)
    key = layout.embeddings_key(data.ticket.shard)
    if data.ticket.has_embeddings:
        _replace_rows(run, key, table, encode_embeddings)
    else:
        with suppress(ObjectExists):  # another driver was first; its embeddings are the shard's
            run.storage.create(key, encode_embeddings(table))
    return replace(data, requests=None, embeddings=None)


def commit_images(data: ShardData, ref: RunRef) -> ShardData:
    """Commit 2: every picture, then the manifest that makes the shard done."""
    assert data.pictures is not None
    run, ticket = open_run(ref), data.ticket
    _check_device_kinds(ref, data.pictures)
    files = _commit_pictures(data, run)
    manifest = _manifest(data, files, run, ref)
    key = layout.manifest_key(ticket.shard)
    if ticket.retry:
        manifest = _replace_rows(run, key, manifest, parquet.to_bytes)
    else:
        try:
            run.storage.create(key, parquet.to_bytes(manifest))
        except ObjectExists:
            manifest = parquet.from_bytes(run.storage.read(key), key)
    failed = manifest["status"].to_pylist().count("failed")
    return replace(data, requests=None, embeddings=None, pictures=None, failed_rows=failed)


def _check_device_kinds(ref: RunRef, table: pa.Table) -> None:
    for kind in set(table["device"].to_pylist()):
        _check_numerics_once(ref, kind)


@lru_cache
def _check_numerics_once(ref: RunRef, device_kind: str) -> None:
    check_numerics(open_run(ref).storage, device_kind, json.loads(ref.numerics_text))


def _with_keys(table: pa.Table, requests: pa.Table, prompts_sha256: str, run: RunContext) -> pa.Table:
    dtypes = table["dtype"].to_pylist()
    preset = run.spec.sampler.preset
    keys = [
        stage_c_key(request, run.weights, dtype, preset) if request["prompt"] is not None else None
        for request, dtype in zip(requests.to_pylist(), dtypes, strict=True)
    ]
    rows, token = table.num_rows, uuid.uuid4().hex
    for name, values in (
        ("stage_c_key", keys),
        ("prompts_sha256", [prompts_sha256] * rows),
        ("writer_token", [token] * rows),
    ):
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table


def _commit_pictures(data: ShardData, run: RunContext) -> list[ImageFile | None]:
    assert data.pictures is not None
    assert data.requests is not None
    pixels, level = data.pictures["pixels"].combine_chunks(), run.spec.output.png_level
    requests = data.requests.select(["image_id", "height", "width"]).to_pylist()

    def commit(row: int) -> ImageFile | None:
        if not pixels[row].is_valid:
            return None
        shape = (requests[row]["height"], requests[row]["width"], 3)
        array = np.frombuffer(pixels[row].as_buffer(), np.uint8).reshape(shape)
        return commit_image(run.storage, data.ticket.shard, requests[row]["image_id"], array, level)

    with ThreadPoolExecutor(UPLOADS) as uploads:
        return list(uploads.map(commit, range(len(requests))))


def _manifest(data: ShardData, files: list[ImageFile | None], run: RunContext, ref: RunRef) -> pa.Table:
    assert data.requests is not None
    assert data.embeddings is not None
    assert data.pictures is not None
    ticket = data.ticket
    rows = zip(
        data.requests.to_pylist(), data.embeddings.to_pylist(), data.pictures.to_pylist(), files, strict=True
    )
    positions = _embedding_rows(ticket, run, data.requests["image_id"].to_pylist())
    shared = {
        "shard": ticket.shard,
        "embedding_uri": layout.embeddings_key(ticket.shard),
        "versions": run.versions,
        "numerics": NUMERICS_VERSION,
        "encoder": encoder_version(run.spec.output.png_level),
        "prompts_sha256": data.prompts_sha256,
        "writer_token": uuid.uuid4().hex,
        "created_at": datetime.now(UTC),
    }
    ours = [
        shared | _image_row(*row, run) | {"embedding_row": position}
        for row, position in zip(rows, positions, strict=True)
    ]
    table = pa.Table.from_pylist(ours, schema=run.manifest_schema)
    return _with_carried(table, data, run, ref)


def _embedding_rows(ticket: Ticket, run: RunContext, image_ids: list[str]) -> list[int]:
    if not ticket.retry:
        return list(range(len(image_ids)))
    key = layout.embeddings_key(ticket.shard)
    order = parquet.from_bytes(run.storage.read(key), key)["image_id"].to_pylist()
    return [order.index(image_id) for image_id in image_ids]


def _image_row(
    request: dict[str, Any],
    embedding: dict[str, Any],
    picture: dict[str, Any],
    file: ImageFile | None,
    run: RunContext,
) -> dict[str, Any]:
    """One manifest row without what the whole shard shares; `row` and `pixels` are left out by the schema."""
    c_key = embedding["stage_c_key"]
    return {
        **request,
        **{name: picture[name] for name in ("status", "error_code", "error_message")},
        **{name: embedding[name] for name in ("prompt_tokens", "prompt_truncated", "embedding_sha256")},
        "attempts": max(embedding["attempts"], picture["attempts"]),
        "image_uri": file.uri if file else None,
        "image_bytes": file.bytes if file else None,
        "image_sha256": file.sha256 if file else None,
        "pixel_sha256": file.pixel_sha256 if file else None,
        "stage_c_key": c_key,
        "stage_ba_key": stage_ba_key(request, c_key, run.weights, picture["dtype"]) if c_key else None,
        **{f"stage_c_{name}": embedding[name] for name in _COST},
        **{f"stage_ba_{name}": picture[name] for name in _COST},
    }


_COST = ("seconds", "device", "worker", "batch", "threads", "dtype")


def _with_carried(table: pa.Table, data: ShardData, run: RunContext, ref: RunRef) -> pa.Table:
    """The manifest with the prompt table's own columns, read again so that they need not pass the pools."""
    assert data.requests is not None
    ticket = data.ticket
    rows = read_rows(run.table, ticket.file, ticket.first_row, ticket.rows)
    if rows_sha256(rows) != data.prompts_sha256:
        raise table_changed(ticket, ref, rows_sha256(rows), {data.prompts_sha256})
    for field in run.table.carried:
        values = rows[field.name].take(data.requests["row"])
        table = table.set_column(table.schema.get_field_index(field.name), field, values.cast(field.type))
    return table


def _replace_rows(run: RunContext, key: str, rows: pa.Table, encode: Any) -> pa.Table:
    """Swap the rows of these images in a committed record, the others kept as they are."""
    stored_bytes = run.storage.read(key)
    stored = parquet.from_bytes(stored_bytes, key)
    new = {image_id: i for i, image_id in enumerate(rows["image_id"].to_pylist())}
    if not new.keys() <= set(stored["image_id"].to_pylist()):
        raise IntegrityError("images to replace are not in the record", where=key)
    both = pa.concat_tables([stored, rows.cast(stored.schema)])
    order = [
        stored.num_rows + new[image_id] if image_id in new else row
        for row, image_id in enumerate(stored["image_id"].to_pylist())
    ]
    merged = _with_attempts(both.take(pa.array(order)), stored, new)
    run.storage.replace(key, encode(merged), stored_bytes)
    return merged


def _with_attempts(merged: pa.Table, stored: pa.Table, new: dict[str, int]) -> pa.Table:
    """Attempts count over all sittings."""
    before, now = stored["attempts"].to_pylist(), merged["attempts"].to_pylist()
    ids = stored["image_id"].to_pylist()
    total = [b + n if image_id in new else b for b, n, image_id in zip(before, now, ids, strict=True)]
    field = merged.schema.field("attempts")
    return merged.set_column(merged.schema.get_field_index("attempts"), field, pa.array(total, field.type))
