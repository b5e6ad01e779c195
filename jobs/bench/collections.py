"""Regenerations of a large collection of which one percent, or nothing, changes, without rendering.

    python -m jobs.bench.collections [--rows 100000 1000000] [--only spread] [--clock cpu]
    python -m jobs.bench.collections --rows 100000 --store s3       requests too, on SeaweedFS on loopback

Makes a collection that knows every image of a table of so many prompts (no picture is rendered), then does to copies
of it what a nightly job does, each in a process of its own: seconds by phase, peak memory of the process and of all
that it starts together (RSS, which counts what they share more than once), and what each commit wrote. Keying,
joining, learning and the commits are the product's; its stages render nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from cascade_batch.cli.showing import PlainObserver
from cascade_batch.collection.delta.table import DeltaTableAt
from cascade_batch.collection.place import open_collection
from cascade_batch.collection.regenerating import asking, assessing, forecasting, rendering
from cascade_batch.collection.regenerating import regenerate as regenerating
from cascade_batch.collection.regenerating.assessing import Options
from cascade_batch.collection.regenerating.comparing import State
from cascade_batch.pipeline.runners.runner import Runner
from cascade_batch.settings import Spec, load_spec
from cascade_batch.storage import Storage
from jobs.bench.counting import CountingRelay
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
    if options.measure == "make":
        made(options.tables, options.collection)
        return 0
    if options.measure:
        told = measured(options.measure, options.tables, options.collection, CLOCKS[options.clock])
        print(json.dumps(told))
        return 0
    last = "written, MB" if options.store == "disk" else "requests"
    print(f"| rows | what | {' | '.join(PHASES)} | all but render, s | driver, MB | all, MB | {last} |")
    print("|---" * (len(PHASES) + 6) + "|", flush=True)
    well = [_print(rows, options.only, options.clock, options.store) for rows in options.rows]
    return 0 if all(well) else 1


def _print(rows: int, only: Sequence[str], clock: str, store: str) -> bool:
    well = True
    with (
        tempfile.TemporaryDirectory(prefix="cascade-bench-") as folder,
        _place(store, folder) as (root, relay),
    ):
        _make(Path(folder, "tables"), root, rows)
        for what in only:
            found = _in_a_process(what, root, clock, relay)
            _print_row(rows, what, found)
            well &= found["without_render"] <= AIMS.get(what, 1e9) and found["all_mb"] <= AIM_MB
    return well


@contextmanager
def _place(store: str, folder: str) -> Iterator[tuple[str, CountingRelay | None]]:
    """Where tables and collection are; on S3 also who counts the requests."""
    if store == "disk":
        yield f"{folder}/place", None
        return
    from jobs.bench.servers import start_seaweed

    Path(folder, "server").mkdir()
    server = start_seaweed(Path(folder, "server"))
    relay = CountingRelay(server.port)
    os.environ.update(server.environment | {"AWS_ENDPOINT_URL": relay.url})
    try:
        yield server.make_bucket(), relay
    finally:
        relay.close()
        server.kill()


def _make(tables: Path, root: str, rows: int) -> None:
    write_table(tables / "same", rows)
    write_table(tables / "rewritten", rows, group_rows=10_000)
    write_table(tables / "spread", rows, spread)
    write_table(tables / "clustered", rows, clustered(rows))
    write_table(tables / "carried", rows, carried)
    _copy(str(tables), f"{root}/tables")
    began = time.monotonic()
    subprocess.run(
        _command("make", root, f"{root}/collection", "wall"), check=True, stdout=subprocess.DEVNULL
    )
    table = open_collection(f"{root}/collection").table
    size = sum(file.size for file in table.data_files()) / 2**20
    print(
        f"<!-- {rows:,} rows: collection made in {time.monotonic() - began:.0f} s, its table {size:.0f} MB -->",
        flush=True,
    )


def _command(what: str, root: str, collection: str, clock: str) -> list[str]:
    """In a process of its own; the relay, too, must not wait for what holds this one."""
    command = [sys.executable, "-m", "jobs.bench.collections", "--measure", what, "--clock", clock]
    return [*command, "--tables", f"{root}/tables", "--collection", collection]


def made(tables: str, uri: str) -> None:
    """Make the collection that is then copied."""
    from jobs.bench.known_images import make_collection

    result = make_collection(_spec(tables, "same"), uri)
    assert result.edition is not None
    assert result.edition.counts.reused == result.edition.counts.images, result


def _copy(source: str, target: str) -> None:
    there, here = Storage(source), Storage(target)
    for info in there.list():
        here.put(info.key, there.read(info.key))


def _in_a_process(what: str, root: str, clock: str, relay: CountingRelay | None) -> dict[str, Any]:
    copy = f"{root}/{what}"
    _copy(f"{root}/collection", copy)
    if relay:
        relay.taken()
    process = subprocess.Popen(_command(what, root, copy, clock), stdout=subprocess.PIPE, text=True)
    watch = Watch(process.pid)
    told, _ = process.communicate()
    watch.join()
    if process.returncode:
        raise SystemExit(f"{what} failed")
    found = json.loads(told.splitlines()[-1]) | {"driver_mb": watch.alone_mb, "all_mb": watch.peak_mb}
    found["requests"] = relay.taken() if relay else {}
    if clock == "cpu":
        key = found["seconds"].get("key", 0)  # keying alone starts processes
        found["seconds"]["key"] = key + watch.others_cpu_s
        found["without_render"] += watch.others_cpu_s
    return found


def _print_row(rows: int, what: str, found: Mapping[str, Any]) -> None:
    seconds = [f"{found['seconds'].get(phase, 0):.1f}" for phase in PHASES]
    last = " + ".join(f"{name} {size:.1f}" for name, size in found["written_mb"].items() if size)
    last = ", ".join(f"{n} {name}" for name, n in sorted(found["requests"].items())) or last
    print(
        f"| {rows:,} | {what} | {' | '.join(seconds)} | {found['without_render']:.1f} | {found['driver_mb']:,.0f} | "
        f"{found['all_mb']:,.0f} | {last or '-'} |",
        flush=True,
    )


def measured(what: str, tables: str, uri: str, clock: Callable[[], float]) -> dict[str, Any]:
    """Do one of `COMMANDS` in this process."""
    table, command = COMMANDS[what]
    spec = _spec(tables, table, decoder_steps=12 if what == "decode" else None)
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
            name: sum(size for key, size in after[name].items() if key not in before[name]) / 2**20
            for name in after
        },
        "result": result,
    }


def _null_runner() -> Runner:
    from jobs.bench.null_stages import (
        NullRunner,
    )  # imports more than a regeneration does that renders nothing

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


def _spec(tables: str, table: str, decoder_steps: int | None = None) -> Spec:
    flags = {
        "prompts.uri": f"{tables}/{table}",
        "model.name": "tiny",
        "model.dtype": "float32",
        "render.width": 256,
        "render.height": 256,
        "pools.c.batch": 4,
        "pools.ba.batch": 4,
    }
    return load_spec(
        "", (), flags if decoder_steps is None else {**flags, "render.decoder_steps": decoder_steps}
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.bench.collections", description="Measure regenerations of a large collection."
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--store", choices=("disk", "s3"), default="disk")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: for a machine that others use as well"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--tables", help=argparse.SUPPRESS)
    parser.add_argument("--collection", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
