"""Times that can be compared: runs take turns, A B A B, so that a machine that slows down slows both."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Run = Callable[[], object]


@dataclass(frozen=True)
class Timed:
    """Seconds of one run, over all of its turns."""

    median: float
    least: float
    most: float


def alternating(runs: Mapping[str, Run], turns: int) -> dict[str, Timed]:
    """Time each run `turns` times in turn, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            taken = _seconds(run)
            if turn:
                seconds[name].append(taken)
    return {name: Timed(statistics.median(s), min(s), max(s)) for name, s in seconds.items()}


def _seconds(run: Run) -> float:
    _finish()
    start = time.perf_counter()
    run()
    _finish()
    return time.perf_counter() - start


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def product_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product on this machine, the best of several: the limit that figures are held to."""
    size = 8192 if device != "cpu" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = min(_seconds(lambda: a @ b) for _ in range(8))
    return 2 * size**3 / best
