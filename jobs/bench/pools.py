"""Do the pools wait for the pipeline? A real run through Ray, pipeline and storage, in one of two kinds.

    python -m jobs.bench.pools                          stages that only wait: throughput against the slower pool
    python -m jobs.bench.pools --model mini [--store s3]   the embedded model: how busy the pools keep the cores

Steady state is from the moment the slower pool takes its first shard until it hands its last one on, by its actors'
own clocks; start-up and tear-down are printed apart. Commits lag behind the pools at first, while the steps' processes
start, so the time from commit to commit would flatter.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from cascade_batch.pipeline.runners.ray_environment import prepare_own_cluster

prepare_own_cluster()

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import ray  # noqa: E402

from cascade_batch.cli.showing import PlainObserver  # noqa: E402
from cascade_batch.pipeline import sitting  # noqa: E402
from cascade_batch.pipeline.runners.ray_data import RayRunner  # noqa: E402
from cascade_batch.run.records import Outcome  # noqa: E402
from cascade_batch.settings import Spec, load_spec  # noqa: E402
from cascade_batch.storage import Storage  # noqa: E402
from jobs.bench.clocks import CpuClocks  # noqa: E402
from jobs.bench.committing import commit_costs  # noqa: E402
from jobs.bench.servers import start_seaweed  # noqa: E402
from jobs.bench.timed import PoolTimes, pool_times, time_pools  # noqa: E402
from jobs.bench.waiting import replace_pools  # noqa: E402

AIM_WAITING, AIM_MODEL = 0.97, 0.95


def main() -> None:
    arguments = _arguments()
    waits = arguments.model == "wait"
    if waits:
        replace_pools(arguments.seconds_c, arguments.seconds_ba)
    with tempfile.TemporaryDirectory() as folder, _store(arguments.store, folder) as (uri, others):
        time_pools(Path(folder))
        spec = _spec(arguments, _prompts(Path(folder), arguments), uri)
        with CpuClocks(others) as clocks:
            outcome = sitting.render(spec, lambda: _runner(arguments), PlainObserver())
            ended = time.time()
        c, ba = pool_times(Path(folder), "C"), pool_times(Path(folder), "BA")
        slower = max(c, ba, key=lambda pool: pool.busy / pool.actors)
        _print_phases(arguments, outcome, slower, ended)
        for name, pool in (("C", c), ("BA", ba)):
            _print_pool(name, pool, slower)
        used = clocks.between(slower.first, slower.last)
        of_cores = _print_cores(used, outcome.images_done)
        _print_commits(used, outcome.images_done, Storage(uri), spec.output.png_level)
        reached = _print_waiting(arguments, outcome, slower) if waits else of_cores
    aim = AIM_WAITING if waits else AIM_MODEL
    print(f"{'reached' if reached >= aim else 'MISSED'}: {reached:.1%}, aim {aim:.0%}")


def _print_phases(arguments: argparse.Namespace, outcome: Outcome, slower: PoolTimes, ended: float) -> None:
    started, seconds = psutil.Process().create_time(), slower.last - slower.first
    print(
        f"\n{arguments.model} on {arguments.store}: {outcome.state}, {outcome.images_done} images in "
        f"{arguments.shards} shards of {arguments.images}, {arguments.side} px\n"
        f"start-up    {slower.first - started:.1f} s, from the command to the slower pool's first shard\n"
        f"steady      {seconds:.1f} s until it hands its last shard on, {outcome.images_done / seconds:.3f} images/s\n"
        f"tear-down   {ended - slower.last:.1f} s, from there to the end of the run"
    )


def _print_pool(name: str, pool: PoolTimes, slower: PoolTimes) -> None:
    share = pool.busy / ((slower.last - slower.first) * pool.actors)
    print(
        f"pool {name:6} {pool.actors} actors, a shard in hand {share:.1%} of the steady state, "
        f"longest gap {1000 * pool.longest_gap:.0f} ms"
    )


def _print_waiting(arguments: argparse.Namespace, outcome: Outcome, slower: PoolTimes) -> float:
    ideal = slower.actors / max(arguments.seconds_c, arguments.seconds_ba)
    reached = outcome.images_done / (slower.last - slower.first) / ideal
    print(f"throughput  {reached:.1%} of the slower pool's {ideal:.2f} images/s")
    return reached


def _print_cores(used: dict[str, float], images: int) -> float:
    """What each part took of the cores. Returns the pools' share of what the cores allow them."""
    cores = os.cpu_count() or 1
    room = used["wall"] * cores
    spent = {group: seconds for group, seconds in used.items() if group != "wall"}
    spent["others"] = max(0.0, room - sum(spent.values()))
    print(f"of the {cores} cores in the steady state, by the kernel's CPU clocks:")
    for group, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"  {group:10} {seconds / room:6.1%}   {seconds / images:.3f} s an image")
    pools, idle = sum(s for group, s in spent.items() if group.startswith("pool")), spent["idle"]
    print(
        f"  the pools have {pools / (pools + idle):.1%} of what the other work leaves: theirs / (theirs + idle)"
    )
    return pools / (pools + idle)


def _print_commits(used: dict[str, float], images: int, storage: Storage, level: int) -> None:
    room = used["wall"] * (os.cpu_count() or 1)
    print("of the steps, each timed afterwards with pictures of the run:")
    for what, seconds in commit_costs(storage, level).items():
        print(f"  {what:13} {seconds * images / room:6.1%}   {seconds:.3f} s an image")


def _runner(arguments: argparse.Namespace) -> RayRunner:
    if arguments.cpus:
        ray.init(address="local", num_cpus=arguments.cpus, include_dashboard=False)
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
    pq.write_table(
        pa.table(
            {"id": [str(i) for i in range(count)], "prompt": ["a red circle on a white background"] * count}
        ),
        path,
    )
    return path


@contextmanager
def _store(name: str, folder: str) -> Iterator[tuple[str, dict[int, str]]]:
    """Where the run goes, and what serves it besides this process."""
    if name == "disk":
        yield f"{folder}/run", {}
        return
    server_folder = Path(folder, "server")
    server_folder.mkdir()
    server = start_seaweed(server_folder)
    os.environ.update(server.environment)
    try:
        yield f"{server.make_bucket()}/run", {server.pid: "S3 server"}
    finally:
        server.kill()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="wait", help="wait (default), or an embedded model such as mini")
    parser.add_argument("--store", choices=("disk", "s3"), default="disk")
    parser.add_argument("--shards", type=int, help="default 200, of a model 16")
    parser.add_argument(
        "--images",
        type=int,
        help="per shard; default 8, of a model 4: whole batches, so that nothing is padded",
    )
    parser.add_argument("--side", type=int, help="pixels; default 256, of a model 1024")
    parser.add_argument("--seconds-c", type=float, default=0.035, help="a waiting Stage C's, per image")
    parser.add_argument("--seconds-ba", type=float, default=0.07, help="a waiting Stage B + A's, per image")
    parser.add_argument("--cpus", type=int, help="CPUs that Ray is told of; default: the machine's")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="sets")
    arguments = parser.parse_args()
    waits = arguments.model == "wait"
    for name, of_waiting, of_model in (("shards", 200, 16), ("images", 8, 4), ("side", 256, 1024)):
        if getattr(arguments, name) is None:
            setattr(arguments, name, of_waiting if waits else of_model)
    return arguments


if __name__ == "__main__":
    main()
