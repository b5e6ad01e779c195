"""The two pools under a real Ray: equal to the local runner, through deaths, with clear refusals."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from cascade_batch.engine.batches import DecodedImages, DecoderBatch, PriorBatch, PriorImages
from cascade_batch.errors import CascadeError, WeightsError
from cascade_batch.pipeline.runners import ray_data
from cascade_batch.pipeline.runners.ray_data import PoolBA, PoolC, RayLedger, RayRunner
from cascade_batch.plan.pools import Node, size_pools
from cascade_batch.settings import DtypeSpec, PoolsSpec
from cascade_batch.workers.setup import Setup
from tests.patience import PATIENCE_S, wait_until
from tests.run.runs import contents, differences, manifest_of, render, write_prompts
from tests.run.test_probing import PROBED, WIDTHS, check_probed_run, rendering_at_most
from tests.run.test_stored_embeddings import FAST, render_partly


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One Ray for all tests of this file; RayRunner joins what is there."""
    ray.init(
        address="local", num_cpus=4, num_gpus=1, include_dashboard=False, logging_level="error",
        object_store_memory=300 << 20,
    )  # fmt: skip
    yield
    ray.shutdown()


CPU_POOLS = ("--c-gpus=0", "--ba-gpus=0")


class DeadlyPoolC(PoolC):
    """Dies on one prompt, as a segmentation fault would."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        prior = self._worker._prior
        rendered = prior.render

        def render_or_die(batch: PriorBatch) -> PriorImages:
            if "deadly" in batch.prompts:
                os.kill(os.getpid(), signal.SIGKILL)
            return rendered(batch)

        prior.render = render_or_die


class SmallPoolC(PoolC):
    """On a device with memory for two images; renders only once the pool has two workers."""

    def __init__(self, setup: Setup, ledger: RayLedger) -> None:
        super().__init__(setup, ledger)
        worker: Any = self._worker
        limit_memory(worker._prior, 2)
        wait_for_another(worker._prior, setup)


class SmallPoolBA(PoolBA):
    """On a device with memory for one image."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        limit_memory(self._worker._decoder, 1)


def limit_memory(networks: Any, most: int) -> None:
    networks.render = partial(rendering_at_most(type(networks).render, most), networks)


def wait_for_another(networks: Any, setup: Setup) -> None:
    """Have them render only once two workers of their pool have been made."""
    workers, rendered = Path(setup.ref.uri).with_name("workers"), networks.render
    workers.mkdir(exist_ok=True)
    (workers / str(os.getpid())).touch()

    def render_among_others(batch: Any) -> Any:
        wait_until(lambda: len(list(workers.iterdir())) >= 2)
        return rendered(batch)

    networks.render = render_among_others


class GrowingPoolBA(PoolBA):
    """Renders only once the pool has grown."""

    def __init__(self, setup: Setup, ledger: RayLedger) -> None:
        super().__init__(setup, ledger)
        worker: Any = self._worker
        wait_for_another(worker._decoder, setup)


class SlowPoolBA(PoolBA):
    """Once its first shard is committed, it waits in the middle of its second one to be killed: once in a run."""

    def __init__(self, setup: Setup, ledger: RayLedger) -> None:
        super().__init__(setup, ledger)
        self._begun = 0
        worker: Any = self._worker
        on_device, rendered = worker._on_device, worker._decoder.render
        run = Path(setup.ref.uri)

        def in_turn(work: Callable[[], Any]) -> Any:
            self._begun += 1
            return work()

        def render_or_wait(batch: DecoderBatch) -> DecodedImages:
            if self._begun == 2 and not _waiting(run).exists():
                wait_until(lambda: list(run.glob("manifest/*.parquet")))
                _waiting(run).write_text(str(os.getpid()))
                time.sleep(PATIENCE_S)
            return rendered(batch)

        worker._on_device = lambda work: on_device(partial(in_turn, work))
        worker._decoder.render = render_or_wait


class LingeringPoolBA(PoolBA):
    """Hands a shard on only once the next one is being rendered, and never renders two at once."""

    def __init__(self, setup: Setup, ledger: RayLedger) -> None:
        super().__init__(setup, ledger)
        self._begun = 0
        worker: Any = self._worker
        on_device, alone = worker._on_device, threading.Lock()

        def in_turn(work: Callable[[], Any]) -> Any:
            assert alone.acquire(blocking=False), "two shards on one device"
            self._begun += 1
            done = work()
            alone.release()
            return done

        worker._on_device = lambda work: on_device(partial(in_turn, work))

    def __call__(self, row: pa.Table) -> pa.Table:
        handed_on = super().__call__(row)
        wait_until(lambda: self._begun >= 2)  # in vain, if the next shard waits for this one
        return handed_on


