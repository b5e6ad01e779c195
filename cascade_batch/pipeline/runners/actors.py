"""The actors of both pools, as Ray makes them: a model on a device, a shard in and a shard out. No ray here."""

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pyarrow as pa

from cascade_batch.model.stages import BA, C, Stage
from cascade_batch.pipeline.runners.shard_rows import from_row, to_row
from cascade_batch.plan.pools import Pool
from cascade_batch.workers.ledger import Ledger
from cascade_batch.workers.making import make_worker
from cascade_batch.workers.rendering import OnDevice
from cascade_batch.workers.setup import Setup
from cascade_batch.workers.shards import ShardData, guarded

log = logging.getLogger(__name__)


class PoolActor:
    """One actor of a pool."""

    stage: ClassVar[Stage]

    def __init__(self, setup: Setup, ledger: Ledger) -> None:
        _share_cores(setup.pools[self.stage])
        on_device = _own_thread()
        self._worker = on_device(lambda: make_worker(self.stage, setup, ledger, on_device))

    def __call__(self, row: pa.Table) -> pa.Table:
        return _render(self._worker.render, row)


class PoolC(PoolActor):
    stage = C


class PoolBA(PoolActor):
    stage = BA


def _share_cores(pool: Pool) -> None:
    """Have this process's OpenMP threads sleep while they wait for one another; to be called before torch is loaded.

    On a CPU the pools have more threads than there are cores. One that spins then keeps its core from the very thread
    it waits for: with networks as small as `tiny` a run takes five times as long (`jobs/BENCHMARKS.md`).
    """
    if not pool.gpus:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _own_thread() -> OnDevice:
    """A thread of the device's own: it goes from shard to shard, while Ray's make one ready and hand one on.

    It makes the worker too, so that this process has one team of OpenMP threads.
    """
    device = ThreadPoolExecutor(1)
    return lambda work: device.submit(work).result()


def _render(render: Callable[[ShardData], ShardData], row: pa.Table) -> pa.Table:
    """A broken device ends this process, because only a death is restarted by Ray."""
    from cascade_batch.engine.devices import is_device_error

    data = from_row(row)
    try:
        return to_row(guarded(render, data, is_device_error))
    except Exception as error:
        if not is_device_error(error):
            raise
        log.exception("device error in shard %d, ending this worker", data.ticket.shard)
        logging.shutdown()
        os._exit(1)
