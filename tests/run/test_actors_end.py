"""However an execution ends, none of our actors stays in the cluster of a process that lives on."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray._private import state

from cascade_batch.errors import WeightsError
from cascade_batch.pipeline import sitting
from cascade_batch.pipeline.runners import ray_data
from cascade_batch.pipeline.runners.ray_data import PoolBA, PoolC, RayLedger
from cascade_batch.workers.setup import Setup
from tests.run.runs import render, write_prompts

CPU_POOLS = ("--c-gpus=0", "--ba-gpus=0")
GONE_S = 30
RAYS_OWN = {"ActorLocationTracker", "_AutoscalingCoordinatorActor", "_StatsActor"}
"""They serve every execution of a process."""
LONG_S = 120
"""What would keep an actor that is merely let go of: far beyond what a run may leave it."""


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, logging_level="error",
        object_store_memory=300 << 20,
    )  # fmt: skip
    yield
    ray.shutdown()


def alive() -> list[str]:
    return [actor["ActorClassName"] for actor in state.actors().values() if actor["State"] != "DEAD"]


def check_all_gone() -> None:
    deadline = time.monotonic() + GONE_S
    while left := [name for name in alive() if name not in RAYS_OWN]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


class BrokenPoolBA(PoolBA):
    """Does not load."""

    def __init__(self, setup: Setup, ledger: RayLedger) -> None:
        raise WeightsError("the weights do not load", where="stage_b")


class SlowToLoadPoolC(PoolC):
    """Loads long after everything has ended."""

    def __init__(self, setup: Setup, ledger: RayLedger) -> None:
        time.sleep(LONG_S)


class EndlessPoolC(PoolC):
    """Renders, from the second shard on, long after everything has ended."""

    def __call__(self, row: pa.Table) -> pa.Table:
        self._seen = getattr(self, "_seen", 0) + 1
        if self._seen > 1:
            time.sleep(LONG_S)
        return super().__call__(row)


class FailingPoolBA(PoolBA):
    """Meets a fault of its own code."""

    def __call__(self, row: pa.Table) -> pa.Table:
        raise LookupError("no such thing")


def finished(tmp_path: Path, _patch: pytest.MonkeyPatch) -> int:
    return render(write_prompts(tmp_path, 4), str(tmp_path / "run"), *CPU_POOLS, runner="ray")


def broken_at_load(tmp_path: Path, patch: pytest.MonkeyPatch) -> int:
    patch.setattr(ray_data, "PoolC", SlowToLoadPoolC)
    patch.setattr(ray_data, "PoolBA", BrokenPoolBA)
    return render(write_prompts(tmp_path, 4), str(tmp_path / "run"), *CPU_POOLS, runner="ray")


def broken_later(tmp_path: Path, patch: pytest.MonkeyPatch) -> int:
    patch.setattr(ray_data, "PoolC", EndlessPoolC)
    patch.setattr(ray_data, "PoolBA", FailingPoolBA)
    return render(write_prompts(tmp_path, 6), str(tmp_path / "run"), *CPU_POOLS, runner="ray")


def broken_storage(tmp_path: Path, patch: pytest.MonkeyPatch) -> int:
    patch.setattr(ray_data, "PoolC", EndlessPoolC)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "images").write_text("a file where a folder should be")
    return render(write_prompts(tmp_path, 6), str(tmp_path / "run"), *CPU_POOLS, runner="ray")


def too_many_failed(tmp_path: Path, patch: pytest.MonkeyPatch) -> int:
    patch.setattr(ray_data, "PoolC", EndlessPoolC)
    prompts = write_prompts(tmp_path, 6, prompt_embeds=[[[1.0]]] * 6, prompt_embeds_pooled=[[1.0]] * 6)
    return render(prompts, str(tmp_path / "run"), *CPU_POOLS, "--max-failed-rows=0", runner="ray")


def interrupted(tmp_path: Path, patch: pytest.MonkeyPatch) -> int:
    patch.setattr(ray_data, "PoolC", EndlessPoolC)
    add = sitting.Progress.add

    def add_and_interrupt(progress: Any, data: Any) -> None:
        add(progress, data)
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()

    patch.setattr(sitting.Progress, "add", add_and_interrupt)
    return render(write_prompts(tmp_path, 6), str(tmp_path / "run"), *CPU_POOLS, runner="ray")


def driver_at_fault(tmp_path: Path, patch: pytest.MonkeyPatch) -> int:
    patch.setattr(ray_data, "PoolC", EndlessPoolC)

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("a fault of the driver's own")

    patch.setattr(sitting.Progress, "add", fail)
    with pytest.raises(ZeroDivisionError) as kept:
        render(write_prompts(tmp_path, 6), str(tmp_path / "run"), *CPU_POOLS, runner="ray")
    check_all_gone()  # while the traceback, and every frame in it, is still held
    assert kept.tb is not None
    return -1


def graph_at_fault(tmp_path: Path, patch: pytest.MonkeyPatch) -> int:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("a fault while the graph is made")

    patch.setattr(ray_data, "_step_cpus", fail)
    with pytest.raises(ZeroDivisionError):
        render(write_prompts(tmp_path, 2), str(tmp_path / "run"), *CPU_POOLS, runner="ray")
    return -1


WAYS = [
    (finished, 0),
    (broken_at_load, 1),
    (broken_later, 1),
    (broken_storage, 1),
    (too_many_failed, 3),
    (interrupted, 130),
    (driver_at_fault, -1),
    (graph_at_fault, -1),
]


@pytest.mark.parametrize(("way", "code"), WAYS, ids=[way.__name__ for way, _ in WAYS])
def test_no_actor_outlives_its_execution(
    way: Callable[[Path, pytest.MonkeyPatch], int],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert way(tmp_path, monkeypatch) == code
    check_all_gone()
