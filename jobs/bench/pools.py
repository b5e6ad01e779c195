"""Do the pools wait for the pipeline? A real run through Ray, pipeline and storage, in one of two kinds.

    python -m jobs.bench.pools                          stages that only wait: throughput against the slower pool
    python -m jobs.bench.pools --model mini [--store s3]   the embedded model: how busy the pools keep the cores

Steady state is from the first shard's commit to the last one's, by the manifests' own times: the images committed
after the first, over the seconds between. Start-up and tear-down are printed apart.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from cascade_batch.runners.ray_environment import prepare_own_cluster

prepare_own_cluster()

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import ray  # noqa: E402

from cascade_batch import pipeline  # noqa: E402
from cascade_batch.cli.showing import PlainObserver  # noqa: E402
from cascade_batch.pipeline import Outcome  # noqa: E402
from cascade_batch.runners.local import LocalRunner  # noqa: E402
from cascade_batch.runners.ray_data import RayRunner  # noqa: E402
from cascade_batch.runners.runner import Runner  # noqa: E402
from cascade_batch.spec import Spec, load_spec  # noqa: E402
from cascade_batch.storage import Storage  # noqa: E402
from cascade_batch.stores.manifest import committed_shards, read_manifests  # noqa: E402
from jobs.bench.clocks import CpuClocks  # noqa: E402
from jobs.bench.committing import commit_costs  # noqa: E402
from jobs.bench.waiting import replace_pools  # noqa: E402

AIM_WAITING, AIM_MODEL = 0.97, 0.95


@dataclass(frozen=True)
class Steady:
    """What the manifests say of a finished run, between its first and last commit."""

    first: float
    """Unix time of the first commit, `last` of the last."""
    last: float
    images: int
    """Committed after the first shard."""
    busy_c: float
    """Seconds in Stage C of the whole run."""
    busy_ba: float
    """Seconds in Stage B + A of all shards but the first."""
    began: float
    """About when Stage B + A began: the first commit less that shard's seconds in it."""

    @property
    def seconds(self) -> float:
        return self.last - self.first


def steady(uri: str) -> Steady:
    storage = Storage(uri)
    columns = ["created_at", "stage_c_seconds", "stage_ba_seconds"]
    shards = [t for _, t in read_manifests(storage, sorted(committed_shards(storage)), columns)]
    shards.sort(key=lambda t: t["created_at"][0].as_py())
    ends = [t["created_at"][0].as_py().timestamp() for t in shards]
    c, ba = ([sum(t[f"stage_{s}_seconds"].to_pylist()) for t in shards] for s in ("c", "ba"))
    images = sum(t.num_rows for t in shards[1:])
    return Steady(ends[0], ends[-1], images, sum(c), sum(ba[1:]), ends[0] - ba[0])


def main() -> None:
    arguments = _arguments()
    if arguments.model == "wait":
        replace_pools(arguments.seconds_c, arguments.seconds_ba)
    with tempfile.TemporaryDirectory() as folder, _store(arguments.store, folder) as (uri, others):
        spec = _spec(arguments, _prompts(Path(folder), arguments), uri)
        with CpuClocks(others) as clocks:
            outcome = pipeline.render(spec, lambda: _runner(arguments), PlainObserver())
            ended = time.time()
        found = steady(uri)
        _print_phases(arguments, outcome, found, ended)
        reached = _print_waiting(arguments, found) if arguments.model == "wait" else 1.0
        shares = _print_cores(found, clocks, spec)
        if arguments.model != "wait":
            reached = shares
    aim = AIM_WAITING if arguments.model == "wait" else AIM_MODEL
    print(f"{'reached' if reached >= aim else 'MISSED'}: {reached:.1%}, aim {aim:.0%}")


def _print_phases(arguments: argparse.Namespace, outcome: Outcome, found: Steady, ended: float) -> None:
    started = psutil.Process().create_time()
    print(
        f"{arguments.model} on {arguments.store}, {arguments.runner} runner: {outcome.state}, "
        f"{outcome.images_done} images in {arguments.shards} shards of {arguments.images}, {arguments.side} px"
    )
    print(f"start-up    {found.began - started:.1f} s, from the command to the slower pool's first shard")
    rate = found.images / found.seconds
    print(f"steady      {found.seconds:.1f} s from the first commit to the last, {rate:.3f} images/s")
    print(f"tear-down   {ended - found.last:.1f} s, from the last commit to the end of the run")


