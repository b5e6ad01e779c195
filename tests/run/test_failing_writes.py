"""A storage whose n-th write fails, for every n: the next sitting ends in the run that never failed.

The last tests break the commit order on purpose: then the same check must find a difference.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cascade_batch.pipeline.runners import local
from cascade_batch.run import paths
from cascade_batch.run.embeddings import committed_embeddings
from cascade_batch.run.images import ImageFile, commit_image, encode_png
from cascade_batch.run.manifest import committed_shards
from cascade_batch.storage import Storage
from cascade_batch.workers import committing
from cascade_batch.workers.context import RunRef
from cascade_batch.workers.shards import ShardData
from tests.run.failing import Died, Failure, Way, Writes, failing_writes
from tests.run.remembered import Asked, remember
from tests.run.runs import contents, differences, manifest_of, render, write_prompts

FAST = ("--set=pools.c.batch=2", "--set=pools.ba.batch=2", "--set=output.png_level=1")
SHARDS = {0: {0, 1}, 1: {2, 3}}
"""Prompts of each shard."""


@dataclass(frozen=True)
class Reference:
    """A run that was never interrupted."""

    prompts: Path
    contents: dict[str, object]
    seeds: dict[int, int]
    """Prompt by its image's seed."""
    writes: int

    def sitting(self, out: str, writes: Writes | None = None) -> int | None:
        """The exit code of one sitting, None if its driver died."""
        with failing_writes(writes or Writes()):
            try:
                return render(self.prompts, out, *FAST)
            except Died:
                return None


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return remember(monkeypatch)


@pytest.fixture
def reference(asked: Asked, tmp_path: Path) -> Reference:
    prompts, out, writes = write_prompts(tmp_path, 4), str(tmp_path / "reference"), Writes()
    blank = Reference(prompts, {}, {}, 0)
    assert blank.sitting(out, writes) == 0
    seeds = {row["seed"]: int(row["prompt_id"].split()[-1]) for row in manifest_of(out).to_pylist()}
    return replace(blank, contents=contents(out), seeds=seeds, writes=len(writes.keys))


def test_every_object_of_a_run_passes_the_failing_storage(reference: Reference) -> None:
    """The premise of the other tests: all 14 objects, the probe and both heartbeats were counted."""
    objects = [key for key in reference.contents if "/" in key or key.endswith((".json", ".parquet"))]
    assert reference.writes == len(objects) + 2


@pytest.mark.parametrize("way", ["before it landed", "after it landed"])
@pytest.mark.parametrize("failure", ["the driver dies", "the store keeps failing"])
def test_the_next_sitting_heals_any_failed_write(
    reference: Reference, asked: Asked, store: str, way: Way, failure: Failure
) -> None:
    for n in range(1, reference.writes + 1):
        out, writes = f"{store}/{n}", Writes(n, way, failure)
        code = reference.sitting(out, writes)
        where = f"write {n}, {writes.keys[n - 1]}, {failure} {way}"
        assert code is None if failure == "the driver dies" else code in (0, 1), where
        embedded, done = committed_embeddings(Storage(out)), committed_shards(Storage(out))
        asked.clear()
        assert reference.sitting(out) == 0, where
        assert differences(contents(out), reference.contents) == [], where
        assert {int(text.split()[-1]) for text in asked.prompts} == prompts_outside(embedded | done), where
        assert {reference.seeds[seed] for seed in asked.seeds} == prompts_outside(done), where


def prompts_outside(shards: set[int]) -> set[int]:
    return set().union(*(prompts for shard, prompts in SHARDS.items() if shard not in shards))


@pytest.mark.parametrize("way", ["before it landed", "after it landed"])
def test_a_lost_answer_alone_is_no_failure_at_all(reference: Reference, store: str, way: Way) -> None:
    for n in range(1, reference.writes + 1):
        out, writes = f"{store}/{n}", Writes(n, way, "one answer is lost")
        assert reference.sitting(out, writes) == 0, writes.keys[n - 1]
        assert differences(contents(out), reference.contents) == [], writes.keys[n - 1]


def test_a_death_in_every_sitting_still_ends(reference: Reference, tmp_path: Path) -> None:
    """Each sitting dies one write later than the one before."""
    out = str(tmp_path / "run")
    for n in range(1, 2 * reference.writes):
        if reference.sitting(out, Writes(n, "after it landed")) == 0:
            break
    assert differences(contents(out), reference.contents) == []


def manifest_before_images(monkeypatch: pytest.MonkeyPatch) -> None:
    later: list[Callable[[], ImageFile]] = []

    def put_off(storage: Storage, shard: int, image_id: str, pixels, level: int) -> ImageFile:
        later.append(lambda: commit_image(storage, shard, image_id, pixels, level))
        png = encode_png(pixels, level)
        hashes = [hashlib.sha256(data).hexdigest() for data in (png, pixels.tobytes())]
        return ImageFile(paths.image_key(shard, image_id), len(png), *hashes)

    def commit_images(data: ShardData, ref: RunRef) -> ShardData:
        done = committing.commit_images(data, ref)
        while later:
            later.pop(0)()
        return done

    monkeypatch.setattr(committing, "commit_image", put_off)
    monkeypatch.setattr(local, "commit_images", commit_images)


def embeddings_of_another_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    real = paths.embeddings_key

    def commit_embeddings(data: ShardData, ref: RunRef) -> ShardData:
        with pytest.MonkeyPatch.context() as swap:
            swap.setattr(paths, "embeddings_key", lambda shard: real(1 - shard))
            return committing.commit_embeddings(data, ref)

    monkeypatch.setattr(local, "commit_embeddings", commit_embeddings)


def objects_visible_before_they_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    put = Storage._put_once

    def in_halves(storage: Storage, key: str, data: bytes, *how) -> None:
        if not key.startswith("manifest/") or storage.exists(key):
            return put(storage, key, data, *how)
        put(storage, key, data[: len(data) // 2], *how)
        return storage.put(key, data)

    monkeypatch.setattr(Storage, "_put_once", in_halves)


@pytest.mark.parametrize(
    ("break_order", "difference"),
    [
        (manifest_before_images, "images/shard-00000001/prompt_3.*missing"),
        (embeddings_of_another_shard, "exit 1"),
        (objects_visible_before_they_are_whole, "exit 1"),
    ],
)
def test_a_broken_commit_order_is_found_out(
    reference: Reference, tmp_path: Path, break_order: Callable, difference: str
) -> None:
    found = []
    for n in range(1, reference.writes + 1):
        out = str(tmp_path / str(n))
        with pytest.MonkeyPatch.context() as patch:
            break_order(patch)
            reference.sitting(out, Writes(n))
        code = reference.sitting(out)
        found += [f"exit {code}"] if code else differences(contents(out), reference.contents)
    assert re.search(difference, "\n".join(found)), found