def _waiting(run: Path) -> Path:
    """Where a worker that waits to be killed writes which process it is."""
    return run.with_name("waiting")


def test_both_runners_give_equal_runs(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 7)
    assert render(prompts, str(tmp_path / "local")) == 0
    assert render(prompts, str(tmp_path / "ray"), *CPU_POOLS, runner="ray") == 0
    assert contents(str(tmp_path / "ray")) == contents(str(tmp_path / "local"))


def test_workers_of_a_pool_agree_on_the_batches_they_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_data, "PoolC", SmallPoolC)
    monkeypatch.setattr(ray_data, "PoolBA", SmallPoolBA)
    prompts, out = write_prompts(tmp_path, 48, width=WIDTHS * 2), tmp_path / "run"
    assert render(prompts, str(out), *PROBED, *CPU_POOLS, "--c-actors=2", runner="ray") == 0
    check_probed_run(out)
    assert len(set(manifest_of(str(out))["stage_c_worker"].to_pylist())) == 2


def test_a_pool_grows_while_shards_wait_and_the_run_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = write_prompts(tmp_path, 16)
    assert render(prompts, str(tmp_path / "fixed")) == 0
    monkeypatch.setattr(ray_data, "PoolBA", GrowingPoolBA)
    growing = ("--ba-actors=1", "--set=pools.ba.max_actors=2")
    assert render(prompts, str(tmp_path / "run"), *CPU_POOLS, *growing, runner="ray") == 0
    assert len(list((tmp_path / "workers").iterdir())) == 2
    assert len(set(manifest_of(str(tmp_path / "run"))["stage_ba_worker"].to_pylist())) == 2
    assert contents(str(tmp_path / "run")) == contents(str(tmp_path / "fixed"))


def test_both_pools_share_one_card(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 3)
    assert render(prompts, str(tmp_path / "run"), runner="ray") == 0
    assert manifest_of(str(tmp_path / "run"))["status"].to_pylist() == ["ok"] * 3


def test_a_killed_actor_costs_a_retry_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_data, "PoolBA", SlowPoolBA)
    prompts, out = write_prompts(tmp_path, 8), str(tmp_path / "run")
    killed: list[int] = []
    killer = threading.Thread(target=_kill_once, args=(killed, Path(out)), daemon=True)
    killer.start()
    assert render(prompts, out, *CPU_POOLS, "--ba-actors=1", runner="ray") == 0
    killer.join(PATIENCE_S)
    assert len(killed) == 1
    manifest = manifest_of(out)
    assert manifest["status"].to_pylist() == ["ok"] * 8
    assert max(manifest["attempts"].to_pylist()) == 2


def test_a_shard_is_handed_on_while_the_next_one_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_data, "PoolBA", LingeringPoolBA)
    prompts, out = write_prompts(tmp_path, 6), str(tmp_path / "run")
    assert render(prompts, out, *CPU_POOLS, runner="ray") == 0
    assert manifest_of(out)["status"].to_pylist() == ["ok"] * 6


def _kill_once(killed: list[int], out: Path) -> None:
    wait_until(lambda: _waiting(out).exists() and _waiting(out).read_text())
    process = int(_waiting(out).read_text())
    os.kill(process, signal.SIGKILL)
    killed.append(process)


def test_a_deadly_prompt_is_failed_and_its_mates_are_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_data, "PoolC", DeadlyPoolC)
    texts = ["a red circle", "deadly", "a blue circle", "a green circle"]
    prompts, out = write_prompts(tmp_path, 4, prompt=texts), str(tmp_path / "run")
    flags = ("--set=limits.attempts=2", "--set=shards.prompts=4", *CPU_POOLS)
    # shards.prompts is given twice; the later one wins
    assert render(prompts, out, *flags, runner="ray") == 0
    rows = manifest_of(out).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "failed", "ok", "ok"]
    assert rows[1]["error_code"] == "worker_died"
    assert rows[1]["image_uri"] is None
    assert rows[0]["attempts"] == 3


