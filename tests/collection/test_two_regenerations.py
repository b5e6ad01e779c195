"""Two processes that regenerate one collection: one is at work, the other is told so; a dead one is taken over from."""

import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cascade_batch.collection.lease import EXPIRES_PERIODS
from cascade_batch.run.manifest import committed_shards
from cascade_batch.storage import Storage
from tests.collection.conftest import TABLE
from tests.collection.driver import Driver
from tests.collection.regenerations import (
    FAST,
    check,
    hashes,
    history,
    newest,
    regenerate,
    runs_of,
    told,
    write_table,
)
from tests.patience import wait_until
from tests.run.remembered import Asked
from tests.run.runs import manifest_of

BUSY, FAILED = 5, 1
PERIOD_S = 0.5
EXPIRES_S = EXPIRES_PERIODS * PERIOD_S


@pytest.fixture
def prompts(night: str, tmp_path: Path) -> Path:
    """All of the six prompts are changed."""
    texts = [f"a blue circle, number {n}" for n in range(6)]
    return write_table(tmp_path, TABLE | {"prompt": texts})


@pytest.fixture
def undisturbed(first_night: Path, prompts: Path, tmp_path: Path, asked: Asked) -> str:
    into = str(tmp_path / "undisturbed")
    assert regenerate(prompts, into) == 0
    asked.clear()
    return into


@pytest.fixture
def start(night: str, prompts: Path, tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Start a regeneration in a process of its own."""
    started: list[Driver] = []

    def begin(*flags: str, pause: Path | None = None) -> Driver:
        command = ["regenerate", str(prompts), "--into", night, "--runner=local", *FAST, *flags]
        started.append(Driver(command, tmp_path / f"log-{len(started)}", PERIOD_S, pause))
        return started[-1]

    yield begin
    for driver in started:
        driver.end()


@pytest.fixture
def first(start: Callable[..., Driver], night: str, tmp_path: Path) -> Driver:
    """It has committed a shard or more, and rests as long as `tmp_path / "pause"` is there."""
    pause = tmp_path / "pause"
    pause.touch()
    driver = start(pause=pause)
    wait_until(lambda: driver.process.poll() is not None or done(night))
    assert driver.process.poll() is None, driver.log.read_text()
    return driver


def done(into: str) -> set[int]:
    """Shards that the second run has committed."""
    runs = runs_of(into)
    return committed_shards(Storage(f"{into}/{runs[1]}")) if len(runs) > 1 else set()


def seeds(run: str) -> set[int]:
    return set(manifest_of(run)["seed"].to_pylist())


def test_the_second_is_told_who_is_at_work_and_since_when(
    night: str, prompts: Path, first: Driver, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    assert regenerate(prompts, night) == BUSY
    assert time.monotonic() - began < 20
    said = capsys.readouterr().err
    assert f"regenerate is at work on this collection, on {socket.gethostname()} since 20" in said
    assert "--if-busy wait" in said
    assert regenerate(prompts, night, "--if-busy=skip") == 0
    assert "skipped: regenerate is at work on this collection" in capsys.readouterr().out
    assert len(history(night)) == 1
    (tmp_path / "pause").unlink()
    assert first.wait() == 0
    assert [edition.number for edition in history(night)] == [2, 1]


def test_who_waits_goes_on_and_finds_nothing_to_do(
    night: str, first: Driver, start: Callable[..., Driver], tmp_path: Path
) -> None:
    second = start("--if-busy=wait")
    time.sleep(EXPIRES_S + 3 * PERIOD_S)
    assert second.process.poll() is None
    (tmp_path / "pause").unlink()
    assert (first.wait(), second.wait()) == (0, 0)
    assert "nothing to do: edition 2" in second.log.read_text()
    assert [edition.number for edition in history(night)] == [2, 1]
    check(night)


def test_a_killed_one_is_taken_over_from_and_nothing_is_rendered_twice(
    night: str, prompts: Path, undisturbed: str, first: Driver, tmp_path: Path, asked: Asked
) -> None:
    assert first.kill()
    run = f"{night}/{runs_of(night)[1]}"
    before, rows = seeds(run), manifest_of(run).to_pylist()
    began = time.monotonic()
    assert regenerate(prompts, night) == 0
    assert time.monotonic() - began >= 0.9 * EXPIRES_S
    assert before
    assert asked.seeds == set(TABLE["seed"]) - before
    assert [row for row in manifest_of(run).to_pylist() if row["seed"] in before] == rows
    assert len(runs_of(night)) == 2, "it goes on with the same run"
    assert newest(night).counts.rendered == 6
    same(night, undisturbed)


def test_a_killed_one_whose_table_has_changed_again_is_learnt_from(
    night: str, prompts: Path, first: Driver, tmp_path: Path, asked: Asked
) -> None:
    assert first.kill()
    before = seeds(f"{night}/{runs_of(night)[1]}")
    texts = [f"a blue circle, number {n}" for n in range(5)] + ["another one"]
    changed = write_table(tmp_path, TABLE | {"prompt": texts}, "changed")
    assert regenerate(changed, night) == 0
    assert asked.seeds == set(TABLE["seed"]) - (before - {5})
    assert len(runs_of(night)) == 3
    counts = newest(night).counts
    assert (counts.images, counts.changed, counts.failed) == (6, 6, 0)
    check(night)


def test_one_that_was_stopped_cannot_commit_when_it_wakes(
    night: str, prompts: Path, undisturbed: str, first: Driver, tmp_path: Path
) -> None:
    first.signal(signal.SIGSTOP)
    assert regenerate(prompts, night) == 0
    found, outcome = hashes(night), Path(night, "outcomes/last.json").read_text()
    (tmp_path / "pause").unlink()
    first.signal(signal.SIGCONT)
    assert first.wait() == FAILED
    assert "the lease of the collection is lost" in first.log.read_text()
    assert [edition.number for edition in history(night)][1:] == [1]
    assert hashes(night) == found
    assert Path(night, "outcomes/last.json").read_text() == outcome, "how it ended is not its to tell"
    same(night, undisturbed)
    assert regenerate(prompts, night) == 0
    assert len(history(night)) == 2


def test_of_four_that_begin_at_once_on_a_new_collection_one_makes_the_edition(
    prompts: Path, undisturbed: str, seaweed_root: str, tmp_path: Path
) -> None:
    """They make the tables together, and then take turns."""
    command = ["regenerate", str(prompts), "--into", seaweed_root, "--runner=local", *FAST, "--if-busy=wait"]
    drivers = [Driver(command, tmp_path / f"racer-{n}", PERIOD_S) for n in range(4)]
    try:
        codes = [driver.wait() for driver in drivers]
    finally:
        for driver in drivers:
            driver.end()
    logs = [driver.log.read_text() for driver in drivers]
    assert codes == [0] * 4, logs
    assert sum("nothing to do" in log for log in logs) == 3
    assert [edition.number for edition in history(seaweed_root)] == [1]
    assert len(runs_of(seaweed_root)) == 1
    assert told(seaweed_root) == told(undisturbed)


def same(into: str, undisturbed: str) -> None:
    assert told(into) == told(undisturbed)
    assert hashes(into) == hashes(undisturbed)
    check(into)
