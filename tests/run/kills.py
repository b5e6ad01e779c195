"""Real drivers as processes, killed with SIGKILL at random moments until a run is done, again and again.

A sitting is killed either while it starts (imports, planning, run.json, weights, the first shard) or at a random
moment after it has committed something, so that runs end however slow the machine is.
"""

import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from cascade_batch.run import paths
from cascade_batch.storage import Storage
from tests.patience import PATIENCE_S, wait_until
from tests.run.runs import QUICK, contents, differences, manifest_of, write_prompts

PROGRAM = [sys.executable, "-c", "from cascade_batch.cli import entry; entry()"]
PAUSING = [
    sys.executable,
    "-c",
    "import time; from cascade_batch.cli import entry; from cascade_batch.pipeline.progress import Progress; "
    "add = Progress.add; Progress.add = lambda *shard: (add(*shard), time.sleep(60)); entry()",
]
"""Rests after each shard that it has committed, so that it is never over before whoever watches it has acted."""
MARK = "CASCADE_BATCH_TEST_SITTING"
"""Environment variable by which the processes that a driver started are known after its death."""
FAST = ("--set=pools.c.batch=2", "--set=pools.ba.batch=2")
GONE_S = 240
"""A Ray agent whose raylet died without a word first tries for 60 s to tell the head, which is gone as well."""
RUNS_PER_KILL = 3
STARTING = 0.3
"""Share of kills while a sitting starts."""


@dataclass
class Driver:
    """One sitting in a process of its own, its output in `log`."""

    process: subprocess.Popen
    log: Path
    mark: str

    @classmethod
    def start(
        cls,
        prompts: Path,
        out: str,
        log: Path,
        *flags: str,
        runner: str = "local",
        program: Sequence[str] = PROGRAM,
    ) -> "Driver":
        mark = secrets.token_hex(8)
        command = [*program, "render", str(prompts), "--out", out, "--runner", runner, *QUICK, *flags]
        with open(log, "w") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=os.environ | {MARK: mark},
            )
        return cls(process, log, mark)

    def kill(self) -> bool:
        """SIGKILL the driver alone; False if it had ended already."""
        self.process.send_signal(signal.SIGKILL)
        return self.process.wait(PATIENCE_S) == -signal.SIGKILL

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def survivors(self) -> list[str]:
        """What it started and what is still there a while after its end."""
        deadline = time.monotonic() + GONE_S
        while (found := _marked(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.5)
        return found


def _marked(mark: str) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
        except psutil.Error:  # gone meanwhile, or not ours
            continue
    return found


@dataclass
class Kills:
    """How many drivers were killed in the middle, and what was wrong: nothing, if all is well."""

    count: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Series:
    """Kill drivers until `kills` were killed in the middle; finish every run; compare it with the reference."""

    prompts: Path
    reference: dict[str, object]
    start_s: float
    """How long an uninterrupted sitting takes until it commits, the longest delay after a start."""
    active_s: float
    """How long it commits, the longest delay after a first commit."""
    folder: Path
    flags: tuple[str, ...]
    runner: str

    @classmethod
    def prepare(cls, folder: Path, shards: int, runner: str) -> "Series":
        """Render the reference, timed, in a driver that nobody kills."""
        prompts, out = write_prompts(folder, 2 * shards), str(folder / "reference")
        started = time.time()
        driver = Driver.start(prompts, out, folder / "reference.log", *FAST, runner=runner)
        if driver.wait() or driver.survivors():
            raise RuntimeError(f"the reference failed: {driver.log.read_text()}")
        commits = [moment.timestamp() for moment in manifest_of(out)["created_at"].to_pylist()]
        first, last = min(commits), max(commits)
        return cls(prompts, contents(out), first - started, last - first, folder, FAST, runner)

    def run(self, root: str, kills: int, seed: int, say: Callable[[str], object] = print) -> Kills:
        """`root` is where the runs lie; `seed` decides every delay."""
        done, dice, number = Kills(), random.Random(seed), 0
        while done.count < kills and not done.wrong:
            number += 1
            if number > RUNS_PER_KILL * kills:
                done.wrong.append(
                    f"only {done.count} kills in {number - 1} runs: drivers end before they are killed"
                )
                break
            out = f"{root}/run-{number}"
            self._kill_until_done(out, kills, done, dice, say)
            wrong = self._finish(out)
            say(f"finished: {out}, differences: {'; '.join(wrong) or 'none'}")
            done.wrong += wrong
        return done

    def _kill_until_done(self, out: str, kills: int, done: Kills, dice: random.Random, say: Callable) -> None:
        while done.count < kills:
            driver = self._start(out)
            moment = self._moment(driver, out, dice)
            if not driver.kill():
                return  # it was quicker
            done.count += 1
            done.wrong += [f"{out}: left after a kill: {process}" for process in driver.survivors()]
            say(f"kill {done.count}: {out} {moment}; left {_progress(out)}")

    def _finish(self, out: str) -> list[str]:
        """Render what is left, undisturbed; what then differs from the reference."""
        driver = self._start(out)
        if code := driver.wait():
            return [f"{out}: exit {code}: {driver.log.read_text()[-2000:]}"]
        return [f"{out}: {line}" for line in differences(contents(out), self.reference)]

    def _start(self, out: str) -> Driver:
        log = self.folder / f"{out.rsplit('/', 1)[-1]}-{secrets.token_hex(4)}.log"
        return Driver.start(self.prompts, out, log, *self.flags, runner=self.runner)

    def _moment(self, driver: Driver, out: str, dice: random.Random) -> str:
        """Wait for the moment to kill; says which it was."""
        starting, share = dice.random() < STARTING, dice.random()
        delay = share * (self.start_s if starting else self.active_s)
        if starting:
            _sleep_or_end(driver, delay)
            return f"{delay:.2f} s after its start"
        storage, before = Storage(out), _commits(Storage(out))
        wait_until(lambda: driver.process.poll() is not None or _commits(storage) != before)
        _sleep_or_end(driver, delay)
        return f"{delay:.2f} s after a commit"


def _sleep_or_end(driver: Driver, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while driver.process.poll() is None and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, 0.05))


def _commits(storage: Storage) -> int:
    return len(storage.list(paths.EMBEDDINGS)) + len(storage.list(paths.MANIFEST))


def _progress(out: str) -> str:
    storage = Storage(out)
    counts = {name: len(storage.list(name)) for name in (paths.EMBEDDINGS, paths.IMAGES, paths.MANIFEST)}
    records = [name for name in (paths.RUN, paths.PLAN, paths.WEIGHTS) if storage.exists(name)]
    return ", ".join([*records, *(f"{count} {name[:-1]}" for name, count in counts.items())])
