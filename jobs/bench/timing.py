"""Times that can be compared: runs take turns, A B A B, so that a machine that slows down slows both."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from cascade_batch.engine.networks.kernels import linear

Run = Callable[[], object]


@dataclass(frozen=True)
class Timed:
    """Seconds of one run, over all of its turns."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Timed":
        """Of one value per turn."""
        return cls(statistics.median(values), min(values), max(values))


def alternating(runs: Mapping[str, Run], turns: int) -> dict[str, Timed]:
    """Time each run `turns` times in turn, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            taken = _seconds(run)
            if turn:
                seconds[name].append(taken)
    return {name: Timed.of(values) for name, values in seconds.items()}


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
    """FLOP/s of a large matrix product on this machine, torch's or oneDNN's, the best of several.

    It is the limit that figures are held to.
    """
    size = 8192 if device != "cpu" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = min(_seconds(product) for product in (lambda: a @ b, lambda: linear(a, b, None)) for _ in range(6))
    return 2 * size**3 / best


def peak_memory(run: Run, device: str) -> float | None:
    """GB of the accelerator's memory at the height of a run, weights included; None on a CPU."""
    if device == "cpu":
        return None
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / 1e9
