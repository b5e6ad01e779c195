"""Whether the embeddings of one shard are whole, and those that its manifest names."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from cascade_batch.run import paths
from cascade_batch.run.embeddings import embedding_arrays, embedding_sha256
from cascade_batch.run.run import Run
from cascade_batch.run.shards import Shard
from cascade_batch.run.uris import locate
from cascade_batch.run.verify.differences import Difference
from cascade_batch.run.verify.tables import Fault, read_table, schema_fault

_CLAIMED = ["image_id", "status", "embedding_uri", "embedding_row", "embedding_sha256", "prompts_sha256"]


def check_embeddings(run: Run, planned: Shard, manifest: pa.Table | None) -> list[Difference]:
    """What is wrong with the embedding shards, one line each.

    Args:
        manifest: the shard's trusted manifest; without one, the run's own embedding shard is checked by itself.
    """
    own = paths.embeddings_key(planned.shard)
    claims: dict[str, list[dict[str, Any]]] = {own: []} if manifest is None else {}
    for row in [] if manifest is None else manifest.select(_CLAIMED).to_pylist():
        claims.setdefault(row["embedding_uri"], []).append(row)
    differences = []
    for uri, rows in claims.items():
        fault = _first_fault(run, planned, uri, rows)
        if fault:
            kind, what, got, expected = fault
            differences.append(Difference(kind, uri, what, planned.shard, got, expected))
    return differences


def _first_fault(run: Run, planned: Shard, uri: str, claims: list[dict[str, Any]]) -> Fault | None:
    storage, key = locate(run.storage, uri)
    is_own = uri == paths.embeddings_key(planned.shard)
    table, fault = read_table(storage, key)
    if table is None:
        return fault
    if is_own:
        fault = next(_shape_faults(table, run.embeddings_schema, planned), None)
        if fault:
            return fault
    try:
        hashes = [a if a is None else embedding_sha256(a) for a in embedding_arrays(table)]
    except (ValueError, TypeError, KeyError) as error:  # sizes that do not fit the arrays
        return "damaged", "the arrays cannot be read", error, None
    return next(_hash_faults(table, hashes), None) or next(_claim_faults(table, hashes, claims, is_own), None)


def _shape_faults(table: pa.Table, schema: pa.Schema, planned: Shard) -> Iterator[Fault]:
    fault = schema_fault(table.schema, schema)
    if fault:
        yield fault
    if table.num_rows != planned.images:
        yield "inconsistent", "other rows than the plan", table.num_rows, planned.images
    distinct = len(set(table["image_id"].to_pylist()))
    if distinct != planned.images:
        yield "inconsistent", "an image has two embeddings", distinct, planned.images
    if len(set(table["prompts_sha256"].to_pylist())) != 1:
        yield "inconsistent", "rows of different prompt tables", None, None


def _hash_faults(table: pa.Table, hashes: list[str | None]) -> Iterator[Fault]:
    """The arrays against the hashes beside them; a failed row has neither."""
    columns = (table[name].to_pylist() for name in ("image_id", "status", "embedding_sha256"))
    for image_id, status, stored, computed in zip(*columns, hashes, strict=True):
        if stored != computed:
            yield "damaged", f"embedding of {image_id} has another hash", computed, stored
        if (computed is None) != (status == "failed"):
            yield "inconsistent", f"embedding of {image_id}", status, "an array, or a failed row"


def _claim_faults(
    table: pa.Table, hashes: list[str | None], claims: list[dict[str, Any]], is_own: bool
) -> Iterator[Fault]:
    """What the manifest says of the embeddings. Each check may rely on those before it.

    A failed row that names no hash claims nothing: a retry may have committed its embedding already.
    """
    ids, prompts = table["image_id"].to_pylist(), set(table["prompts_sha256"].to_pylist())
    for claim in claims:
        row, image_id, sha256 = claim["embedding_row"], claim["image_id"], claim["embedding_sha256"]
        if not 0 <= row < len(ids):
            yield "inconsistent", f"the manifest's row {row} for {image_id}", f"{len(ids)} rows", None
        if is_own and ids[row] != image_id:
            yield "inconsistent", f"row {row} is another image", ids[row], image_id
        if sha256 not in (hashes[row], None):
            yield "damaged", f"embedding of {image_id} is not the manifest's", hashes[row], sha256
        if is_own and prompts != {claim["prompts_sha256"]}:
            yield "inconsistent", "made from other prompts than the manifest", None, None