@pytest.mark.parametrize(("cpus", "gpus"), [(2, 0), (3, 0), (8, 0), (1, 1), (8, 1)])
def test_every_kind_of_step_has_room_beside_the_pools(cpus: int, gpus: int) -> None:
    pools = size_pools(PoolsSpec(), DtypeSpec(), [Node(cpus, gpus)], 0.72)
    step = ray_data._step_cpus(pools, cpus)
    assert 0 < step <= pools.step_cpus
    assert pools.c.cpus + pools.ba.cpus + ray_data.STEPS * step <= cpus


def test_pools_that_do_not_fit_are_refused_before_anything_hangs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path, 2)
    started = time.monotonic()
    code = render(prompts, str(tmp_path / "run"), "--c-actors=9", "--c-gpus=1", runner="ray")
    assert code == 2
    assert time.monotonic() - started < 30
    assert "pool C 9 x (1 GPU" in capsys.readouterr().err


class NoPoolC(PoolC):
    """Must not be made."""

    def __init__(self, setup: Setup, ledger: RayLedger) -> None:
        raise WeightsError("pool C is made", where="stage_c")


def test_stored_embeddings_are_decoded_without_pool_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, source, out = write_prompts(tmp_path, 7), str(tmp_path / "source"), str(tmp_path / "run")
    other = ("--set=render.decoder_steps=3", "--set=shards.prompts=3")
    assert render(prompts, source) == 0
    assert render(prompts, str(tmp_path / "full"), *other) == 0
    with monkeypatch.context() as patch:
        patch.setattr(ray_data, "PoolC", NoPoolC)
        taken = f"--embeddings-from={source}"
        assert render(prompts, out, *other, *CPU_POOLS, taken, runner="ray") == 0
    said = capsys.readouterr().err
    assert "3 of them take their embeddings from" in said
    assert "pool C: 0 x" in said
    found = differences(contents(out), contents(str(tmp_path / "full")))
    assert found == ["sources.parquet: extra"]


def test_shards_that_are_stored_in_part_pass_both_pools(tmp_path: Path) -> None:
    prompts, source, out = write_prompts(tmp_path, 6), str(tmp_path / "source"), str(tmp_path / "run")
    assert render(prompts, source, *FAST, "--limit=3") == 0
    assert render(prompts, str(tmp_path / "full"), *FAST) == 0
    assert (
        render_partly(prompts, out, source, "--set=pools.c.gpus=0", "--set=pools.ba.gpus=0", runner=RayRunner)
        == 0
    )
    found = differences(contents(out), contents(str(tmp_path / "full")))
    assert found == ["sources.parquet: extra"]


class BrokenPoolBA(PoolBA):
    """Does not load."""

    def __init__(self, setup: Setup, ledger: RayLedger) -> None:
        super().__init__(setup, ledger)
        raise WeightsError("the weights do not load", where="stage_b")


def test_a_pool_that_does_not_load_ends_the_run_with_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_data, "PoolBA", BrokenPoolBA)
    prompts, out = write_prompts(tmp_path, 4), str(tmp_path / "run")
    assert render(prompts, out, *CPU_POOLS, runner="ray") != 0
    assert "the weights do not load" in capsys.readouterr().err


class Holder:
    """Another job of the cluster."""

    def ready(self) -> bool:
        return True


@pytest.fixture
def held_card() -> Iterator[Any]:
    holder: Any = ray.remote(Holder).options(num_gpus=1, num_cpus=0).remote()
    assert ray.get(holder.ready.remote(), timeout=PATIENCE_S)
    wait_until(lambda: not ray.available_resources().get("GPU"))
    yield holder
    ray.kill(holder)


SHARED_CARD = size_pools(PoolsSpec(), DtypeSpec(), [Node(4, 1)], 0.72)


def test_a_run_waits_for_the_card_that_another_job_has_and_says_so(
    held_card: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_data, "PATIENCE_S", 0)
    release = threading.Timer(2.0, ray.kill, (held_card,))
    release.start()
    ray_data._wait_for_room(SHARED_CARD)
    assert ray.available_resources()["GPU"] == 1
    assert [record.getMessage() for record in caplog.records if "waiting" in record.getMessage()] == [
        "waiting for other jobs: 1 GPUs needed, 0 free"
    ]


def test_a_card_that_others_keep_ends_the_run(held_card: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_data, "ROOM_S", 0)
    with pytest.raises(CascadeError, match="other jobs keep the cluster's GPUs"):
        ray_data._wait_for_room(SHARED_CARD)
