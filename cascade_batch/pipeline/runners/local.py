"""One process, no Ray: for debugging, and the reference that the Ray runner must equal."""

import os
from collections.abc import Generator, Iterable, Mapping
from dataclasses import replace
from functools import partial

from cascade_batch.model.stages import PerPool
from cascade_batch.plan.pools import Node, Pool, Pools, size_pools
from cascade_batch.run import paths
from cascade_batch.settings import DtypeSpec, PoolsSpec
from cascade_batch.storage import Storage
from cascade_batch.weights import Model
from cascade_batch.workers.committing import commit_embeddings, commit_images
from cascade_batch.workers.copying import copy_embeddings
from cascade_batch.workers.fit import device_kind_of, weight_digests
from cascade_batch.workers.ledger import AttemptLedger
from cascade_batch.workers.making import LateWorker
from cascade_batch.workers.reading import read_committed, read_shard
from cascade_batch.workers.setup import Setup
from cascade_batch.workers.shards import ShardData, Ticket, guarded


class LocalRunner:
    """Carries one shard after another through every step."""

    def size_pools(self, pools: PoolsSpec, dtype: DtypeSpec, share_c: float) -> Pools:
        """One worker a pool, in turn, so each may use every core, and the GPU if there is one."""
        from cascade_batch.engine.devices import pick_device

        cores, gpus = os.cpu_count() or 1, 0.0 if pick_device() == "cpu" else 1.0
        one = {"actors": 1, "max_actors": None, "gpus": gpus}
        asked = pools.with_each(lambda s: replace(pools[s], threads=pools[s].threads or cores, **one))
        return size_pools(asked, dtype, [Node(cpus=1e6, gpus=2)], share_c)

    def probe_create_only(self, uri: str) -> bool:
        return Storage(uri).probe_create_only(paths.RUN)

    def device_kind(self, pool: Pool) -> str:
        return device_kind_of(pool.settings.device)

    def weight_digests(self, model: Model, known: Mapping[str, str] | None = None) -> dict[str, str]:
        return weight_digests(model, known)

    def run(self, tickets: Iterable[Ticket], setup: Setup) -> Generator[ShardData]:
        """Shards in ticket order. The models are loaded when the first shard needs them."""
        ledger = AttemptLedger(setup.attempts)
        workers = PerPool.of(lambda stage: LateWorker(stage, setup, ledger))
        steps = (
            partial(copy_embeddings, ref=setup.ref),
            partial(read_shard, ref=setup.ref),
            workers.c.render,
            partial(commit_embeddings, ref=setup.ref),
            partial(read_committed, ref=setup.ref),
            workers.ba.render,
            partial(commit_images, ref=setup.ref),
        )
        for ticket in tickets:
            data = ShardData(ticket)
            for step in steps:
                data = guarded(step, data)
            yield data

    def tables(self) -> None:
        """One process it is."""

    def close(self) -> None:
        """Nothing to close."""
