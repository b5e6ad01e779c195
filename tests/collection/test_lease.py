"""One process at a time on a collection, whatever clocks say, and whatever becomes of the process."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from cascade_batch.collection import lease
from cascade_batch.collection.lease import Busy, LostLease, holding, read_owner
from cascade_batch.collection.paths import LEASE
from cascade_batch.collection.place import create_or_open
from cascade_batch.errors import IntegrityError
from cascade_batch.run.records import encode
from cascade_batch.storage import Storage
from tests.collection.owner import row
from tests.patience import PATIENCE_S, wait_until

PERIOD_S = 0.2
EXPIRES_S = lease.EXPIRES_PERIODS * PERIOD_S


@pytest.fixture(params=["disk", "moto", "seaweed"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "collection")
    return request.getfixturevalue(f"{request.param}_root")


class Process:
    """Another process at work (`tests.collection.owner`)."""

    def __init__(self, uri: str, log: Path, *steps: str) -> None:
        self.log = log
        command = [sys.executable, "-m", "tests.collection.owner", uri, str(PERIOD_S), *steps]
        with open(log, "wb") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out)
        wait_until(lambda: self.said or self._process.poll() is not None)

    @property
    def said(self) -> list[str]:
        return self.log.read_text().splitlines()

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def wait(self) -> int:
        return self._process.wait(PATIENCE_S)

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(PATIENCE_S)


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        process.end()


def test_a_second_process_is_told_who_is_at_work(root: str, tmp_path: Path, processes: list[Process]) -> None:
    collection = create_or_open(root)
    processes.append(Process(root, tmp_path / "log", "wait", str(tmp_path / "end")))
    assert processes[0].said == ["held"]
    began = time.monotonic()
    with pytest.raises(Busy) as busy, holding(collection.storage, "gc"):
        pytest.fail("two at work")
    assert time.monotonic() - began < 10
    assert (busy.value.host, busy.value.doing) == (socket.gethostname(), "regenerate")
    assert busy.value.since in busy.value.what
    assert busy.value.host in busy.value.what
    (tmp_path / "end").touch()
    assert processes[0].wait() == 0
    began = time.monotonic()
    with holding(collection.storage, "gc", period_s=PERIOD_S):
        assert time.monotonic() - began < EXPIRES_S, "released, so there is nothing to watch"
        owner = read_owner(collection.storage)
        assert owner is not None
        assert owner.what == "gc"
    assert read_owner(collection.storage) is None
    assert collection.known.version() == 0, "nothing was fenced"


def test_a_killed_owner_is_taken_over_from(root: str, tmp_path: Path, processes: list[Process]) -> None:
    collection = create_or_open(root)
    processes.append(Process(root, tmp_path / "log", "wait", str(tmp_path / "end")))
    processes[0].signal(signal.SIGKILL)
    began = time.monotonic()
    with holding(collection.storage, "regenerate", tables=(collection.known,), period_s=PERIOD_S) as held:
        assert time.monotonic() - began >= EXPIRES_S * 0.9
        held.check()
    assert collection.known.history()[0].metadata == {"fence": True}


@pytest.mark.parametrize("asks", [True, False], ids=["asks its lease", "commits without asking"])
def test_an_owner_that_was_stopped_cannot_commit(
    root: str, tmp_path: Path, processes: list[Process], asks: bool
) -> None:
    collection = create_or_open(root)
    steps = ["wait", str(tmp_path / "go"), *(["check", ""] if asks else []), "append", "old"]
    processes.append(Process(root, tmp_path / "log", *steps))
    processes[0].signal(signal.SIGSTOP)
    (tmp_path / "go").touch()
    with holding(collection.storage, "regenerate", tables=(collection.known,), period_s=PERIOD_S) as held:
        version = collection.known.version()
        processes[0].signal(signal.SIGCONT)
        assert processes[0].wait() == 1
        held.check()
        collection.known.append(row("new"), after=version, metadata={}, token="new")
    assert processes[0].said[-1].startswith("LostLease" if asks else "Conflict")
    assert collection.known.read(["stage_ba_key"])["stage_ba_key"].to_pylist() == ["new"]


@pytest.mark.parametrize("hours", [-1000, 1000])
def test_clocks_that_differ_by_weeks_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    storage = Storage(str(tmp_path))
    monkeypatch.setattr(time, "time", lambda: 1e9 + hours * 3600)
    with holding(storage, "regenerate", period_s=PERIOD_S):
        owner = json.loads(storage.read(LEASE))
        with pytest.raises(Busy), holding(storage, "gc", period_s=PERIOD_S):
            pytest.fail("two at work")
    storage.put(LEASE, json.dumps(owner | {"since": f"{2026 + hours // 500}-01-01T00:00:00+00:00"}).encode())
    began = time.monotonic()
    with holding(storage, "gc", period_s=PERIOD_S):
        assert EXPIRES_S * 0.9 <= time.monotonic() - began < EXPIRES_S + 5


def test_who_waits_goes_on_once_the_lease_is_free(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage, order = Storage(str(tmp_path)), []

    def second() -> None:
        with holding(storage, "gc", if_busy="wait", period_s=PERIOD_S):
            order.append("second")

    with holding(storage, "regenerate", period_s=PERIOD_S):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(EXPIRES_S + 0.5)
        order.append("first")
    waiting.join(PATIENCE_S)
    assert order == ["first", "second"]


def test_who_waits_says_so_and_gives_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Storage(str(tmp_path))
    monkeypatch.setattr(lease, "TOLD_EVERY_S", 0.2)
    caplog.set_level("INFO")
    with (
        holding(storage, "regenerate", period_s=PERIOD_S),
        pytest.raises(Busy) as busy,
        holding(storage, "gc", if_busy="wait", wait_s=1, period_s=PERIOD_S),
    ):
        pytest.fail("two at work")
    assert 1 <= busy.value.watched_s < 10
    assert f"waiting for regenerate on {socket.gethostname()}" in caplog.text


def test_of_many_that_wait_for_a_dead_owner_one_wins_at_a_time(store: str) -> None:
    storage, inside, most = Storage(store), [], []
    dead = lease.Owner("dead", "elsewhere", "regenerate", "", 7, PERIOD_S)
    storage.put(LEASE, encode(asdict(dead)))

    def work(number: int) -> None:
        with holding(Storage(store), f"work {number}", if_busy="wait", period_s=PERIOD_S) as held:
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.1)
            held.check()
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert most == [1] * 4


def test_a_lost_lease_stays_as_the_other_left_it(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with holding(storage, "regenerate", period_s=PERIOD_S) as held:
        storage.put(LEASE, b'{"token": "another"}')
        time.sleep(3 * PERIOD_S)
        with pytest.raises(LostLease, match="repeat the command"):
            held.check()
    assert storage.read(LEASE) == b'{"token": "another"}'


def test_a_take_over_that_could_not_fence_is_fenced_by_the_next(tmp_path: Path) -> None:
    collection = create_or_open(str(tmp_path))
    collection.storage.put(LEASE, encode(asdict(lease.Owner("dead", "", "regenerate", "", 7, PERIOD_S))))

    class Unreachable:
        def fence(self, token: str) -> int:
            raise IntegrityError("no")

    with (
        pytest.raises(IntegrityError),
        holding(collection.storage, "gc", tables=(Unreachable(),), period_s=PERIOD_S),  # type: ignore[arg-type]
    ):
        pytest.fail("not fenced")
    with holding(collection.storage, "gc", tables=(collection.known,), period_s=PERIOD_S):
        assert collection.known.version() == 1


def test_a_lease_that_is_none_is_told_of(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.put(LEASE, b"{}")
    with pytest.raises(IntegrityError, match="cannot be read"), holding(storage, "gc"):
        pytest.fail("held")
