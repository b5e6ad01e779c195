"""Pool BA: one shard's committed embeddings in, its pixels out. Needs no text encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from cascade_batch.engine.batches import DecodedImages, DecoderBatch
from cascade_batch.engine.decoder import Decoder
from cascade_batch.model.geometry import embedding_side
from cascade_batch.model.parts import PartFiles
from cascade_batch.model.sampling import Sampling
from cascade_batch.model.stages import BA
from cascade_batch.plan.pools import WorkerSettings
from cascade_batch.run.embeddings import embedding_arrays
from cascade_batch.run.images import is_single_colour
from cascade_batch.run.schemas import COST, EMBEDDING_CHANNELS, HAPPENED, ImageRequest
from cascade_batch.workers.batch_sizes import Probe
from cascade_batch.workers.batching import Batch
from cascade_batch.workers.condition_tables import batch_fields, given_of
from cascade_batch.workers.device_worker import DeviceWorker, Rendered
from cascade_batch.workers.ledger import Ledger
from cascade_batch.workers.rendering import OnDevice, RowResult, here
from cascade_batch.workers.row_conditions import NO_CONDITIONS, RowConditions
from cascade_batch.workers.shards import ShardData
from cascade_batch.workers.trials import trials_of

PIXELS = pa.schema(
    [
        ("image_id", pa.string()),
        ("pixels", pa.large_binary()),
        *HAPPENED,
        ("attempts", pa.int32()),
        *COST,
    ]
)
"""One row per image of a shard; `pixels` are (height, width, 3) uint8, null if failed."""

_ARRAYS = ["embedding", "pooled", "negative_pooled"]


class StageBAWorker(DeviceWorker):
    """Holds Stage B and Stage A."""

    stage = BA

    def __init__(
        self,
        parts: Mapping[str, PartFiles],
        settings: WorkerSettings,
        ledger: Ledger,
        *,
        sampling: Sampling,
        probe: Probe | None = None,
        on_device: OnDevice = here,
    ) -> None:
        super().__init__(settings, ledger, probe, on_device)
        self._sampling = sampling
        self._decoder = Decoder.load(parts, settings.dtype, self._device)

    def render(self, data: ShardData) -> ShardData:
        """The shard with its `pixels`, and its embeddings' arrays dropped."""
        if data.error:
            return data
        assert data.embeddings is not None
        requests, seen = data.images, _Seen.of(data.embeddings)
        given, failed = given_of(requests, data.conditioned)
        failed |= _failed_before(data.embeddings)

        def render(batch: Batch, requests: Sequence[ImageRequest]) -> list[RowResult]:
            rows = [requests[row] for row in batch.rows]
            return self._render(batch, rows, seen.taken(batch.rows), [given[row] for row in batch.rows])

        rendered = self._render_shard(
            data.ticket.shard, requests, failed, render, lambda: [conditions.kind for conditions in given]
        )
        return replace(
            data,
            conditioned=None,
            embeddings=data.embeddings.drop(_ARRAYS),
            pixels=self._table(rendered),
            seconds=replace(data.seconds, ba=rendered.seconds),
        )

    def _try_batch(self, batch: Batch) -> None:
        cells = (embedding_side(batch.height), embedding_side(batch.width))
        noise = np.random.default_rng(0).standard_normal((EMBEDDING_CHANNELS, *cells), np.float32)
        pooled = [0.0] * self._decoder.pooled_channels
        places = len(batch.rows)
        seen = _Seen([noise] * places, [pooled] * places, [pooled] * places)
        self._render(batch, trials_of(batch), seen, [NO_CONDITIONS] * places)

    def _render(
        self,
        batch: Batch,
        rows: Sequence[ImageRequest],
        seen: "_Seen",
        given: Sequence[RowConditions],
    ) -> list[RowResult]:
        """`rows`, what Stage C made of them, and what else is given: of every place of the batch."""

        def render() -> DecodedImages:
            return self._decoder.render(
                DecoderBatch(
                    embeddings=np.stack(seen.arrays),
                    pooled=np.array(seen.pooled, np.float32),
                    negative_pooled=np.array(seen.negative_pooled, np.float32),
                    seeds=[r["seed"] for r in rows],
                    height=batch.height,
                    width=batch.width,
                    steps=batch.steps,
                    guidance=[r["decoder_guidance_scale"] for r in rows],
                    sampling=self._sampling.ba,
                    stage_a_scale=self._sampling.stage_a_scale,
                    stage_a_tile=self._sampling.stage_a_tile,
                    **batch_fields(given),
                )
            )

        return self._tried(batch, render, _judged)

    def _table(self, rendered: Rendered) -> pa.Table:
        pixels = [None if r.value is None else r.value.tobytes() for r in rendered.results]
        columns = {**self._columns(rendered), "pixels": pixels}
        return pa.table({name: columns[name] for name in PIXELS.names}, schema=PIXELS)


@dataclass(frozen=True)
class _Seen:
    """What Stage B sees of images: their embeddings, None for failed ones, and pooled text states."""

    arrays: Sequence[Any]
    pooled: Sequence[Sequence[float]]
    negative_pooled: Sequence[Sequence[float]]

    @classmethod
    def of(cls, embeddings: pa.Table) -> "_Seen":
        """Of a committed embedding shard."""
        pooled, negative_pooled = (embeddings[name].to_pylist() for name in ("pooled", "negative_pooled"))
        return cls(embedding_arrays(embeddings), pooled, negative_pooled)

    def taken(self, rows: Sequence[int]) -> "_Seen":
        """Of these rows, in this order."""

        def of(column: Sequence[Any]) -> list[Any]:
            return [column[row] for row in rows]

        return _Seen(of(self.arrays), of(self.pooled), of(self.negative_pooled))


def _failed_before(embeddings: pa.Table) -> dict[int, RowResult]:
    columns = (embeddings[c].to_pylist() for c in ("status", "error_code", "error_message"))
    return {
        row: RowResult(error_code=code, error_message=message)
        for row, (status, code, message) in enumerate(zip(*columns, strict=True))
        if status == "failed"
    }


def _judged(out: DecodedImages, image: int) -> RowResult:
    pixels = out.pixels[image]
    if out.has_nan[image]:
        return RowResult(error_code="nan_output", error_message="Stage B or A produced NaN")
    if out.has_infinite[image]:
        return RowResult(
            error_code="infinite_output", error_message="Stage B or A produced an infinite value"
        )
    if is_single_colour(pixels):
        colour = tuple(int(v) for v in pixels[0, 0])
        return RowResult(error_code="single_colour", error_message=f"every pixel is {colour}")
    return RowResult(pixels)
