"""Pool BA: one shard's committed embeddings in, its pixels out. Needs no text encoder."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from cascade_batch.engine.batches import DecoderBatch
from cascade_batch.engine.decoder import Decoder
from cascade_batch.engine.devices import device_kind, fix_numerics, keep_freed_memory, named_device
from cascade_batch.errors import SpecError
from cascade_batch.model.geometry import embedding_side
from cascade_batch.model.parts import PartFiles
from cascade_batch.model.sampling import Sampling
from cascade_batch.plan.pools import WorkerSettings
from cascade_batch.run.embeddings import embedding_arrays
from cascade_batch.run.images import is_single_colour
from cascade_batch.run.schemas import EMBEDDING_CHANNELS
from cascade_batch.workers.batch_sizes import Probe
from cascade_batch.workers.batching import Batch
from cascade_batch.workers.condition_tables import batch_fields, given_of
from cascade_batch.workers.faults import blaming, refusal
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
from cascade_batch.workers.row_conditions import NO_CONDITIONS, RowConditions
from cascade_batch.workers.shards import ShardData

PICTURES = pa.schema(
    [
        ("image_id", pa.string()),
        ("pixels", pa.large_binary()),
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("error_message", pa.string()),
        ("attempts", pa.int32()),
        ("seconds", pa.float64()),
        ("device", pa.string()),
        ("worker", pa.string()),
        ("batch", pa.int32()),
        ("threads", pa.int32()),
        ("dtype", pa.string()),
    ]
)
"""One row per image of a shard; `pixels` are (height, width, 3) uint8, null if failed."""

_ARRAYS = ["embedding", "pooled", "negative_pooled"]


class StageBAWorker:
    """Holds Stage B and Stage A on one device."""

    def __init__(
        self,
        parts: dict[str, PartFiles],
        settings: WorkerSettings,
        sampling: Sampling,
        ledger: Ledger,
        probe: Probe | None = None,
        on_device: OnDevice = here,
    ) -> None:
        self._settings, self._sampling, self._ledger = settings, sampling, ledger
        self._on_device = on_device
        keep_freed_memory()
        fix_numerics(settings.threads)
        device = named_device(settings.device)
        self._device_kind = device_kind(device)
        self.batch_sizes = settled_once(settings, self._device_kind, probe, self._try_batch)
        self._decoder = Decoder.load(parts, settings.dtype, device)

    def render(self, data: ShardData) -> ShardData:
        """The shard with its `pictures`, and its embeddings' arrays dropped.

        Several threads may each have a shard in hand; only batches are rendered on the device's own.
        """
        if data.error:
            return data
        assert data.requests is not None
        assert data.embeddings is not None
        embeddings, requests = data.embeddings, data.requests.to_pylist()
        arrays = embedding_arrays(embeddings)
        pooled, negative = (embeddings[c].to_pylist() for c in ("pooled", "negative_pooled"))
        given, failed = given_of(requests, data.conditioned)
        failed |= _failed_before(embeddings)

        def render(batch: Batch, requests: Sequence[Request]) -> list[RowResult]:
            return self._render(batch, requests, arrays, pooled, negative, given)

        kinds, shard = [c.kind for c in given], data.ticket.shard
        attempt = take_in_hand(self._ledger, "decoder", shard)

        def render_all() -> list[RowResult]:
            fix_numerics(self._settings.threads)  # of this thread
            blame, sizes = blaming("decoder", shard, self._try_batch), self.batch_sizes
            return render_shard(
                requests, "decoder", shard, attempt, sizes, self._ledger, render, failed, kinds, blame
            )

        results = self._on_device(render_all)
        pictures = self._table(requests, results, attempt.number)
        seconds = sum(r.seconds for row, r in enumerate(results) if row not in failed)
        return replace(
            data,
            conditioned=None,
            embeddings=embeddings.drop(_ARRAYS),
            pictures=pictures,
            seconds_ba=seconds,
        )

    def _try_batch(self, batch: Batch) -> None:
        request = {"seed": 0, "decoder_guidance_scale": GUIDED if batch.guided else UNGUIDED}
        cells = (embedding_side(batch.height), embedding_side(batch.width))
        noise = np.random.default_rng(0).standard_normal((EMBEDDING_CHANNELS, *cells), np.float32)
        pooled = [0.0] * self._decoder.pooled_channels
        self._render(batch, [request], [noise], [pooled], [pooled], [NO_CONDITIONS])

    def _render(
        self,
        batch: Batch,
        requests: Sequence[Request],
        arrays: list,
        pooled: list,
        negative: list,
        given: Sequence[RowConditions],
    ) -> list[RowResult]:
        rows = [requests[row] for row in batch.rows]
        try:
            out = self._decoder.render(
                DecoderBatch(
                    embeddings=np.stack([arrays[row] for row in batch.rows]),
                    pooled=np.array([pooled[row] for row in batch.rows], np.float32),
                    negative_pooled=np.array([negative[row] for row in batch.rows], np.float32),
                    seeds=[r["seed"] for r in rows],
                    height=batch.height,
                    width=batch.width,
                    steps=batch.steps,
                    guidance=[r["decoder_guidance_scale"] for r in rows],
                    sampling=self._sampling.ba,
                    stage_a_scale=self._sampling.stage_a_scale,
                    stage_a_tile=self._sampling.stage_a_tile,
                    **batch_fields([given[row] for row in batch.rows]),
                )
            )
        except SpecError as error:  # conditions that do not fit the model, alike in all rows of one kind
            return [RowResult(error_code="bad_condition", error_message=str(error))] * batch.real
        except Exception as error:  # noqa: BLE001
            raise refusal(error) from None
        return [_judged(out.pixels[i], out.has_nan[i], out.has_infinite[i]) for i in range(batch.real)]

    def _table(self, requests: Sequence[Request], results: list[RowResult], attempts: int) -> pa.Table:
        rows = len(results)
        return pa.table(
            {
                "image_id": [r["image_id"] for r in requests],
                "pixels": [r.value.tobytes() if r.value is not None else None for r in results],
                "status": [r.status for r in results],
                "error_code": [r.error_code for r in results],
                "error_message": [r.error_message for r in results],
                "attempts": [attempts] * rows,
                "seconds": [r.seconds for r in results],
                "device": [self._device_kind] * rows,
                "worker": [worker_name()] * rows,
                "batch": [r.batch for r in results],
                "threads": [self._settings.threads] * rows,
                "dtype": [self._settings.dtype] * rows,
            },
            schema=PICTURES,
        )


def _failed_before(embeddings: pa.Table) -> dict[int, RowResult]:
    columns = (embeddings[c].to_pylist() for c in ("status", "error_code", "error_message"))
    return {
        row: RowResult(error_code=code, error_message=message)
        for row, (status, code, message) in enumerate(zip(*columns, strict=True))
        if status == "failed"
    }


def _judged(pixels: np.ndarray, has_nan: bool, has_infinite: bool) -> RowResult:
    if has_nan:
        return RowResult(error_code="nan_output", error_message="Stage B or A produced NaN")
    if has_infinite:
        return RowResult(
            error_code="infinite_output", error_message="Stage B or A produced an infinite value"
        )
    if is_single_colour(pixels):
        colour = tuple(int(v) for v in pixels[0, 0])
        return RowResult(error_code="single_colour", error_message=f"every pixel is {colour}")
    return RowResult(pixels)
