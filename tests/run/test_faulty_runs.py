"""Whole runs behind a network that fails 30 % of all requests: one sitting does, and all bytes are right."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from cascade_batch.run import paths
from cascade_batch.storage import Storage, failures, remote
from tests.run.runs import contents, differences, manifest_of, render, write_prompts
from tests.servers import S3Server
from tests.storage.proxy import Proxy, at_random

RATE = 0.3
FAST = ("--set=pools.c.batch=2", "--set=pools.ba.batch=2", "--set=output.png_level=1")


def shorten_waits() -> None:
    """In each process of a test: a stall costs one second."""
    failures.FIRST_WAIT = 0.02
    remote.READ_SECONDS = 1


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(remote, "READ_SECONDS", 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The run without a network."""
    folder = tmp_path_factory.mktemp("whole")
    assert render(write_prompts(folder, 6), str(folder / "run"), *FAST) == 0
    return contents(str(folder / "run"))


@pytest.fixture
def prompts(moto_root: str, tmp_path: Path) -> str:
    """On the store too, so that reading them fails as well."""
    table = write_prompts(tmp_path, 6)
    Storage(moto_root).put(f"prompts/{table.name}", table.read_bytes())
    return f"{moto_root}/prompts/{table.name}"


@pytest.fixture
def proxy(moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    proxy = Proxy(moto_s3.port, at_random(RATE, seed=11))
    yield proxy
    proxy.close()


@pytest.fixture
def cluster(moto_root: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray whose workers see the store behind the proxy only."""
    with monkeypatch.context() as behind:
        behind.setenv("AWS_ENDPOINT_URL", proxy.url)
        behind.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # where the hook is found
        ray.init(
            address="local", num_cpus=4, include_dashboard=False, logging_level="error",
            object_store_memory=300 << 20, runtime_env={"worker_process_setup_hook": shorten_waits},
        )  # fmt: skip
    yield
    ray.shutdown()


def check(
    prompts: str,
    runner: str,
    proxy: Proxy,
    whole: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = prompts.rpartition("/prompts/")[0]
    failures.take_retries()
    capsys.readouterr()
    with monkeypatch.context() as behind:
        behind.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert render(prompts, f"{root}/behind", *FAST, runner=runner) == 0, capsys.readouterr()
    assert differences(contents(f"{root}/behind"), whole) == []
    outcome = json.loads(Storage(f"{root}/behind").read(paths.OUTCOME))
    told = capsys.readouterr()
    failed, sent = proxy.done.total(), len(proxy.requests)
    assert 0.2 < failed / sent < 0.4
    assert len(proxy.done) > 12
    # aiohttp tells not of every one, and those of processes that no shard passed later are not told either
    assert failed / 4 < outcome["retries"] <= failed
    assert f"storage: {outcome['retries']:,} requests failed for the moment and were sent again" in told.out


def test_one_local_sitting_does(
    prompts: str,
    proxy: Proxy,
    whole: dict[str, object],
    short_waits: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check(prompts, "local", proxy, whole, monkeypatch, capsys)


def test_one_sitting_of_two_pools_does(
    cluster: None,
    prompts: str,
    proxy: Proxy,
    whole: dict[str, object],
    short_waits: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check(prompts, "ray", proxy, whole, monkeypatch, capsys)
    workers = {line for line in proxy.requests if "manifest/shard" in line and line.startswith("PUT")}
    assert workers, "they too went through the proxy"


def test_a_store_that_breaks_down_in_the_middle_keeps_what_is_committed(
    prompts: str, moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It answers until the first shard is done, then never again; the next sitting ends the run."""
    monkeypatch.setattr(failures, "FIRST_WAIT", 0.001)
    out = f"{prompts.rpartition('/prompts/')[0]}/run"
    broken: list[bool] = []

    def next_fault() -> str | None:
        broken.extend([True] if any("PUT" in r and "manifest/shard" in r for r in proxy.requests) else [])
        return "503" if broken else None

    proxy = Proxy(moto_s3.port, next_fault)
    with monkeypatch.context() as behind:
        behind.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert render(prompts, out, *FAST) == 1
    told = capsys.readouterr().out
    assert "incomplete: 2 of 6 images done" in told
    assert "kept failing (18 tries)" in told
    proxy.close()
    assert render(prompts, out, *FAST) == 0
    assert manifest_of(out).num_rows == 6
