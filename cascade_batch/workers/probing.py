"""Measuring batches: the worker that finds no batch sizes of its device kind renders some, and fixes what is fastest.

    numerics/<device kind>/<c or ba>.json    {"1024x1024": {"batch": 8, "seconds": {"1": ..., "2": ...}, ...}, ...}

One object per device kind and pool, complete when visible and create-only: whoever is first wins, and every other
worker and every later sitting reads what stands there. What the spec fixes stands in `numerics/<device kind>.json`.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from cascade_batch.engine.devices import limited_memory
from cascade_batch.plan.pools import WorkerSettings
from cascade_batch.run import paths
from cascade_batch.run.loads import BATCHES, SizeLoad
from cascade_batch.run.records import create_json, read_json
from cascade_batch.settings import AUTO_BATCH, DEFAULT_BATCH
from cascade_batch.storage import Storage
from cascade_batch.workers.batch_sizes import BatchSizes, Probe, choose
from cascade_batch.workers.batching import Batch
from cascade_batch.workers.rendering import DeviceOutOfMemory

STEPS = 4
"""Denoising steps of a measured batch: what is done once per batch weighs little beside them."""
LITTLE, LITTLES = 0.03, 2
"""Measuring ends once so many sizes in a row brought less than this share."""
MEMORY = 0.8
"""Share of a worker's free memory that measured batches may take: longer texts and pictures to follow need some too."""
SHORT_S = 1.0
"""A batch that took less is measured twice, and the faster one counts."""

TryBatch = Callable[[Batch], None]
"""Renders a batch for its time only. Raises DeviceOutOfMemory."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """Seconds per place of a batch, by batch size, and the size that found no memory."""

    seconds: dict[int, float]
    out_of_memory: int | None = None


def settled_once(
    settings: WorkerSettings, device_kind: str, probe: Probe | None, try_batch: TryBatch
) -> Callable[[], BatchSizes]:
    """A worker's batch sizes, settled when they are first asked for: then it may measure. Raises StorageError."""
    return cache(lambda: settled_sizes(settings.batch, device_kind, settings.share, probe, try_batch))


def settled_sizes(
    batch: int | str, device_kind: str, share: float, probe: Probe | None, try_batch: TryBatch
) -> BatchSizes:
    """The batch sizes of a pool on this kind of device, measured and fixed now if nobody has.

    Args:
        batch: as in the spec: a number, `auto` or `probe`.
        share: of the device's memory that is this worker's.
        probe: None: nothing is known of the pictures, so nothing is measured.

    Raises:
        StorageError: the store failed.
    """
    if isinstance(batch, int):
        return BatchSizes(batch)
    if (batch == AUTO_BATCH and device_kind == "cpu") or probe is None or not probe.loads:
        return BatchSizes(DEFAULT_BATCH)
    if probe.ref is None:
        return _sizes(_measure_all(probe, share, try_batch))
    if (
        not probe.ref.create_only
    ):  # a later worker would replace what an earlier one found: they could not agree
        return BatchSizes(DEFAULT_BATCH)
    storage, key = Storage(probe.ref.uri), paths.batches_key(device_kind, probe.pool)
    return _sizes(read_json(storage, key) or create_json(storage, key, _measure_all(probe, share, try_batch)))


def _sizes(record: Mapping[str, Mapping[str, Any]]) -> BatchSizes:
    measured = {}
    for name, found in record.items():
        width, _, height = name.partition("x")
        measured[int(width), int(height)] = found["batch"]
    return BatchSizes(DEFAULT_BATCH, measured)


def _measure_all(probe: Probe, share: float, try_batch: TryBatch) -> dict[str, dict[str, Any]]:
    record = {}
    with limited_memory(MEMORY * share):
        for load in probe.loads:
            found = measure(load, lambda size, load=load: try_batch(_batch(load, size)))
            batch = choose(load, found.seconds)
            name = f"{load.width}x{load.height}"
            record[name] = {
                "batch": batch,
                "seconds": {str(size): seconds for size, seconds in found.seconds.items()},
                "padding": {str(size): load.padding(size) for size in found.seconds},
                "out_of_memory": found.out_of_memory,
            }
            log.info("pool %s: batch %d for %s", probe.pool, batch, name)
    return record


def _batch(load: SizeLoad, size: int) -> Batch:
    return Batch((0,) * size, size, load.height, load.width, STEPS, load.guided)


def measure(load: SizeLoad, render: Callable[[int], None]) -> Measured:
    """Render batches of 1, 2, 4, ... images until memory is full, nothing is gained, or no shard fills them.

    Args:
        render: one batch of so many images; may raise DeviceOutOfMemory.
    """
    seconds: dict[int, float] = {}
    best, littles = float("inf"), 0
    _timed(render, 1)  # the first kernels of a process are no measure
    for batch in BATCHES:
        if batch > load.largest or littles == LITTLES:
            break
        taken = _timed(render, batch)
        if taken is None:
            return Measured(seconds, batch)
        seconds[batch] = taken / batch
        per_image = seconds[batch] * load.padding(batch)
        littles = littles + 1 if per_image > (1 - LITTLE) * best else 0
        best = min(best, per_image)
    return Measured(seconds)


def _timed(render: Callable[[int], None], batch: int) -> float | None:
    """Seconds of one batch, None if there is no memory for it."""
    best = float("inf")
    for _ in range(2):
        started = time.perf_counter()
        try:
            render(batch)
        except DeviceOutOfMemory:
            return None
        best = min(best, time.perf_counter() - started)
        if best > SHORT_S:
            break
    return best
