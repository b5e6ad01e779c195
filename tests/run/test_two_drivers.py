"""Two drivers at once: safe on stores with create-only writes, one at a time on others."""

import json
import time
from pathlib import Path

import pytest

from cascade_batch.pipeline.runners import local
from cascade_batch.run import paths
from cascade_batch.storage import Storage
from cascade_batch.workers import committing
from cascade_batch.workers.context import RunRef
from cascade_batch.workers.shards import ShardData
from tests.run.kills import FAST, Driver
from tests.run.remembered import remember
from tests.run.runs import contents, differences, manifest_of, render, write_prompts


@pytest.fixture(params=["disk", "seaweed"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "disk" else request.getfixturevalue("seaweed_root")


@pytest.mark.timeout(1200)
def test_two_drivers_lose_and_double_nothing(root: str, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 12)
    drivers = [Driver.start(prompts, root, tmp_path / f"{n}.log", *FAST) for n in range(2)]
    assert [driver.wait() for driver in drivers] == [0, 0], [driver.log.read_text() for driver in drivers]
    assert render(prompts, str(tmp_path / "alone"), *FAST) == 0
    assert differences(contents(root), contents(str(tmp_path / "alone"))) == []
    workers = {
        name: set(manifest_of(root)[name].to_pylist()) for name in ("stage_c_worker", "stage_ba_worker")
    }
    assert all(1 <= len(names) <= 2 for names in workers.values())


def test_every_shard_overtaken_by_another_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower driver meets a finished shard at each of its commits, in the order that loses every race."""
    remember(monkeypatch)
    prompts, out = write_prompts(tmp_path, 4), str(tmp_path / "run")
    commit, inside = committing.commit_embeddings, []

    def overtaken(data: ShardData, ref: RunRef) -> ShardData:
        if not inside:
            inside.append(True)
            assert render(prompts, out, *FAST) == 0
        return commit(data, ref)

    monkeypatch.setattr(local, "commit_embeddings", overtaken)
    assert render(prompts, out, *FAST) == 0
    assert render(prompts, str(tmp_path / "alone"), *FAST) == 0
    assert differences(contents(out), contents(str(tmp_path / "alone"))) == []


def test_another_drivers_other_pixels_stay_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead driver's pictures that differ (another device) are kept beside; the manifest names its own."""
    remember(monkeypatch)
    prompts, out = write_prompts(tmp_path, 2), str(tmp_path / "run")
    assert render(prompts, str(tmp_path / "alone"), *FAST) == 0
    uri = manifest_of(str(tmp_path / "alone"))["image_uri"][0].as_py()
    Storage(out).create(uri, b"another device's picture")
    assert render(prompts, out, *FAST) == 0
    named = manifest_of(out).to_pylist()[0]
    assert named["image_uri"] == uri.replace(".png", f".{named['image_sha256'][:8]}.png")
    assert Storage(out).read(uri) == b"another device's picture"


@pytest.fixture
def lenient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A prompt table, and a fresh root on a store without create-only writes."""
    remember(monkeypatch)
    out = f"memory://two-drivers/{tmp_path.name}"
    return write_prompts(tmp_path, 4), out


def beat_of_another(out: str, silent_s: float, stopped: bool = False) -> None:
    record = {"token": "another", "host": "elsewhere", "time": time.time() - silent_s, "stopped": stopped}
    Storage(out).put(paths.DRIVER, json.dumps(record).encode())


def test_a_store_without_create_only_writes_takes_one_driver(
    lenient: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = lenient
    beat_of_another(out, silent_s=5)
    assert render(prompts, out, *FAST) == 1
    assert "--take-over" in capsys.readouterr().err
    assert Storage(out).list(paths.EMBEDDINGS) == Storage(out).list(paths.MANIFEST) == []
    assert json.loads(Storage(out).read(paths.DRIVER))["token"] == "another"
    assert render(prompts, out, *FAST, "--take-over") == 0
    assert manifest_of(out)["status"].to_pylist() == ["ok"] * 4


@pytest.mark.parametrize(("silent_s", "stopped"), [(31, False), (1, True)])
def test_a_silent_or_stopped_driver_never_blocks(
    lenient: tuple[Path, str], silent_s: float, stopped: bool
) -> None:
    prompts, out = lenient
    beat_of_another(out, silent_s, stopped)
    assert render(prompts, out, *FAST) == 0


def test_a_live_driver_is_only_warned_of_where_two_are_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remember(monkeypatch)
    prompts, out = write_prompts(tmp_path, 2), str(tmp_path / "run")
    beat_of_another(out, silent_s=5)
    assert render(prompts, out, *FAST) == 0
    assert "another driver on elsewhere was alive" in capsys.readouterr().err
