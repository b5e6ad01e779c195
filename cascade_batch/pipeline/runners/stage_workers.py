"""The workers of both pools, made from a sitting's setup, alike for every runner. Only making one imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade_batch.model.parts import STAGE_BA_PARTS, STAGE_C_PARTS
from cascade_batch.pipeline.runners.runner import Setup
from cascade_batch.weights.local import load_loras, load_parts
from cascade_batch.workers.ledger import Ledger
from cascade_batch.workers.rendering import OnDevice, here

if TYPE_CHECKING:
    from cascade_batch.workers.stage_ba import StageBAWorker
    from cascade_batch.workers.stage_c import StageCWorker


def stage_c_worker(setup: Setup, ledger: Ledger, on_device: OnDevice = here) -> StageCWorker:
    """Raises WeightsError if a part is not the one that the run began with."""
    from cascade_batch.workers.stage_c import StageCWorker

    return StageCWorker(
        load_parts(setup.model, (*STAGE_C_PARTS, *setup.model.optional), setup.weights),
        setup.pools.c.settings,
        setup.sampling.c,
        setup.embeddings_schema,
        ledger,
        load_loras(setup.model, setup.weights),
        setup.text,
        setup.probe("c"),
        on_device,
    )


def stage_ba_worker(setup: Setup, ledger: Ledger, on_device: OnDevice = here) -> StageBAWorker:
    """Raises WeightsError if a part is not the one that the run began with."""
    from cascade_batch.workers.stage_ba import StageBAWorker

    return StageBAWorker(
        load_parts(setup.model, STAGE_BA_PARTS, setup.weights),
        setup.pools.ba.settings,
        setup.sampling,
        ledger,
        setup.probe("ba"),
        on_device,
    )
