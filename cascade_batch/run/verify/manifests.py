"""Whether one manifest shard is one that the run could have written, judged without the prompt table."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from cascade_batch.run import paths
from cascade_batch.run.ids import image_id
from cascade_batch.run.run import Run
from cascade_batch.run.schemas import ERROR_CODES, STATUSES
from cascade_batch.run.shards import Shard
from cascade_batch.run.uris import is_elsewhere
from cascade_batch.run.verify.differences import Difference
from cascade_batch.run.verify.tables import Fault, read_table, schema_fault

_OF_PICTURES = ["image_uri", "image_bytes", "image_sha256", "pixel_sha256"]
_OF_EMBEDDINGS = ["embedding_uri", "embedding_row", "embedding_sha256"]
_OURS = ["image_id", "shard", "status", "error_code", *_OF_PICTURES, *_OF_EMBEDDINGS]


def check_manifest(run: Run, planned: Shard) -> tuple[pa.Table | None, Difference | None]:
    """The manifest shard if it can be trusted, else what is wrong with it."""
    key = paths.manifest_key(planned.shard)
    manifest, fault = read_table(run.storage, key, run.table.carried.names)
    if manifest is not None:
        fault = next(_faults(manifest, run.manifest_schema, planned), None)
    if fault is None:
        return manifest, None
    kind, what, got, expected = fault
    return None, Difference(kind, key, what, planned.shard, got, expected)


def _faults(manifest: pa.Table, schema: pa.Schema, planned: Shard) -> Iterator[Fault]:
    """Each check may rely on those before it, so only the first fault counts."""
    fault = schema_fault(manifest.schema, schema)
    if fault:
        yield fault
    if manifest.num_rows != planned.images:
        yield "inconsistent", "other rows than the plan", manifest.num_rows, planned.images
    shards = set(manifest["shard"].to_pylist())
    if shards != {planned.shard}:
        yield "inconsistent", "rows of another shard", sorted(shards, key=str)[:5], planned.shard
    for what, got, expected in _identity_faults(manifest, planned):
        yield "inconsistent", what, got, expected
    for row in manifest.select(_OURS).to_pylist():
        wrong = _row_fault(row)
        if wrong:
            yield "inconsistent", f"row of {row['image_id']}: {wrong}", None, None


def _identity_faults(manifest: pa.Table, planned: Shard) -> Iterator[tuple[str, object, object]]:
    """The images are those the plan cut: whole prompts, only the first of which may begin in its middle."""
    prompts, indexes = manifest["prompt_id"].to_pylist(), manifest["image_index"].to_pylist()
    before, expected = None, planned.first_image
    for prompt, index, name in zip(prompts, indexes, manifest["image_id"].to_pylist(), strict=True):
        if before is not None:
            expected = expected + 1 if prompt == before else 0
        before = prompt
        if prompt is None:
            yield "a row without a prompt_id", name, None
        elif index != expected:
            yield f"images of {prompt!r} are not in order", index, expected
        elif name != image_id(prompt, index):
            yield "image_id is not that of prompt_id and image_index", name, image_id(prompt, index)
    if len(set(prompts)) != planned.rows:
        yield "other prompts than the plan", len(set(prompts)), planned.rows


def _row_fault(row: dict[str, Any]) -> str:
    """What is wrong with one row, empty if nothing is."""
    filled = [name for name in _OF_PICTURES if row[name] is not None]
    if row["status"] not in STATUSES:
        return "unknown status"
    if row["embedding_row"] is None or not _leads_to(
        row["embedding_uri"], paths.embeddings_key(row["shard"])
    ):
        return f"its embedding cannot be at {row['embedding_uri']}, row {row['embedding_row']}"
    if row["status"] == "failed":
        known = row["error_code"] in ERROR_CODES
        return "" if known and not filled else "a failed row without a known error, or with a picture"
    if len(filled) < len(_OF_PICTURES) or row["embedding_sha256"] is None or row["error_code"] is not None:
        return "a good row that lacks its picture's or embedding's hash, or has an error"
    keys = [paths.image_key(row["shard"], row["image_id"], f) for f in ("", f".{row['image_sha256'][:8]}")]
    return "" if _leads_to(row["image_uri"], *keys) else f"its picture cannot be at {row['image_uri']}"


def _leads_to(uri: str | None, *own: str) -> bool:
    """Whether a URI is one of the row's own keys, or in another run. Re-opening deletes by these keys."""
    return uri is not None and (uri in own or is_elsewhere(uri))
