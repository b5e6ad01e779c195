"""A run's size without its pictures: many small shards, and a run with many shards done.

    python -m jobs.bench.scale shards [--shards 2000]    all of a run but its networks: shards/s, driver memory
    python -m jobs.bench.scale listing [--done 100000]   seconds until a sitting, or `status`, knows what is left

The first renders one picture of 256 px a shard through Ray, both pools' workers and every commit, on local disk. The
second makes a real run and its plan, and puts a small object under each manifest's name on SeaweedFS on loopback.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.request import urlopen

from cascade_batch.pipeline.runners.ray_environment import prepare_own_cluster

prepare_own_cluster()

import boto3  # noqa: E402
import psutil  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from botocore.config import Config  # noqa: E402

from cascade_batch.cli.showing import PlainObserver  # noqa: E402
from cascade_batch.pipeline import sitting  # noqa: E402
from cascade_batch.pipeline.creating import open_or_create  # noqa: E402
from cascade_batch.pipeline.progress import Progress  # noqa: E402
from cascade_batch.run import paths, records  # noqa: E402
from cascade_batch.settings import Spec, load_spec  # noqa: E402
from cascade_batch.storage import Storage  # noqa: E402
from jobs.bench.servers import start_seaweed  # noqa: E402

LIMIT_S = 20
LEFT = 400
"""Shards without a manifest in the listing's run; half of them with embeddings."""


class Watching(PlainObserver):
    """Keeps the times of the first and last commit, and the driver's memory at each."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[float] = []
        self.resident_mb: list[float] = []

    def progress(self, progress: Progress) -> None:
        super().progress(progress)
        self.commits.append(time.monotonic())
        self.resident_mb.append(psutil.Process().memory_info().rss / 2**20)


def many_shards(count: int) -> bool:
    from cascade_batch.pipeline.runners.ray_data import RayRunner
    from jobs.bench.waiting import replace_pools

    replace_pools(0.0, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        began, observer = time.monotonic(), Watching()
        outcome = sitting.render(_spec(Path(folder), count, f"{folder}/run"), RayRunner, observer)
        seconds = time.monotonic() - began
    first, last = observer.commits[0], observer.commits[-1]
    memory = observer.resident_mb
    print(
        f"{outcome.state}: {count} shards of one 256 px picture in {seconds:.0f} s: {first - began:.0f} s to the first "
        f"commit, then {(count - 1) / (last - first):.1f} shards/s, {seconds - (last - began):.1f} s after the last\n"
        f"driver {memory[0]:.0f} MB at the first commit, {max(memory):.0f} MB at most: "
        f"{(max(memory) - memory[0]) * 1024 / count:.1f} KB a shard"
    )
    return outcome.state == records.FINISHED


class Known(Exception):
    """A sitting knows what is left, and would start a runner now."""


def many_done(done: int) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        server_folder = Path(folder, "server")
        server_folder.mkdir()
        server = start_seaweed(server_folder)
        os.environ.update(server.environment)
        try:
            uri = f"{server.make_bucket()}/run"
            spec = _spec(Path(folder), done + LEFT, uri)
            open_or_create(spec, Storage(uri))
            _put_objects(server, uri, Path(folder), done)
            return _time_listings(spec, uri, done)
        finally:
            server.kill()


def _time_listings(spec: Spec, uri: str, done: int) -> bool:
    resume = _timed(lambda: _know_what_is_left(spec))
    command = [sys.executable, "-c", "from cascade_batch.cli import entry; entry()", "status", uri]
    answers: list[str] = []
    status = _timed(lambda: answers.append(subprocess.check_output(command, text=True)))
    print(answers[0])
    bare = _timed(lambda: _bare_listing(uri, done))
    print(
        f"{done:,} of {done + LEFT:,} shards done, on loopback S3 (SeaweedFS)\n"
        f"resume   {resume:.1f} s from the spec to knowing what is left (limit {LIMIT_S})\n"
        f"status   {status:.1f} s, a new process (limit {LIMIT_S})\n"
        f"server   {bare:.1f} s for the manifests' listing pages alone, one after the other, bytes dropped"
    )
    return max(resume, status) <= LIMIT_S and f"shards  {done:,} of" in answers[0]


def _know_what_is_left(spec: Spec) -> None:
    def make_runner():
        raise Known

    try:
        sitting.render(spec, make_runner, PlainObserver())
    except Known:
        return


def _bare_listing(uri: str, done: int) -> None:
    """The same pages, asked for by plain HTTP and thrown away: what the server takes for itself."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    client = boto3.client(
        "s3", config=Config(signature_version="s3v4")
    )  # finds the server in the environment
    for key in paths.shard_prefixes(f"{prefix}/{paths.MANIFEST}", range(done)):
        wanted = {"Bucket": bucket, "Prefix": key}
        with urlopen(client.generate_presigned_url("list_objects_v2", Params=wanted)) as answer:
            answer.read()


def _put_objects(server, uri: str, folder: Path, done: int) -> None:
    """One byte under each name, by the server's own tool: quicker than a PUT for each, and listed alike."""
    source = folder / "run"
    for name, shards in ((paths.MANIFEST, range(done)), (paths.EMBEDDINGS, range(done, done + LEFT // 2))):
        (source / name).mkdir(parents=True)
        for shard in shards:
            (source / name / f"{paths.shard_name(shard)}.parquet").write_bytes(b"x")
    binary, flags = (
        server.command[0],
        dict(re.findall(r"-(filer\.port(?:\.grpc)?)=(\d+)", " ".join(server.command))),
    )
    filer = f"http://127.0.0.1:{flags['filer.port']}.{flags['filer.port.grpc']}"
    bucket = uri.removeprefix("s3://").partition("/")[0]
    command = [binary, "filer.copy", "-c", "16", str(source), f"{filer}/buckets/{bucket}/"]
    taken = _timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
    print(f"{done + LEFT // 2:,} objects put in {taken:.0f} s", flush=True)


def _timed(work) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _spec(folder: Path, prompts: int, uri: str) -> Spec:
    """One prompt a shard."""
    path = folder / "prompts.parquet"
    columns = {"id": [str(i) for i in range(prompts)], "prompt": ["a red circle"] * prompts}
    pq.write_table(pa.table(columns), path, row_group_size=10_000)
    flags = {
        "prompts.uri": str(path),
        "output.uri": uri,
        "model.name": "tiny",
        "render.width": 256,
        "render.height": 256,
        "shards.prompts": 1,
        "pools.c.batch": 1,
        "pools.ba.batch": 1,
        "output.png_level": 1,
    }
    return load_spec("", (), flags)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("shards", "listing"))
    parser.add_argument("--shards", type=int, default=2_000)
    parser.add_argument("--done", type=int, default=100_000)
    arguments = parser.parse_args(argv)
    well = many_shards(arguments.shards) if arguments.what == "shards" else many_done(arguments.done)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
