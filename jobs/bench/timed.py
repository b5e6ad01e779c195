"""When each pool had a shard in hand: actors that write down the times of their calls, beside the run."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from cascade_batch.pipeline.runners import ray_data


@dataclass(frozen=True)
class PoolTimes:
    """Of all actors of one pool, in `time.time()` seconds."""

    first: float
    """The first shard was taken in hand."""
    last: float
    """The last one was handed on."""
    busy: float
    """Seconds with a shard in hand, of all actors together."""
    longest_gap: float
    actors: int


def time_pools(folder: Path) -> None:
    """Let the Ray runner of this process start actors that keep time in `folder`, on this machine."""
    ray_data.PoolC = _timed(ray_data.PoolC, str(folder / "C"))
    ray_data.PoolBA = _timed(ray_data.PoolBA, str(folder / "BA"))


def _timed(pool: Any, path: str) -> Any:
    class Timed(pool):
        def __init__(self, **named: Any) -> None:
            super().__init__(**named)
            worker: Any = self._worker
            on_device = worker._on_device

            def in_time(work: Callable[[], Any]) -> Any:
                begin = time.time()
                done = work()
                with open(f"{path}-{os.getpid()}", "a") as file:
                    file.write(json.dumps([begin, time.time()]) + "\n")
                return done

            worker._on_device = lambda work: on_device(partial(in_time, work))

    Timed.__name__ = Timed.__qualname__ = f"Timed{Path(path).name}"
    return Timed


def pool_times(folder: Path, name: str) -> PoolTimes:
    actors = [
        [json.loads(line) for line in path.read_text().splitlines()] for path in folder.glob(f"{name}-*")
    ]
    calls = [call for actor in actors for call in actor]
    gaps = [b[0] - a[1] for actor in actors for a, b in pairwise(actor)]
    return PoolTimes(
        min(begin for begin, _ in calls),
        max(end for _, end in calls),
        sum(end - begin for begin, end in calls),
        max(gaps, default=0.0),
        len(actors),
    )
