"""Making the workers of both pools, alike for every runner and for calibration. Only making one imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade_batch.model.parts import STAGE_BA_PARTS, STAGE_C_PARTS
from cascade_batch.model.stages import BA, C, Stage
from cascade_batch.weights.local import load_loras, load_parts
from cascade_batch.workers.ledger import Ledger
from cascade_batch.workers.rendering import OnDevice, here
from cascade_batch.workers.setup import WorkerSetup
from cascade_batch.workers.shards import ShardData

if TYPE_CHECKING:
    from cascade_batch.workers.device_worker import DeviceWorker


def make_worker(stage: Stage, setup: WorkerSetup, ledger: Ledger, on_device: OnDevice = here) -> DeviceWorker:
    """Raises WeightsError if a part is not the one that the run began with."""
    return _stage_c(setup, ledger, on_device) if stage == C else _stage_ba(setup, ledger, on_device)


class LateWorker:
    """A worker that is made when the first shard needs it."""

    def __init__(self, stage: Stage, setup: WorkerSetup, ledger: Ledger) -> None:
        self._stage, self._setup, self._ledger = stage, setup, ledger
        self._worker: DeviceWorker | None = None

    def render(self, data: ShardData) -> ShardData:
        """As `DeviceWorker.render`."""
        if data.requests is None:  # nothing to render: its embeddings stand already
            return data
        if self._worker is None:
            self._worker = make_worker(self._stage, self._setup, self._ledger)
        return self._worker.render(data)


def _stage_c(setup: WorkerSetup, ledger: Ledger, on_device: OnDevice) -> DeviceWorker:
    from cascade_batch.workers.stage_c import StageCWorker

    return StageCWorker(
        load_parts(setup.model, (*STAGE_C_PARTS, *setup.model.optional), setup.weights),
        setup.pools.c.settings,
        ledger,
        sampling=setup.sampling.c,
        schema=setup.embeddings_schema,
        loras=load_loras(setup.model, setup.weights),
        text=setup.text,
        probe=setup.probe(C),
        on_device=on_device,
    )


def _stage_ba(setup: WorkerSetup, ledger: Ledger, on_device: OnDevice) -> DeviceWorker:
    from cascade_batch.workers.stage_ba import StageBAWorker

    return StageBAWorker(
        load_parts(setup.model, STAGE_BA_PARTS, setup.weights),
        setup.pools.ba.settings,
        ledger,
        sampling=setup.sampling,
        probe=setup.probe(BA),
        on_device=on_device,
    )
