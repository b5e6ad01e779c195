"""Measuring what an image takes in each pool on this machine: two batches through each of the real workers."""

from dataclasses import replace

import pyarrow as pa

from cascade_batch.errors import WeightsError
from cascade_batch.model.geometry import embedding_side
from cascade_batch.model.parts import STAGE_BA_PARTS, STAGE_C_PARTS
from cascade_batch.pipeline.rates import Measured
from cascade_batch.pipeline.runners.local import LocalRunner
from cascade_batch.pipeline.sitting import SHARE_C
from cascade_batch.plan.planning import ImageGroup, Plan
from cascade_batch.run.loads import SizeLoad
from cascade_batch.run.schemas import IMAGE_REQUESTS, embedding_schema
from cascade_batch.settings import Spec, sampling_of, text_options_of
from cascade_batch.weights import Model
from cascade_batch.weights.local import load_files, local_loras
from cascade_batch.workers.batch_sizes import Probe
from cascade_batch.workers.ledger import AttemptLedger
from cascade_batch.workers.probing import GUIDED, UNGUIDED
from cascade_batch.workers.shards import ShardData, Ticket
from cascade_batch.workers.stage_ba import StageBAWorker
from cascade_batch.workers.stage_c import PROMPT, StageCWorker


def calibrate(spec: Spec, plan: Plan, model: Model) -> Measured:
    """Render two batches of the plan's most common kind of image from text alone; the second one counts.

    Each pool has one worker, the whole machine to itself, and the batch that it would take in a run.

    Raises:
        WeightsError: a part of the model is missing or damaged, or what it renders is broken.
    """
    group = max(plan.groups, key=lambda kind: plan.groups[kind])
    size = (group.width, group.height)
    of_size = [
        tuple(load for load in loads if (load.width, load.height) == size)
        for loads in (plan.loads_c, plan.loads_ba)
    ]
    embeddings, device_c, seconds_c = _run_c(spec, model, group, of_size[0])
    device_ba, seconds_ba = _run_ba(spec, model, group, of_size[1], embeddings)
    return Measured({group: 1}, (seconds_c, seconds_ba), ((device_c,), (device_ba,)))


def _run_c(
    spec: Spec, model: Model, group: ImageGroup, loads: tuple[SizeLoad, ...]
) -> tuple[pa.Table, str, float]:
    pools = LocalRunner().size_pools(spec.pools, spec.model.dtype, SHARE_C)
    worker = StageCWorker(
        load_files(model, STAGE_C_PARTS),
        pools.c.settings,
        sampling_of(spec.sampler).c,
        embedding_schema((embedding_side(group.height), embedding_side(group.width))),
        AttemptLedger(spec.limits.attempts),
        local_loras(model),
        text_options_of(spec.text),
        Probe(None, "c", loads),
    )
    images = 2 * worker.batch_sizes().of(group.width, group.height)
    data = worker.render(_shard(_requests(group, images)))
    assert data.embeddings is not None
    return data.embeddings, *_last(data.embeddings)


def _run_ba(
    spec: Spec, model: Model, group: ImageGroup, loads: tuple[SizeLoad, ...], embeddings: pa.Table
) -> tuple[str, float]:
    pools = LocalRunner().size_pools(spec.pools, spec.model.dtype, SHARE_C)
    worker = StageBAWorker(
        load_files(model, STAGE_BA_PARTS),
        pools.ba.settings,
        sampling_of(spec.sampler),
        AttemptLedger(spec.limits.attempts),
        Probe(None, "ba", loads),
    )
    images = 2 * worker.batch_sizes().of(group.width, group.height)
    repeated = embeddings.take(pa.array([row % embeddings.num_rows for row in range(images)]))
    data = worker.render(replace(_shard(_requests(group, images)), embeddings=repeated))
    assert data.pictures is not None
    return _last(data.pictures)


def _last(results: pa.Table) -> tuple[str, float]:
    """Device and seconds of the last image."""
    row = results.select(["device", "seconds", "error_message"]).slice(results.num_rows - 1).to_pylist()[0]
    if row["error_message"]:
        raise WeightsError("the model could not render the images to measure", got=row["error_message"])
    return row["device"], row["seconds"]


def _shard(requests: pa.Table) -> ShardData:
    rows = requests.num_rows
    return ShardData(Ticket(0, 0, 0, rows, 0, rows), requests=requests)


def _requests(group: ImageGroup, images: int) -> pa.Table:
    request = {
        "prompt": PROMPT,
        "negative_prompt": "",
        "width": group.width,
        "height": group.height,
        "prior_steps": group.prior_steps,
        "prior_guidance_scale": GUIDED if group.prior_guided else UNGUIDED,
        "decoder_steps": group.decoder_steps,
        "decoder_guidance_scale": GUIDED if group.decoder_guided else UNGUIDED,
    }
    rows = [
        request | {"image_id": str(i), "prompt_id": str(i), "image_index": 0, "row": i, "seed": i}
        for i in range(images)
    ]
    return pa.Table.from_pylist(rows, schema=IMAGE_REQUESTS)
