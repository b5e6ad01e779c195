"""Regenerations, gc and restores in real processes on SeaweedFS, killed with SIGKILL at random moments.

A story of commands is told over and over. Each command is killed some times and then repeated until it is done, when
the newest edition must be what it is in a collection where nobody was killed. After every kill each picture and
embedding shard that a kept edition refers to must be there.

`python -m tests.collection.kills` kills 20 of them, prints a line for each, and exits 1 if anything was wrong.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cascade_batch.collection.care.garbage import fates
from cascade_batch.collection.care.verifying import Verifier
from cascade_batch.collection.editions import editions_of
from cascade_batch.collection.lease import read_owner
from cascade_batch.collection.place import is_there, open_collection
from cascade_batch.storage import Storage
from tests.collection.driver import Driver
from tests.collection.regenerations import FAST, hashes, history, told, write_table
from tests.patience import wait_until
from tests.servers import start_seaweed

PERIOD_S = 0.2
STARTING = 0.15
"""Share of kills before a driver has the lease."""
MOST = 3
"""Kills of one command in a row."""

Table = dict[str, list[Any]]
State = tuple[list[dict[str, Any]], dict[str, str]]
"""Rows of the newest edition, and hashes of its pictures."""


def _table(word: str, numbers: Sequence[int], category: str = "even") -> Table:
    """One text in three has this word."""
    texts = [f"a {word if n % 3 == 0 else 'red'} circle, number {n}" for n in numbers]
    return {
        "id": [str(n) for n in numbers],
        "prompt": texts,
        "seed": list(numbers),
        "category": [category] * len(numbers),
    }


MONDAY, TUESDAY = _table("blue", range(6)), _table("green", range(1, 8))
REGENERATE, RESTORE, GC = "regenerate", "restore", "gc"


@dataclass(frozen=True)
class Step:
    """One command. `restore` goes back by one edition, `gc` keeps two and waits for nothing."""

    what: str
    table: str = ""
    flags: tuple[str, ...] = ()

    def arguments(self, into: str, folder: Path) -> list[str]:
        """Fixed when the step begins: which edition is the one before is another once it is done."""
        if self.what == REGENERATE:
            prompts = str(folder / f"{self.table}.parquet")
            return ["regenerate", prompts, "--into", into, "--runner=local", *FAST, *self.flags]
        if self.what == RESTORE:
            return ["collection", "restore", into, str(history(into)[1].number)]
        return ["collection", "gc", into, "--keep=2", "--grace=0", "--delete"]

    def __str__(self) -> str:
        return " ".join([self.what, self.table, *self.flags]).strip()


STORY = (
    Step(REGENERATE, "monday"),
    Step(REGENERATE, "tuesday"),
    Step(REGENERATE, "tuesday", ("--set=render.decoder_steps=3",)),
    Step(GC),
    Step(RESTORE),
    Step(GC),
    Step(REGENERATE, "monday"),
)
"""What Monday's table needs the second time was swept, but for what Tuesday's has in common with it."""
SHORT = (STORY[0], STORY[1], Step(RESTORE), Step(GC))


@dataclass
class Kills:
    """How many drivers were killed, and what was wrong: nothing, if all is well."""

    count: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass
class Series:
    """Stories with kills, compared with one without."""

    folder: Path
    story: Sequence[Step]
    say: Callable[[str], object]
    states: list[State] = field(default_factory=list)
    """After each step."""
    active_s: list[float] = field(default_factory=list)
    """How long each step holds the lease."""
    start_s: float = 0.0
    logs: int = 0

    @classmethod
    def prepare(
        cls, folder: Path, root: str, story: Sequence[Step], say: Callable[[str], object]
    ) -> "Series":
        """Tell the story undisturbed, timed."""
        for name, table in (("monday", MONDAY), ("tuesday", TUESDAY)):
            write_table(folder, table, name)
        series, into = cls(folder, story, say), f"{root}/undisturbed"
        for step in story:
            began = time.monotonic()
            driver = series._start(step.arguments(into, folder))
            _wait_for_lease(driver, into)
            held = time.monotonic()
            if code := driver.wait():
                raise RuntimeError(f"{step}: exit {code}: {driver.log.read_text()}")
            series.start_s = max(series.start_s, held - began)
            series.active_s.append(time.monotonic() - held)
            series.states.append((told(into), hashes(into)))
            say(f"undisturbed: {step}, {series.active_s[-1]:.1f} s at work")
        return series

    def run(self, root: str, kills: int, seed: int) -> Kills:
        """Kill so many drivers; `seed` decides every delay."""
        done, dice, number = Kills(), random.Random(seed), 0
        while done.count < kills and not done.wrong:
            number += 1
            if number > 2 * kills:
                done.wrong.append(f"only {done.count} kills: drivers end before they are killed")
            into = f"{root}/story-{number}"
            for place in range(len(self.story)):
                self._step(place, into, kills, done, dice)
            done.wrong += _unsound(into)
            self.say(f"story {number} told: {_left(into)}")
        return done

    def _step(self, place: int, into: str, kills: int, done: Kills, dice: random.Random) -> None:
        """Kill one command some times, then have it done, and look at what there is."""
        step = self.story[place]
        arguments, oldest = step.arguments(into, self.folder), _oldest_kept(into)
        for _ in range(min(dice.randint(0, MOST), kills - done.count)):
            driver = self._start(arguments)
            moment = self._moment(driver, into, place, dice)
            if not driver.kill():
                break  # it was quicker
            done.count += 1
            missing = list(_missing(into, oldest))
            done.wrong += [f"{step}, {moment}: {line}" for line in missing]
            self.say(
                f"kill {done.count}: {step}, {moment}; left {_left(into)}; {len(missing)} pictures missing"
            )
        driver = self._start(arguments)
        if code := driver.wait():
            done.wrong.append(f"{step}: exit {code}: {driver.log.read_text()[-2000:]}")
            return
        done.wrong += [f"{step}, done: {line}" for line in _missing(into, oldest)]
        if (told(into), hashes(into)) != self.states[place]:
            done.wrong.append(f"{step}: edition {history(into)[0].number} differs from the undisturbed one")

    def _start(self, arguments: Sequence[str]) -> Driver:
        self.logs += 1
        return Driver(arguments, self.folder / f"{self.logs}.log", PERIOD_S)

    def _moment(self, driver: Driver, into: str, place: int, dice: random.Random) -> str:
        """Wait for the moment to kill; says which it was."""
        starting, share = dice.random() < STARTING, dice.random()
        if starting:
            _sleep_or_end(driver, share * self.start_s)
            return f"{share * self.start_s:.2f} s after its start"
        _wait_for_lease(driver, into)
        _sleep_or_end(driver, share * self.active_s[place])
        return f"{share * self.active_s[place]:.2f} s after it began its work"


def _wait_for_lease(driver: Driver, into: str) -> None:
    """Until the driver holds the lease, or has ended. One that died before it left its own there."""
    before = read_owner(Storage(into))

    def holds() -> bool:
        now = read_owner(Storage(into))
        return now is not None and (before is None or now.token != before.token)

    wait_until(lambda: driver.process.poll() is not None or holds(), 0.02)


def _sleep_or_end(driver: Driver, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while driver.process.poll() is None and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, 0.02))


def _oldest_kept(into: str) -> int:
    """The first edition that no gc may take."""
    numbers = [edition.number for edition in history(into)] if is_there(into) else []
    return numbers[:2][-1] if numbers else 0


def _missing(into: str, oldest: int) -> Iterator[str]:
    """What is not there of what editions refer to: those from `oldest` on, and others that are not said to be lost."""
    if not is_there(into):
        return
    collection = open_collection(into)
    there = {info.key for info in collection.storage.list("runs/")}
    given_up = fates(collection)
    for edition in editions_of(collection.table):
        if edition.number >= oldest or edition.number not in given_up:
            rows = collection.table.read(["image_uri", "embedding_uri"], version=edition.number).to_pylist()
            yield from sorted({uri for row in rows for uri in row.values() if uri} - there)


def _unsound(into: str) -> list[str]:
    """What is wrong with a collection whose story is told."""
    collection = open_collection(into)
    newest = editions_of(collection.table)[0]
    found = [str(difference) for difference in Verifier(collection).check(newest).differences]
    keys = collection.known.read(["stage_ba_key"])["stage_ba_key"].drop_null().to_pylist()
    if len(set(keys)) < len(keys):
        found.append(f"{into}: {len(keys) - len(set(keys))} pictures were rendered, or are known, twice")
    return found


def _left(into: str) -> str:
    """What stands on storage, in a few words."""
    keys = [info.key for info in Storage(into).list()]
    editions = len(history(into)) if is_there(into) else 0
    counts = {
        "runs": sum(key.endswith("/run.json") for key in keys),
        "pictures": sum("/images/" in key for key in keys),
        "commits to known": sum(
            key.startswith("known/_delta_log/") and key.endswith(".json") for key in keys
        ),
        "marks and decisions": sum(key.startswith("gc/") for key in keys),
    }
    return ", ".join([f"{editions} editions", *(f"{n} {name}" for name, n in counts.items())])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments = parser.parse_args()
    print(f"{arguments.kills} kills, seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="cascade-batch-kills-") as name:
        folder = Path(name)
        (folder / "seaweed").mkdir()
        server, started = start_seaweed(folder / "seaweed"), time.monotonic()
        os.environ.update(server.environment)

        def say(line: str) -> None:
            print(f"{time.monotonic() - started:7.1f} s  {line}", flush=True)

        try:
            series = Series.prepare(folder, "s3://ready/kills", STORY, say)
            done = series.run("s3://ready/kills", arguments.kills, arguments.seed)
        finally:
            server.kill()
    print("\n".join(done.wrong) or f"{done.count} kills: no difference, no picture missing", flush=True)
    return 1 if done.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
