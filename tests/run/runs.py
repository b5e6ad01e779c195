"""Small runs for tests: prompt tables, the command line in this process, and what must be equal."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cascade_batch.cli import main
from cascade_batch.prompts import rows
from cascade_batch.run import paths
from cascade_batch.run.embeddings import embedding_arrays, read_embeddings
from cascade_batch.run.manifest import committed_shards, read_manifests, read_table
from cascade_batch.run.run import open_existing
from cascade_batch.run.schemas import MEASURED
from cascade_batch.storage import Storage
from cascade_batch.workers import committing, context

QUICK = [
    "--model=tiny",
    "--width=256",
    "--height=256",
    "--set=render.prior_steps=2",
    "--set=render.decoder_steps=2",
    "--set=shards.prompts=2",
    "--set=pools.c.threads=1",
    "--set=pools.ba.threads=1",
]
"""The tiny model, two prompts a shard, 256 px and two steps; numerics do not depend on the machine's cores."""

DEFAULTS = ["--model=mini", "--set=pools.c.threads=1", "--set=pools.ba.threads=1"]
"""The model that ships, as a newcomer renders it."""

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "orange", "pink")


def write_prompts(folder: Path, count: int, **columns: list) -> Path:
    """A prompt table with ids and one carried column."""
    table = {
        "id": [f"prompt {i}" for i in range(count)],
        "prompt": [f"a {COLOURS[i % 8]} circle, number {i}" for i in range(count)],
        "category": [COLOURS[i % 3] for i in range(count)],
    }
    path = folder / f"prompts-{count}.parquet"
    pq.write_table(pa.table(table | columns), path)
    return path


def render(
    prompts: Path, out: str, *flags: str, runner: str = "local", settings: Sequence[str] = QUICK
) -> int:
    """The exit code of one render command in this process, which starts it as ignorant as a new one."""
    for remembered in (
        context.open_run,
        committing._check_numerics_once,
        rows._opened,
        rows._cached_group,
    ):
        remembered.cache_clear()
    return main(["render", str(prompts), "--out", out, "--runner", runner, *settings, *flags])


def manifest_of(uri: str) -> pa.Table:
    storage = Storage(uri)
    return pa.concat_tables(t for _, t in read_manifests(storage, sorted(committed_shards(storage))))


def contents(uri: str) -> dict[str, object]:
    """All that two runs of one spec must have in common: objects, pictures, embeddings, manifest rows."""
    storage = Storage(uri)
    found: dict[str, object] = {}
    for info in storage.list():
        if info.key.startswith((paths.IMAGES, paths.NUMERICS)) or info.key == paths.WEIGHTS:
            found[info.key] = hashlib.sha256(storage.read(info.key)).hexdigest()
        else:
            found[info.key] = "present"
    for shard in sorted(committed_shards(storage)):
        embeddings = read_embeddings(storage, shard)
        arrays = [None if a is None else a.tobytes() for a in embedding_arrays(embeddings)]
        found[f"arrays of {shard}"] = arrays
    found["manifest"] = _not_measured(manifest_of(uri))
    found["table"] = [_not_measured(part) for part in read_table(storage)]
    found["plan"] = open_existing(uri).shards.to_pylist()
    return found


def _not_measured(manifest: pa.Table) -> list[dict]:
    return manifest.drop([c for c in manifest.column_names if c in MEASURED]).to_pylist()


def differences(found: dict[str, object], wanted: dict[str, object]) -> list[str]:
    """What tells two `contents` apart, one line each."""
    return sorted(
        f"{key}: {'missing' if key not in found else 'extra' if key not in wanted else 'differs'}"
        for key in found.keys() | wanted.keys()
        if found.get(key) != wanted.get(key)
    )
