"""Pool C: one shard's prompts in, its embeddings out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from cascade_batch.engine.batches import Conditions, PriorBatch
from cascade_batch.engine.devices import device_kind, fix_numerics, keep_freed_memory, named_device
from cascade_batch.engine.prior import Prior
from cascade_batch.errors import SpecError
from cascade_batch.model.geometry import embedding_side
from cascade_batch.model.parts import Lora, PartFiles
from cascade_batch.model.sampling import StageSampling
from cascade_batch.model.texts import PUBLISHED, TextOptions
from cascade_batch.plan.pools import WorkerSettings
from cascade_batch.run.embeddings import embedding_column, embedding_sha256
from cascade_batch.workers.batch_sizes import Probe
from cascade_batch.workers.batching import Batch
from cascade_batch.workers.condition_tables import batch_fields, given_of
from cascade_batch.workers.faults import blaming, failure_of, refusal
from cascade_batch.workers.ledger import Ledger
from cascade_batch.workers.probing import GUIDED, UNGUIDED, settled_once
from cascade_batch.workers.rendering import (
    OnDevice,
    Request,
    RowResult,
    here,
    render_shard,
    take_in_hand,
    worker_name,
)
from cascade_batch.workers.row_conditions import RowConditions
from cascade_batch.workers.shards import ShardData

PROMPT = "a photograph of a lighthouse on a cliff above the sea at dusk"
"""What measured batches show."""


@dataclass(frozen=True)
class _Embedded:
    embedding: np.ndarray | None
    pooled: np.ndarray
    negative_pooled: np.ndarray
    tokens: int
    truncated: bool


class StageCWorker:
    """Holds the text encoder, Stage C and what conditions it on one device."""

    def __init__(
        self,
        parts: dict[str, PartFiles],
        settings: WorkerSettings,
        sampling: StageSampling,
        schema: pa.Schema,
        ledger: Ledger,
        loras: Sequence[Lora] = (),
        text: TextOptions = PUBLISHED,
        probe: Probe | None = None,
        on_device: OnDevice = here,
    ) -> None:
        self._settings, self._sampling, self._schema, self._ledger = settings, sampling, schema, ledger
        self._on_device = on_device
        keep_freed_memory()
        fix_numerics(settings.threads)
        device = named_device(settings.device)
        self._device_kind = device_kind(device)
        self.batch_sizes = settled_once(settings, self._device_kind, probe, self._try_batch)
        self._prior = Prior.load(parts, settings.dtype, device, loras, text)

    def render(self, data: ShardData) -> ShardData:
        """The shard with its `embeddings`; passed through if there is nothing to render.

        Several threads may each have a shard in hand; only batches are rendered on the device's own.
        """
        if data.requests is None or data.error:
            return data
        requests = data.requests.to_pylist()
        no_prompt = RowResult(error_code="null_prompt", error_message="the row's prompt is null")
        given, failed = given_of(requests, data.conditioned)
        failed |= {row: no_prompt for row, r in enumerate(requests) if r["prompt"] is None}

        def render(batch: Batch, requests: Sequence[Request]) -> list[RowResult]:
            return self._render(
                batch, requests, Conditions(**batch_fields([given[row] for row in batch.rows]))
            )

        shard = data.ticket.shard
        attempt = take_in_hand(self._ledger, "prior", shard)

        def render_all() -> list[RowResult]:
            fix_numerics(self._settings.threads)  # of this thread
            kinds = self._kinds(requests, given, failed)  # a tokenizer is one thread's, too
            blame = blaming("prior", shard, self._try_batch)
            return render_shard(
                requests,
                "prior",
                shard,
                attempt,
                self.batch_sizes,
                self._ledger,
                render,
                failed,
                kinds,
                blame,
            )

        results = self._on_device(render_all)
        table = self._table(requests, results, attempt.number)
        return replace(data, conditioned=None, embeddings=table, seconds_c=sum(r.seconds for r in results))

    def _try_batch(self, batch: Batch) -> None:
        guidance = GUIDED if batch.guided else UNGUIDED
        request = {"prompt": PROMPT, "negative_prompt": "", "seed": 0, "prior_guidance_scale": guidance}
        self._render(batch, [request], Conditions())

    def _kinds(
        self, requests: Sequence[Request], given: Sequence[RowConditions], failed: dict[int, RowResult]
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

    def _render(self, batch: Batch, requests: Sequence[Request], conditions: Conditions) -> list[RowResult]:
        rows = [requests[row] for row in batch.rows]
        try:
            out = self._prior.render(
                PriorBatch(
                    prompts=[r["prompt"] for r in rows],
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
        except SpecError as error:  # conditions that do not fit the model, alike in all rows of one kind
            return [RowResult(error_code="bad_condition", error_message=str(error))] * batch.real
        except Exception as error:  # noqa: BLE001
            raise refusal(error) from None
        return [
            _judged(
                _Embedded(
                    out.embeddings[i],
                    out.pooled[i],
                    out.negative_pooled[i],
                    out.prompt_tokens[i],
                    out.prompt_truncated[i],
                )
            )
            for i in range(batch.real)
        ]

    def _table(self, requests: Sequence[Request], results: list[RowResult], attempts: int) -> pa.Table:
        values: list[_Embedded | None] = [r.value for r in results]
        arrays = [v.embedding if v else None for v in values]
        columns: dict[str, Any] = {
            "image_id": [r["image_id"] for r in requests],
            "embedding": embedding_column(arrays, self._schema),
            "height": [embedding_side(r["height"]) for r in requests],
            "width": [embedding_side(r["width"]) for r in requests],
            "pooled": [v.pooled if v else None for v in values],
            "negative_pooled": [v.negative_pooled if v else None for v in values],
            "embedding_sha256": [embedding_sha256(a) if a is not None else None for a in arrays],
            "status": [r.status for r in results],
            "error_code": [r.error_code for r in results],
            "error_message": [r.error_message for r in results],
            "prompt_tokens": [v.tokens if v else None for v in values],
            "prompt_truncated": [v.truncated if v else None for v in values],
            "attempts": [attempts] * len(results),
            "seconds": [r.seconds for r in results],
            "device": [self._device_kind] * len(results),
            "worker": [worker_name()] * len(results),
            "batch": [r.batch for r in results],
            "threads": [self._settings.threads] * len(results),
            "dtype": [self._settings.dtype] * len(results),
        }
        return pa.table(
            {
                field.name: columns.get(field.name, pa.nulls(len(results), field.type))
                for field in self._schema
            },
            schema=self._schema,
        )


def _judged(value: _Embedded) -> RowResult:
    assert value.embedding is not None
    if np.isnan(value.embedding).any():
        code, message = "nan_output", "Stage C produced NaN"
    elif np.isinf(value.embedding).any():
        code, message = "infinite_output", "Stage C produced an infinite value"
    else:
        return RowResult(value)
    return RowResult(replace(value, embedding=None), code, message)
