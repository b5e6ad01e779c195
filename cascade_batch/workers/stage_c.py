"""Pool C: one shard's prompts in, its embeddings out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from cascade_batch.engine.batches import Conditions, PriorBatch, PriorImages
from cascade_batch.engine.prior import Prior
from cascade_batch.model.geometry import embedding_side
from cascade_batch.model.parts import Lora, PartFiles
from cascade_batch.model.sampling import StageSampling
from cascade_batch.model.stages import C
from cascade_batch.model.texts import PUBLISHED, TextOptions
from cascade_batch.plan.pools import WorkerSettings
from cascade_batch.run.embeddings import embedding_column, embedding_sha256
from cascade_batch.run.schemas import ImageRequest
from cascade_batch.workers.batch_sizes import Probe
from cascade_batch.workers.batching import Batch
from cascade_batch.workers.condition_tables import batch_fields, given_of
from cascade_batch.workers.device_worker import DeviceWorker, Rendered
from cascade_batch.workers.faults import failure_of
from cascade_batch.workers.ledger import Ledger
from cascade_batch.workers.rendering import OnDevice, RowResult, here
from cascade_batch.workers.row_conditions import RowConditions
from cascade_batch.workers.shards import ShardData
from cascade_batch.workers.trials import trials_of


@dataclass(frozen=True)
class _Embedded:
    embedding: np.ndarray | None
    pooled: np.ndarray
    negative_pooled: np.ndarray
    tokens: int
    truncated: bool


class StageCWorker(DeviceWorker):
    """Holds the text encoder, Stage C and what conditions it."""

    stage = C

    def __init__(
        self,
        parts: Mapping[str, PartFiles],
        settings: WorkerSettings,
        ledger: Ledger,
        *,
        sampling: StageSampling,
        schema: pa.Schema,
        loras: Sequence[Lora] = (),
        text: TextOptions = PUBLISHED,
        probe: Probe | None = None,
        on_device: OnDevice = here,
    ) -> None:
        """`schema`: of the run's embedding shards."""
        super().__init__(settings, ledger, probe, on_device)
        self._sampling, self._schema = sampling, schema
        self._prior = Prior.load(parts, settings.dtype, self._device, loras, text)

    def render(self, data: ShardData) -> ShardData:
        """The shard with its `embeddings`; passed through if there is nothing to render."""
        if data.requests is None or data.error:
            return data
        requests = data.images
        no_prompt = RowResult(error_code="null_prompt", error_message="the row's prompt is null")
        given, failed = given_of(requests, data.conditioned)
        failed |= {row: no_prompt for row, r in enumerate(requests) if r["prompt"] is None}

        def render(batch: Batch, requests: Sequence[ImageRequest]) -> list[RowResult]:
            conditions = Conditions(**batch_fields([given[row] for row in batch.rows]))
            return self._render(batch, [requests[row] for row in batch.rows], conditions)

        kinds = partial(self._kinds, requests, given, failed)  # a tokenizer is the device thread's, too
        rendered = self._render_shard(data.ticket.shard, requests, failed, render, kinds)
        seconds = replace(data.seconds, c=rendered.seconds)
        return replace(data, conditioned=None, embeddings=self._table(rendered), seconds=seconds)

    def _try_batch(self, batch: Batch) -> None:
        self._render(batch, trials_of(batch), Conditions())

    def _kinds(
        self, requests: Sequence[ImageRequest], given: Sequence[RowConditions], failed: dict[int, RowResult]
    ) -> list[tuple]:
        """Text windows of each image, and what else conditions it. Texts that cannot be read join `failed`."""
        kinds = []
        for image, (request, conditions) in enumerate(zip(requests, given, strict=True)):
            windows = 0
            try:
                windows = self._prior.windows(request["prompt"] or "", request["negative_prompt"])
            except Exception as error:  # noqa: BLE001
                failed.setdefault(image, failure_of(error, f"the text of {request['image_id']}"))
            kinds.append((windows, conditions.kind))
        return kinds

    def _render(self, batch: Batch, rows: Sequence[ImageRequest], conditions: Conditions) -> list[RowResult]:
        """`rows`: of every place of the batch."""

        def render() -> PriorImages:
            return self._prior.render(
                PriorBatch(
                    prompts=[r["prompt"] or "" for r in rows],
                    negative_prompts=[r["negative_prompt"] for r in rows],
                    seeds=[r["seed"] for r in rows],
                    height=batch.height,
                    width=batch.width,
                    steps=batch.steps,
                    guidance=[r["prior_guidance_scale"] for r in rows],
                    sampling=self._sampling,
                    conditions=conditions,
                )
            )

        return self._tried(batch, render, _judged)

    def _table(self, rendered: Rendered) -> pa.Table:
        values: list[_Embedded | None] = [result.value for result in rendered.results]
        arrays = [v.embedding if v else None for v in values]
        columns: dict[str, Any] = {
            **self._columns(rendered),
            "embedding": embedding_column(arrays, self._schema),
            "height": [embedding_side(r["height"]) for r in rendered.requests],
            "width": [embedding_side(r["width"]) for r in rendered.requests],
            "pooled": [v.pooled if v else None for v in values],
            "negative_pooled": [v.negative_pooled if v else None for v in values],
            "embedding_sha256": [embedding_sha256(a) if a is not None else None for a in arrays],
            "prompt_tokens": [v.tokens if v else None for v in values],
            "prompt_truncated": [v.truncated if v else None for v in values],
        }
        # The committing step fills in the rest: keys, and hashes of what it read.
        absent = {f.name: pa.nulls(len(values), f.type) for f in self._schema if f.name not in columns}
        columns |= absent
        return pa.table({name: columns[name] for name in self._schema.names}, schema=self._schema)


def _judged(out: PriorImages, image: int) -> RowResult:
    value = _Embedded(
        out.embeddings[image],
        out.pooled[image],
        out.negative_pooled[image],
        out.prompt_tokens[image],
        out.prompt_truncated[image],
    )
    if np.isnan(out.embeddings[image]).any():
        code, message = "nan_output", "Stage C produced NaN"
    elif np.isinf(out.embeddings[image]).any():
        code, message = "infinite_output", "Stage C produced an infinite value"
    else:
        return RowResult(value)
    return RowResult(replace(value, embedding=None), code, message)
