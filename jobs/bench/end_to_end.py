"""A table of prompts end to end: `cascade-batch render` beside the script one would write around diffusers.

Run:  python -m jobs.bench.end_to_end [--rows 32] [--turns 2] [--who diffusers ray local] [--out FILE]
      python -m jobs.bench.end_to_end --search 1 2 --rows 12    # which actors and batch suit the script best

Commands take turns (A B C A B C) in fresh processes, with `mini`, the same rows and seeds, at 1024 px and default
steps. Prints the seconds from the command to its last picture, and the rate without start-up, median (least to most)
over the turns, and by how many levels our pictures differ from the script's. With --out, runs are added to those that
FILE already holds.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cascade_batch.weights import EMBEDDED
from jobs.bench.timing import Timed

PROMPTS = Path("jobs/evaluate/sampled.parquet")
SCRIPT = Path(__file__).with_name("diffusers_script.py")
OURS = (sys.executable, "-c", "from cascade_batch.cli import entry; entry()", "render")
CORES, BATCHES = 2, (1, 2, 4)
BEST = (1, 2, 1)
"""Actors of the script, threads of each, and batch: its fastest of (1, 2, 1), (1, 2, 2), (1, 2, 4) and (2, 1, 4)."""


@dataclass(frozen=True)
class Run:
    """One command from start to end; seconds since it was started."""

    who: str
    pictures: int
    first_picture: float
    last_picture: float
    ended: float
    steady: float
    """Pictures per second without start-up."""


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    whole = _rows(PROMPTS, options.rows)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), whole)
        if options.search:
            tried = itertools.product(options.search, BATCHES)
            runs = [bench.diffusers(actors, CORES // actors, batch) for actors, batch in tried]
        else:
            runs = [bench.run(who) for _ in range(options.turns) for who in options.who]
        worst = bench.worst_difference()
    if options.out and options.out.exists():
        runs = [Run(**row) for row in pq.read_table(options.out).to_pylist()] + runs
    if options.out:
        pq.write_table(pa.Table.from_pylist([asdict(run) for run in runs]), options.out)
    print(_table(runs))
    if worst is not None:
        print(f"\nour pictures differ from diffusers' by at most {worst} of 255")
    return int(worst is not None and worst > 1)


def _rows(prompts: Path, rows: int) -> pa.Table:
    table = pq.read_table(prompts, columns=["id", "prompt"]).slice(0, rows)
    return table.append_column("seed", pa.array(range(table.num_rows), pa.int64()))


class Bench:
    """Runs commands on one table, each into a folder of its own."""

    def __init__(self, folder: Path, table: pa.Table) -> None:
        self._folder, self._ids = folder, table["id"].to_pylist()
        self._table = folder / "prompts.parquet"
        self._ours: Path | None = None
        self._theirs: Path | None = None
        pq.write_table(table, self._table)

    def run(self, who: str) -> Run:
        """diffusers at its best, or ours under the runner of that name."""
        return self.diffusers(*BEST) if who == "diffusers" else self.ours(who)

    def diffusers(self, actors: int, threads: int, batch: int) -> Run:
        """The script; its rate counts from the end of the first batch of each actor."""
        out = self._theirs = Path(tempfile.mkdtemp(dir=self._folder)) / "pictures"
        flags = {"model": EMBEDDED / "mini", "actors": actors, "threads": threads, "batch": batch}
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        started, ended = _timed([sys.executable, str(SCRIPT), str(self._table), str(out), *words])
        times = _times(out, started, len(self._ids))
        first = actors * batch
        steady = (len(times) - first) / (times[-1] - times[first - 1])
        who = f"diffusers, {actors} x {threads} threads, batch {batch}"
        return Run(who, len(times), times[0], times[-1], ended, steady)

    def ours(self, runner: str) -> Run:
        """`cascade-batch render`; its own rate, which counts from when the first shard began to render."""
        out = self._ours = Path(tempfile.mkdtemp(dir=self._folder)) / "run"
        started, ended = _timed([*OURS, str(self._table), "--out", str(out), "--runner", runner])
        times = _times(out / "images", started, len(self._ids))
        steady = json.loads((out / "outcome.json").read_text())["images_per_second"]
        return Run(f"ours, --runner {runner}", len(times), times[0], times[-1], ended, steady)

    def worst_difference(self) -> int | None:
        """Over the last run of each, in levels; None if one of them did not run."""
        if self._ours is None or self._theirs is None:
            return None
        rows = pq.read_table(self._ours / "table", columns=["prompt_id", "seed", "image_uri"]).to_pylist()
        assert [row["seed"] for row in rows] == list(range(len(self._ids))), "both must use the table's seeds"
        return max(
            _levels(self._ours / row["image_uri"], self._theirs / f"{row['prompt_id'].replace('/', '_')}.png")
            for row in rows
        )


def _timed(command: list[str]) -> tuple[float, float]:
    """When the command was started, in seconds since the epoch as file times are, and how long it took."""
    started = time.time()
    # Ray gives its workers the priority 15 of 19, so that anything else on the machine would go first.
    environment = os.environ | {"RAY_worker_niceness": "0"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}")
    return started, time.time() - started


def _times(folder: Path, started: float, expected: int) -> list[float]:
    """When each picture was written, in order, since the command was started."""
    times = sorted(path.stat().st_mtime - started for path in folder.rglob("*.png"))
    assert len(times) == expected, f"{len(times)} pictures of {expected} in {folder}"
    return times


def _levels(ours: Path, theirs: Path) -> int:
    first, second = (np.asarray(Image.open(path)).astype(int) for path in (ours, theirs))
    return int(np.abs(first - second).max())


HEAD = (
    "| | start to last picture, s | first picture, s | images/s | ratio | images/s without start-up | ratio |"
)


def _table(runs: list[Run]) -> str:
    """Markdown; ratios are to the last command of diffusers."""
    lines = [HEAD, "|---|---|---|---|---|---|---|"]
    peers = [run for run in runs if run.who.startswith("diffusers")]
    for who in dict.fromkeys(run.who for run in runs):
        mine = [run for run in runs if run.who == who]
        last = Timed.of([run.last_picture for run in mine])
        steady = Timed.of([run.steady for run in mine])
        whole, ratios = mine[0].pictures / last.median, ("", "")
        if peers and not who.startswith("diffusers"):
            theirs = Timed.of([run.last_picture for run in peers]), Timed.of([run.steady for run in peers])
            ratios = (
                f"{theirs[0].median / last.median:.2f}",
                f"{steady.median / theirs[1].median:.2f}",
            )
        first = statistics.median(run.first_picture for run in mine)
        seconds = f"{last.median:.1f} ({last.least:.1f} to {last.most:.1f})"
        rate = f"{steady.median:.2f} ({steady.least:.2f} to {steady.most:.2f})"
        lines.append(
            f"| {who} | {seconds} | {first:.1f} | {whole:.2f} | {ratios[0]} | {rate} | {ratios[1]} |"
        )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.end_to_end", description="Time whole tables.")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument(
        "--who", nargs="+", choices=("diffusers", "ray", "local"), default=["diffusers", "ray", "local"]
    )
    parser.add_argument(
        "--search",
        nargs="+",
        type=int,
        metavar="ACTORS",
        help="try the script with each batch instead, once each",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="Parquet, one row per run; runs are added")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
