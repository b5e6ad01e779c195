"""A runner whose stages render nothing: every shard is committed with its keys, and no picture is written.

Beside the pools everything is the real thing: reading, stage keys, embedding shards, manifests.
"""

import hashlib
from collections.abc import Generator, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from cascade_batch.model.geometry import embedding_side
from cascade_batch.model.stages import STAGES, Stage
from cascade_batch.pipeline.runners.local import LocalRunner
from cascade_batch.plan.pools import Node, Pools, size_pools
from cascade_batch.run import paths
from cascade_batch.run.embeddings import embedding_column, embedding_sha256
from cascade_batch.run.images import ImageFile
from cascade_batch.run.run import Run
from cascade_batch.run.schemas import COST, EMBEDDING_CHANNELS, HAPPENED
from cascade_batch.settings import DtypeSpec, PoolsSpec
from cascade_batch.weights import Model
from cascade_batch.weights.local import digests
from cascade_batch.workers import committing
from cascade_batch.workers.committing import commit_embeddings, commit_images
from cascade_batch.workers.copying import copy_embeddings
from cascade_batch.workers.reading import read_committed, read_shard
from cascade_batch.workers.setup import Setup
from cascade_batch.workers.shards import ShardData, Ticket, guarded

PNG_BYTES = 1_200_000
"""Of a picture of 1024 px, about."""
_PIXELS = pa.schema(
    [("image_id", pa.string()), ("pixels", pa.large_binary()), *HAPPENED, ("attempts", pa.int32()), *COST]
)
"""As `workers.stage_ba` has them, which imports torch."""


class NullRunner(LocalRunner):
    """Imports no torch, as the driver of a Ray run does not."""

    def size_pools(self, pools: PoolsSpec, dtype: DtypeSpec, share_c: float) -> Pools:
        return size_pools(pools, dtype, [Node(cpus=16, gpus=0)], share_c)

    def weight_digests(self, model: Model, known: Mapping[str, str] | None = None) -> dict[str, str]:
        return dict(known) if known else digests(model)

    def run(self, tickets: Iterable[Ticket], setup: Setup) -> Generator[ShardData]:
        private: Any = committing
        private._commit_pngs = _no_pngs
        steps = (
            partial(copy_embeddings, ref=setup.ref),
            partial(read_shard, ref=setup.ref),
            partial(_embedded, setup=setup),
            partial(commit_embeddings, ref=setup.ref),
            partial(read_committed, ref=setup.ref),
            partial(_decoded, setup=setup),
            partial(commit_images, ref=setup.ref),
        )
        for ticket in tickets:
            data = ShardData(ticket)
            for step in steps:
                data = guarded(step, data)
            yield data


def _no_pngs(data: ShardData, _run: Run) -> list[ImageFile]:
    assert data.requests is not None
    return [_file(data.ticket.shard, image_id) for image_id in data.requests["image_id"].to_pylist()]


def _file(shard: int, image_id: str) -> ImageFile:
    sha256 = hashlib.sha256(image_id.encode()).hexdigest()
    return ImageFile(paths.image_key(shard, image_id), PNG_BYTES, sha256, sha256)


def _embedded(data: ShardData, setup: Setup) -> ShardData:
    if data.requests is None or data.error:
        return data
    images, schema = data.images, setup.embeddings_schema
    sides = [(embedding_side(image["height"]), embedding_side(image["width"])) for image in images]
    arrays = [
        np.full((EMBEDDING_CHANNELS, *side), image["seed"] % 1000, np.float32)
        for side, image in zip(sides, images, strict=True)
    ]
    columns = {
        **_happened(data, setup, STAGES.c),
        "embedding": embedding_column(arrays, schema),
        "height": [height for height, _ in sides],
        "width": [width for _, width in sides],
        "embedding_sha256": [embedding_sha256(array) for array in arrays],
        "prompt_tokens": [8] * len(images),
        "prompt_truncated": [False] * len(images),
    }
    return _with(data, "embeddings", columns, schema)


def _decoded(data: ShardData, setup: Setup) -> ShardData:
    return data if data.error else _with(data, "pixels", _happened(data, setup, STAGES.ba), _PIXELS)


def _happened(data: ShardData, setup: Setup, stage: Stage) -> dict[str, Any]:
    settings, ids = setup.pools[stage].settings, data.requests["image_id"]  # pyright: ignore
    same = {
        "status": "ok",
        "attempts": 1,
        "seconds": 0.0,
        "device": "cpu",
        "worker": "none",
        "batch": 4,
        "threads": settings.threads,
        "dtype": settings.dtype,
    }
    return {"image_id": ids, **{name: [value] * len(ids) for name, value in same.items()}}


def _with(data: ShardData, name: str, columns: dict[str, Any], schema: pa.Schema) -> ShardData:
    rows = len(columns["image_id"])
    absent = {f.name: pa.nulls(rows, f.type) for f in schema if f.name not in columns}
    found = columns | absent
    table = pa.table({name: found[name] for name in schema.names}, schema=schema)
    return ShardData(**{**data.__dict__, name: table})
