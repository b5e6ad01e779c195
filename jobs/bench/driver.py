"""Driver memory per shard: the real graph of operators with steps that pass shards through.

Run:  python -m jobs.bench.driver --shards 4000

A run of a million images is about 16,000 shards, all of which one driver holds in its books. The
pools do nothing here, because what they render never reaches the driver. Prints the growth of the
driver's resident memory per shard between a first execution, which warms everything up, and the end.
"""

import argparse
import time
from typing import Any

from cascade_batch.pipeline.runners.ray_environment import prepare_own_cluster

prepare_own_cluster()

import psutil  # noqa: E402
import pyarrow as pa  # noqa: E402

from cascade_batch.model.sampling import Sampling  # noqa: E402
from cascade_batch.pipeline.runners import ray_data  # noqa: E402
from cascade_batch.plan.pools import (  # noqa: E402
    Pool,
    Pools,
    WorkerSettings,
)
from cascade_batch.run.schemas import embedding_schema  # noqa: E402
from cascade_batch.settings import ModelSpec  # noqa: E402
from cascade_batch.weights import Model  # noqa: E402
from cascade_batch.workers.context import RunRef  # noqa: E402
from cascade_batch.workers.setup import Setup  # noqa: E402
from cascade_batch.workers.shards import ShardData, Ticket  # noqa: E402

LIMIT_KB = 10


class Through:
    """A pool actor that renders nothing."""

    def __init__(self, **_: Any) -> None:
        pass

    def __call__(self, row: pa.Table) -> pa.Table:
        return row


def through(data: ShardData, ref: RunRef) -> ShardData:  # noqa: ARG001
    """A step that does nothing."""
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description="Driver memory per shard.")
    parser.add_argument("--shards", type=int, default=4000)
    shards = parser.parse_args().shards
    for name in ("read_shard", "read_committed", "commit_embeddings", "commit_images"):
        setattr(ray_data, name, through)
    ray_data.PoolC = ray_data.PoolBA = Through
    runner, setup = ray_data.RayRunner(), _setup()
    _run(runner, setup, 1000)
    before, started = _resident_kb(), time.perf_counter()
    peak = _run(runner, setup, shards)
    per_shard = (peak - before) / shards
    print(
        f"{shards} shards in {time.perf_counter() - started:.0f} s; driver {before / 1024:.0f} MB before, "
        f"{peak / 1024:.0f} MB at its peak: {per_shard:.1f} KB per shard (limit {LIMIT_KB})"
    )
    runner.close()
    raise SystemExit(per_shard > LIMIT_KB)


def _setup() -> Setup:
    pool = Pool(1, 0.0, 0.5, WorkerSettings(4, 1, "auto"))
    ref = RunRef("/nowhere", True, "{}")
    return Setup(
        ref=ref,
        model=Model(ModelSpec(), {}),
        sampling=Sampling(),
        weights={},
        pools=Pools(pool, pool, 0.25),
        embeddings_schema=embedding_schema((24, 24)),
        attempts=3,
    )


def _run(runner: ray_data.RayRunner, setup: Setup, shards: int) -> float:
    """Peak resident KB of this process while `shards` go through."""
    peak = _resident_kb()
    tickets = [Ticket(shard, 0, 64 * shard, 64, 0, 64) for shard in range(shards)]
    for done, _ in enumerate(runner.run(tickets, setup)):
        if done % 100 == 0:
            peak = max(peak, _resident_kb())
    return max(peak, _resident_kb())


def _resident_kb() -> float:
    return psutil.Process().memory_info().rss / 1024


if __name__ == "__main__":
    main()