def _print_waiting(arguments: argparse.Namespace, found: Steady) -> float:
    ideal = 1 / max(arguments.seconds_c, arguments.seconds_ba)
    reached = found.images / found.seconds / ideal
    print(f"throughput  {reached:.1%} of the slower pool's {ideal:.2f} images/s")
    return reached


def _print_cores(found: Steady, clocks: CpuClocks, spec: Spec) -> float:
    """What each part took of the cores in the steady state. Returns the pools' share of what they could have."""
    cores = os.cpu_count() or 1
    used = clocks.between(found.first, found.last)
    room = used.pop("wall") * cores
    print(f"pool BA     rendered {found.busy_ba / found.seconds:.1%} of the steady state by its own watch")
    print(f"the {cores} cores, by the processes' CPU clocks in the steady state:")
    for group, seconds in sorted(used.items(), key=lambda item: -item[1]):
        print(f"  {group:10} {seconds / room:6.1%}   {seconds / found.images:.3f} s an image")
    idle = max(0.0, room - sum(used.values()))
    print(f"  {'idle':10} {idle / room:6.1%}")
    for what, seconds in commit_costs(Storage(spec.output.uri), spec.output.png_level).items():
        print(
            f"  of steps, {what}: {seconds * found.images / room:.1%} ({seconds:.3f} s an image, timed afterwards)"
        )
    pools = sum(seconds for group, seconds in used.items() if group.startswith("pool") or group == "driver")
    print("the pools' share of what the cores allow = their CPU time / (that + idle time):")
    return pools / (pools + idle)


def _runner(arguments: argparse.Namespace) -> Runner:
    if arguments.runner == "local":
        return LocalRunner()
    if arguments.cpus:
        ray.init(address="local", num_cpus=arguments.cpus, include_dashboard=False, logging_level="error")
    return RayRunner()


def _spec(arguments: argparse.Namespace, prompts: Path, uri: str) -> Spec:
    flags = {
        "prompts.uri": str(prompts),
        "output.uri": uri,
        "model.name": "tiny" if arguments.model == "wait" else arguments.model,
        "render.width": arguments.side,
        "render.height": arguments.side,
        "shards.prompts": arguments.images,
    }
    return load_spec("", arguments.sets, flags)


def _prompts(folder: Path, arguments: argparse.Namespace) -> Path:
    count = arguments.shards * arguments.images
    path = folder / "prompts.parquet"
    texts = [f"a red circle on a white background, number {i}" for i in range(count)]
    pq.write_table(pa.table({"id": [str(i) for i in range(count)], "prompt": texts}), path)
    return path


@contextmanager
def _store(name: str, folder: str) -> Iterator[tuple[str, dict[int, str]]]:
    """Where the run goes, and what serves it besides this process."""
    if name == "disk":
        yield f"{folder}/run", {}
        return
    from tests.servers import start_seaweed

    server_folder = Path(folder, "server")
    server_folder.mkdir()
    server = start_seaweed(server_folder)
    os.environ.update(server.environment)
    try:
        yield f"{server.make_bucket()}/run", {server._process.pid: "S3 server"}  # type: ignore[union-attr]
    finally:
        server.kill()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="wait", help="wait (default), or an embedded model such as mini")
    parser.add_argument("--store", choices=("disk", "s3"), default="disk")
    parser.add_argument("--runner", choices=("ray", "local"), default="ray")
    parser.add_argument("--shards", type=int, help="default 200, of a model 24")
    parser.add_argument("--images", type=int, help="per shard; default 4, as the batch, so that nothing is padded")
    parser.add_argument("--side", type=int, help="pixels; default 256, of a model 1024")
    parser.add_argument("--seconds-c", type=float, default=0.05, help="a waiting Stage C's, per image")
    parser.add_argument("--seconds-ba", type=float, default=0.1, help="a waiting Stage B + A's, per image")
    parser.add_argument("--cpus", type=int, help="CPUs that Ray is told of; default: the machine's")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="sets")
    arguments = parser.parse_args()
    waits = arguments.model == "wait"
    for name, of_waiting, of_model in (("shards", 200, 24), ("images", 4, 4), ("side", 256, 1024)):
        if getattr(arguments, name) is None:
            setattr(arguments, name, of_waiting if waits else of_model)
    return arguments


if __name__ == "__main__":
    main()
