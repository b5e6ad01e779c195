"""Whether one manifest shard is one that the run could have written, judged without the prompt table."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from cascade_batch.errors import IntegrityError
from cascade_batch.ids import image_id
from cascade_batch.opening import OpenRun
from cascade_batch.plan import Shard
from cascade_batch.schemas import ERROR_CODES, STATUSES
from cascade_batch.storage import ObjectMissing
from cascade_batch.stores import layout
from cascade_batch.stores.manifest import read_manifest
from cascade_batch.verify.differences import Difference

_OF_PICTURES = ("image_uri", "image_bytes", "image_sha256", "pixel_sha256")


def check_manifest(run: OpenRun, planned: Shard) -> tuple[pa.Table | None, Difference | None]:
    """The manifest shard if it can be trusted, else what is wrong with it."""
    key = layout.manifest_key(planned.shard)
    try:
        manifest = read_manifest(run.storage, planned.shard)
    except ObjectMissing:
        return None, Difference("missing", key, "removed during the check", planned.shard)
    except IntegrityError as error:
        return None, Difference("damaged", key, error.what, planned.shard, error.got)
    fault = next(_faults(manifest, run.manifest_schema, planned), None)
    if fault is None:
        return manifest, None
    what, got, expected = fault
    return None, Difference("inconsistent", key, what, planned.shard, got, expected)


def is_elsewhere(uri: str) -> bool:
    """Whether a manifest's URI points into another run; those within the run are relative."""
    return "://" in uri or uri.startswith("/")


def _faults(manifest: pa.Table, schema: pa.Schema, planned: Shard) -> Iterator[tuple[str, object, object]]:
    """(what, got, expected); each check may rely on those before it, so only the first one counts."""
    if not manifest.schema.equals(schema):
        yield "other columns than the run's", _differing(manifest.schema, schema), "those in run.json"
    if manifest.num_rows != planned.images:
        yield "other rows than the plan", manifest.num_rows, planned.images
    shards = set(manifest["shard"].to_pylist())
    if shards != {planned.shard}:
        yield "rows of another shard", sorted(shards, key=str)[:5], planned.shard
    yield from _identity_faults(manifest, planned)
    for row in manifest.to_pylist():
        wrong = _row_fault(row)
        if wrong:
            yield f"row of {row['image_id']}: {wrong}", row["status"], None


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
    if row["embedding_uri"] is None or row["embedding_row"] is None:
        return "it names no embedding"
    if row["status"] == "failed":
        known = row["error_code"] in ERROR_CODES
        return "" if known and not filled else "a failed row without a known error, or with a picture"
    if len(filled) < len(_OF_PICTURES) or row["embedding_sha256"] is None or row["error_code"] is not None:
        return "a good row that lacks its picture's or embedding's hash, or has an error"
    key, sha256 = layout.image_key, row["image_sha256"]
    own = (key(row["shard"], row["image_id"]), key(row["shard"], row["image_id"], f".{sha256[:8]}"))
    if not is_elsewhere(row["image_uri"]) and row["image_uri"] not in own:
        return f"its picture has another image's key, {row['image_uri']}"
    return ""


def _differing(got: pa.Schema, expected: pa.Schema) -> str:
    fields = {(f.name, str(f.type)) for f in got} ^ {(f.name, str(f.type)) for f in expected}
    return ", ".join(sorted({name for name, _ in fields})[:5]) or "another order"
