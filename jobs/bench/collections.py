"""Regenerations of a large collection of which one percent, or nothing, changes, without rendering.

    python -m jobs.bench.collections [--rows 100000 1000000] [--only spread]

Makes a collection that knows every image of a table of so many prompts (on local disk, no picture is rendered), then
does to copies of it what a nightly job does, each in a process of its own: seconds by phase, peak memory of the
process and of all that it starts together (RSS, which counts what they share more than once), and what each commit
wrote. Keying, joining, learning and the commits are the product's; its stages render nothing.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from cascade_batch.cli.showing import PlainObserver
from cascade_batch.collection import assessing, asking, forecasting, regenerating, rendering
from cascade_batch.collection.assessing import Options
from cascade_batch.collection.comparing import State
from cascade_batch.collection.delta import DeltaTableAt
from cascade_batch.collection.place import open_collection
from cascade_batch.pipeline.runners.runner import Runner
from cascade_batch.settings import Spec, load_spec
from jobs.bench.nightly_tables import carried, clustered, spread, write_table
from jobs.bench.phases import Phases, Watch, cpu_s

PHASES = ("start", "open", "check", "key", "join", "render", "learn", "commit")
AIMS = {"nothing": 60, "rewritten": 60, "plan": 120, "spread": 120, "clustered": 120, "carried": 120}
"""Seconds of a million rows, rendering not counted."""
AIM_MB = 2048
CLOCKS = {"wall": lambda: time.time() - psutil.Process().create_time(), "cpu": cpu_s}
COMMANDS = {
    "nothing": ("same", "regenerate"),
    "rewritten": ("rewritten", "regenerate"),
    "plan": ("spread", "plan"),
    "spread": ("spread", "regenerate"),
    "clustered": ("clustered", "regenerate"),
    "carried": ("carried", "regenerate"),
    "decode": ("same", "plan"),
}
"""What is measured -> the table that is asked for, and the command."""


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    if options.measure:
        print(json.dumps(measured(options.measure, Path(options.folder), CLOCKS[options.clock])))
        return 0
    print(f"| rows | what | {' | '.join(PHASES)} | all but render, s | driver, MB | all, MB | written, MB |")
    print("|---" * (len(PHASES) + 6) + "|", flush=True)
    well = [_print(rows, options.only, options.clock) for rows in options.rows]
    return 0 if all(well) else 1


def _print(rows: int, only: Sequence[str], clock: str) -> bool:
    well = True
    with tempfile.TemporaryDirectory(prefix="cascade-bench-") as name:
        folder = Path(name)
        _make(folder, rows)
        for what in only:
            found = _in_a_process(what, folder, clock)
            _print_row(rows, what, found)
            well &= found["without_render"] <= AIMS.get(what, 1e9) and found["all_mb"] <= AIM_MB
    return well


def _make(folder: Path, rows: int) -> None:
    from jobs.bench.known_images import make_collection

    tables = folder / "tables"
    write_table(tables / "same", rows)
    write_table(tables / "rewritten", rows, group_rows=10_000)
    write_table(tables / "spread", rows, spread)
    write_table(tables / "clustered", rows, clustered(rows))
    write_table(tables / "carried", rows, carried)
    began = time.monotonic()
    result = make_collection(_spec(folder, "same"), str(folder / "collection"))
    assert result.edition and result.edition.counts.reused == rows, result
    table = open_collection(str(folder / "collection")).table
    size = sum(file.size for file in table.data_files()) / 2**20
    print(
        f"<!-- {rows:,} rows: collection made in {time.monotonic() - began:.0f} s, its table {size:.0f} MB -->",
        flush=True,
    )


def _in_a_process(what: str, folder: Path, clock: str) -> dict[str, Any]:
    copy = folder / "copy"
    shutil.copytree(folder / "collection", copy / "collection")
    (copy / "tables").symlink_to(folder / "tables")
    command = [sys.executable, "-m", "jobs.bench.collections", "--measure", what, "--folder", str(copy)]
    command += ["--clock", clock]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watch = Watch(process.pid)
    told, _ = process.communicate()
    watch.join()
    shutil.rmtree(copy)
    if process.returncode:
        raise SystemExit(f"{what} failed")
    found = json.loads(told.splitlines()[-1]) | {"driver_mb": watch.alone_mb, "all_mb": watch.peak_mb}
    if clock == "cpu":
        key = found["seconds"].get("key", 0)  # keying alone starts processes
        found["seconds"]["key"] = key + watch.others_cpu_s
        found["without_render"] += watch.others_cpu_s
    return found


def _print_row(rows: int, what: str, found: Mapping[str, Any]) -> None:
    seconds = [f"{found['seconds'].get(phase, 0):.1f}" for phase in PHASES]
    written = " + ".join(f"{name} {size:.1f}" for name, size in found["written_mb"].items() if size)
    print(
        f"| {rows:,} | {what} | {' | '.join(seconds)} | {found['without_render']:.1f} | {found['driver_mb']:,.0f} | "
        f"{found['all_mb']:,.0f} | {written or '-'} |",
        flush=True,
    )


def measured(what: str, folder: Path, clock: Callable[[], float]) -> dict[str, Any]:
    """Do one of `COMMANDS` in this process."""
    table, command = COMMANDS[what]
    spec, uri = _spec(folder, table, decoder_steps=12 if what == "decode" else None), str(folder / "collection")
    collection, started = open_collection(uri), clock()
    before = {name: _files(t) for name, t in (("table", collection.table), ("known", collection.known))}
    phases = _watched(clock)
    if command == "plan":
        forecast = forecasting.forecast(spec, uri, _null_runner, Options())
        result = {state.name: count for state, count in forecast.states.items() if count}
        _check(what, result.get(State.PICTURE.name, 0), forecast.images)
    else:
        done = regenerating.regenerate(spec, uri, _null_runner, PlainObserver(), Options())
        assert done.edition is not None, done
        result = done.edition.to_json()["counts"]
        _check(what, result["reused"], result["images"])
    seconds = {"start": started, **phases.ended()}
    after = {"table": _files(collection.table), "known": _files(collection.known)}
    return {
        "seconds": seconds,
        "without_render": sum(seconds.values()) - seconds.get("render", 0),
        "written_mb": {
            name: sum(size for key, size in after[name].items() if key not in before[name]) / 2**20 for name in after
        },
        "result": result,
    }


def _null_runner() -> Runner:
    from jobs.bench.null_stages import NullRunner  # imports more than a regeneration does that renders nothing

    return NullRunner()


def _check(what: str, reused: int, images: int) -> None:
    changed = {"plan", "spread", "clustered"}
    expected = images - images // 100 if what in changed else 0 if what == "decode" else images
    assert abs(reused - expected) <= 100, (what, reused, images)


def _files(table: DeltaTableAt) -> dict[str, int]:
    return {file.key: file.size for file in table.data_files()}


def _watched(clock: Callable[[], float]) -> Phases:
    phases = Phases(clock)
    phases.watch("open", asking, "asked")
    for module in (regenerating, forecasting):
        phases.watch("check", module, "make_plan")
        phases.watch("check", module, "check_carried")
    phases.watch("key", assessing, "key_table")
    phases.watch("render", rendering.sitting, "render")
    phases.watch("learn", rendering, "learn")
    phases.watch("commit", regenerating._Committing, "_commit")
    return phases


def _spec(folder: Path, table: str, decoder_steps: int | None = None) -> Spec:
    flags = {
        "prompts.uri": str(folder / "tables" / table),
        "model.name": "tiny",
        "model.dtype": "float32",
        "render.width": 256,
        "render.height": 256,
        "pools.c.batch": 4,
        "pools.ba.batch": 4,
    }
    return load_spec("", (), flags if decoder_steps is None else {**flags, "render.decoder_steps": decoder_steps})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.bench.collections", description="Measure regenerations of a large collection."
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for a machine that others use as well")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
