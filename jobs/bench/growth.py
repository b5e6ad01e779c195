"""How cost grows: seconds and memory of a picture against batch, steps, picture size and the number of shards.

Run:  python -m jobs.bench.growth [--plot jobs/bench/growth.svg] [--out growth.parquet]

Each point is a process of its own, so that its peak memory is its own. Batch, steps and size: `mini` through the engine
of the workers, all cores, the fastest of two or more batches after a small picture. Shards: the default runner with
one picture a shard, `tiny` at 256 px and one step, so that what remains is the cost of a shard; memory is the driver's.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.bench.growth_plot import draw
from jobs.bench.plan import peak_rss_mb

PROMPT = "two red circles below a green cross on a white background"


@dataclass(frozen=True)
class Point:
    """One setting; everything not named by its panel is the default of a run."""

    batch: int = 4
    prior_steps: int = 20
    decoder_steps: int = 10
    side: int = 1024
    shards: int = 0
    """0: one worker renders batches; else a run of so many shards."""


PANELS = {
    "batch": [Point(batch=n) for n in (1, 2, 4, 8)],
    "prior_steps": [Point(prior_steps=n) for n in (5, 10, 20, 40)],
    "decoder_steps": [Point(decoder_steps=n) for n in (5, 10, 20)],
    "side": [Point(side=n) for n in (384, 768, 1024, 1536)],
    "shards": [Point(shards=n) for n in (10, 100, 400)],
}
"""What varies in each panel; both kinds of steps share one."""


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    if options.point:
        print(json.dumps(measure(Point(**json.loads(options.point)))))
        return 0
    if options.again:
        rows = [row for file in options.again for row in pq.read_table(file).to_pylist()]
    else:
        rows = list(_rows(options.panels))
    if options.out:
        pq.write_table(pa.Table.from_pylist(rows), options.out)
    if options.plot:
        draw(rows, options.plot)
    return 0


def _rows(panels: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One row per point of each panel; a point that several panels share is measured once."""
    measured: dict[Point, dict[str, float]] = {}
    for panel, point in itertools.chain.from_iterable(((p, x) for x in PANELS[p]) for p in panels):
        if point not in measured:
            measured[point] = _measured_alone(point)
        row = {"panel": panel, "value": getattr(point, panel), **measured[point]}
        print(
            "{panel:13} {value:5}  {seconds:.3f} s a picture, {memory_mb:,.0f} MB".format(**row), flush=True
        )
        yield row


def _measured_alone(point: Point) -> dict[str, float]:
    command = [sys.executable, "-m", "jobs.bench.growth", "--point", json.dumps(asdict(point))]
    # Ray gives its workers priority 15 of 19, so that anything else on the machine would go first.
    environment = os.environ | {"RAY_worker_niceness": "0"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def measure(point: Point) -> dict[str, float]:
    """Seconds of one picture and the peak memory of this process."""
    seconds = _of_shards(point.shards) if point.shards else _of_batches(point)
    return {"seconds": seconds, "memory_mb": peak_rss_mb()}


def _of_batches(point: Point) -> float:
    from cascade_batch.api import Cascade
    from cascade_batch.engine.devices import fix_numerics, keep_freed_memory

    keep_freed_memory()
    fix_numerics(os.cpu_count() or 1)
    model = Cascade.load("mini")

    def render(count: int, side: int) -> float:
        started = time.perf_counter()
        model.render(
            [PROMPT] * count,
            width=side,
            height=side,
            prior_num_inference_steps=point.prior_steps,
            num_inference_steps=point.decoder_steps,
            seed=0,
            output_type="np",
        )
        return (time.perf_counter() - started) / count

    render(1, 256)
    return min(render(point.batch, point.side) for _ in range(max(2, 8 // point.batch)))


def _of_shards(shards: int) -> float:
    """Of the whole run: its rate counts from when the first shard began to render."""
    from cascade_batch.cli import main as command

    with tempfile.TemporaryDirectory() as folder:
        prompts, out = f"{folder}/prompts.parquet", f"{folder}/run"
        pq.write_table(pa.table({"prompt": [PROMPT] * shards}), prompts)
        settings = {
            "model.name": "tiny",
            "shards.prompts": 1,
            "pools.c.batch": 1,
            "pools.ba.batch": 1,
            "render.width": 256,
            "render.height": 256,
            "render.prior_steps": 1,
            "render.decoder_steps": 1,
        }
        sets = [f"--set={key}={value}" for key, value in settings.items()]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert command(["render", prompts, "--out", out, *sets]) == 0
        return 1 / json.loads(Path(out, "outcome.json").read_text())["images_per_second"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.bench.growth", description="Measure how cost grows."
    )
    parser.add_argument("--panels", nargs="+", choices=PANELS, default=list(PANELS))
    parser.add_argument("--plot", type=Path, metavar="SVG", help="draw the points")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the points as Parquet")
    parser.add_argument("--again", nargs="+", type=Path, metavar="FILE", help="points measured before")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
