"""Measuring what an image takes in each pool on this machine: two batches through each of the real workers."""

from dataclasses import replace

import pyarrow as pa

from cascade_batch.errors import WeightsError
from cascade_batch.model.geometry import embedding_side
from cascade_batch.model.stages import BA, C, PerPool
from cascade_batch.pipeline.rates import Measured
from cascade_batch.pipeline.runners.local import LocalRunner
from cascade_batch.pipeline.sitting import SHARE_C
from cascade_batch.plan.planning import ImageGroup, Plan
from cascade_batch.run.schemas import IMAGE_REQUESTS, embedding_schema
from cascade_batch.settings import Spec, sampling_of, text_options_of
from cascade_batch.weights import Model
from cascade_batch.workers.device_worker import DeviceWorker
from cascade_batch.workers.ledger import AttemptLedger
from cascade_batch.workers.making import make_worker
from cascade_batch.workers.setup import WorkerSetup
from cascade_batch.workers.shards import ShardData, Ticket
from cascade_batch.workers.trials import trial_request


def calibrate(spec: Spec, plan: Plan, model: Model) -> Measured:
    """Render two batches of the plan's most common kind of image from text alone; the second one counts.

    Each pool has one worker, the whole machine to itself, and the batch that it would take in a run.

    Raises:
        WeightsError: a part of the model is missing or damaged, or what it renders is broken.
    """
    group = max(plan.groups, key=lambda kind: plan.groups[kind])
    setup, ledger = _setup(spec, plan, group, model), AttemptLedger(spec.limits.attempts)
    embeddings = _embeddings(make_worker(C, setup, ledger), group)
    pixels = _pixels(make_worker(BA, setup, ledger), group, embeddings)
    last = PerPool(_last(embeddings), _last(pixels))
    return Measured(
        {group: 1}, last.map(lambda told: told["seconds"]), last.map(lambda told: (told["device"],))
    )


def _setup(spec: Spec, plan: Plan, group: ImageGroup, model: Model) -> WorkerSetup:
    """Of workers that belong to no run."""
    size = (group.width, group.height)
    return WorkerSetup(
        ref=None,
        model=model,
        sampling=sampling_of(spec.sampler),
        pools=LocalRunner().size_pools(spec.pools, spec.model.dtype, SHARE_C),
        embeddings_schema=embedding_schema((embedding_side(group.height), embedding_side(group.width))),
        attempts=spec.limits.attempts,
        text=text_options_of(spec.text),
        loads=plan.loads.map(
            lambda loads: tuple(load for load in loads if (load.width, load.height) == size)
        ),
    )


def _embeddings(worker: DeviceWorker, group: ImageGroup) -> pa.Table:
    data = worker.render(_shard(worker, group))
    assert data.embeddings is not None
    return data.embeddings


def _pixels(worker: DeviceWorker, group: ImageGroup, embeddings: pa.Table) -> pa.Table:
    shard = _shard(worker, group)
    repeated = embeddings.take(pa.array([row % embeddings.num_rows for row in range(shard.ticket.images)]))
    data = worker.render(replace(shard, embeddings=repeated))
    assert data.pixels is not None
    return data.pixels


def _last(results: pa.Table) -> dict:
    """Device and seconds of the last image."""
    row = results.select(["device", "seconds", "error_message"]).slice(results.num_rows - 1).to_pylist()[0]
    if row["error_message"]:
        raise WeightsError("the model could not render the images to measure", got=row["error_message"])
    return row


def _shard(worker: DeviceWorker, group: ImageGroup) -> ShardData:
    """Two batches of images."""
    images = 2 * worker.batch_sizes().of(group.width, group.height)
    steps = PerPool(group.prior_steps, group.decoder_steps)
    guided = PerPool(group.prior_guided, group.decoder_guided)
    requests = [
        trial_request(group.height, group.width, steps=steps, guided=guided, number=number)
        for number in range(images)
    ]
    table = pa.Table.from_pylist(requests, schema=IMAGE_REQUESTS)
    return ShardData(Ticket(0, 0, 0, images, 0, images), requests=table)
