"""Stages that only wait, in the place of Stage C and of Stage B + A: what is left of a run is the pipeline itself.

Everything around them is the real thing: reading, both pools' workers, commits, manifests. Their embeddings and
pixels are valid and cheap, and made inside the wait, as a GPU's are.
"""

import time
from typing import Any

import numpy as np

from cascade_batch.engine.batches import DecodedImages, DecoderBatch, PriorBatch, PriorImages
from cascade_batch.model.geometry import embedding_side
from cascade_batch.pipeline.runners import ray_data
from cascade_batch.pipeline.runners.ray_data import PoolBA, PoolC, RayLedger
from cascade_batch.run.schemas import EMBEDDING_CHANNELS
from cascade_batch.workers.setup import Setup

POOLED = 8
"""Channels of the text states; nothing here reads them."""


class WaitingPrior:
    """Stage C that takes `seconds` per image."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def windows(self, _prompt: str, _negative_prompt: str) -> int:
        return 1

    def render(self, batch: PriorBatch) -> PriorImages:
        end = time.perf_counter() + self._seconds * len(batch.seeds)
        size = (EMBEDDING_CHANNELS, embedding_side(batch.height), embedding_side(batch.width))
        count, pooled = len(batch.seeds), np.zeros((len(batch.seeds), POOLED), np.float32)
        embeddings = np.stack([np.full(size, seed % 1000, np.float32) for seed in batch.seeds])
        _wait_until(end)
        return PriorImages(embeddings, pooled, pooled, [8] * count, [False] * count)


class WaitingDecoder:
    """Stage B and A that take `seconds` per image and draw a ramp of grey, shifted by the seed."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def render(self, batch: DecoderBatch) -> DecodedImages:
        end = time.perf_counter() + self._seconds * len(batch.seeds)
        ramp = np.linspace(0, 200, batch.width).astype(np.uint8)[None, :, None]
        shape = (batch.height, batch.width, 3)
        pixels = np.stack([np.broadcast_to(ramp + np.uint8(seed % 50), shape) for seed in batch.seeds])
        _wait_until(end)
        return DecodedImages(pixels, [False] * len(batch.seeds), [False] * len(batch.seeds))


def _wait_until(end: float) -> None:
    time.sleep(max(0.0, end - time.perf_counter()))


def replace_pools(seconds_c: float, seconds_ba: float) -> None:
    """Let the Ray runner of this process start waiting actors. They load the model first, for an honest start."""

    class WaitingC(PoolC):
        def __init__(self, setup: Setup, ledger: RayLedger) -> None:
            super().__init__(setup, ledger)
            worker: Any = self._worker
            worker._prior = WaitingPrior(seconds_c)

    class WaitingBA(PoolBA):
        def __init__(self, setup: Setup, ledger: RayLedger) -> None:
            super().__init__(setup, ledger)
            worker: Any = self._worker
            worker._decoder = WaitingDecoder(seconds_ba)

    ray_data.PoolC, ray_data.PoolBA = WaitingC, WaitingBA
