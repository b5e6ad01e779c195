"""Batch sizes that workers measure: the choice, the measuring, and what a run fixes of it for all its workers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cascade_batch.cli import main
from cascade_batch.engine.batches import DecodedImages, DecoderBatch, PriorBatch
from cascade_batch.engine.decoder import Decoder
from cascade_batch.engine.prior import Prior
from cascade_batch.errors import SpecError
from cascade_batch.pipeline.pinning import settled
from cascade_batch.run.loads import SizeLoad, loads_of, most_frequent
from cascade_batch.settings import DtypeSpec, load_spec
from cascade_batch.storage import Storage
from cascade_batch.workers import probing
from cascade_batch.workers.batch_sizes import BatchSizes, Probe, choose
from cascade_batch.workers.batching import Batch
from cascade_batch.workers.context import RunRef
from cascade_batch.workers.probing import measure, settled_sizes
from cascade_batch.workers.rendering import DeviceOutOfMemory
from tests.run.runs import contents, manifest_of, render, write_prompts

PROBED = ("--set=pools.c.batch=probe", "--set=pools.ba.batch=probe", "--set=shards.prompts=12")


def load(images: int = 640, largest: int = 64, width: int = 256, height: int = 256) -> SizeLoad:
    """Shards of `largest` images of one kind each."""
    shards = np.full(images // largest, largest)
    sizes = (np.full(len(shards), side) for side in (width, height))
    return loads_of(*sizes, np.zeros(len(shards)), shards)[width, height]


def test_the_smallest_batch_near_the_best_is_taken() -> None:
    assert choose(load(), {1: 1.0, 2: 0.6, 4: 0.41, 8: 0.40, 16: 0.395}) == 4
    assert choose(load(), {1: 1.0, 2: 0.6, 4: 0.45, 8: 0.40, 16: 0.395}) == 8
    assert choose(load(), {1: 1.0, 2: 0.99, 4: 1.02}) == 1
    assert choose(load(), {}) == 1


def test_noise_below_the_tolerance_does_not_change_the_choice() -> None:
    for noise in np.random.default_rng(0).uniform(0.99, 1.01, (100, 4)).tolist():
        seconds = (1.0, 0.6, 0.41, 0.40)
        measured = {b: s * n for b, s, n in zip((1, 2, 4, 8), seconds, noise, strict=True)}
        assert choose(load(), measured) == 4


def test_padding_counts_against_a_batch() -> None:
    """Six images of a kind in each shard fill batches of 2; one of 8 holds two that are nobody's."""
    seconds = {1: 1.0, 2: 0.6, 4: 0.5, 8: 0.48}
    assert choose(load(640, 64), seconds) == 4
    assert choose(load(600, 6), seconds) == 2


def test_loads_count_places_by_size_over_all_files() -> None:
    widths, heights = np.array([256, 512, 256]), np.array([256, 256, 256])
    first = loads_of(widths, heights, np.array([False, True, False]), np.array([3, 64, 5]))
    again = loads_of(widths[:1], heights[:1], np.array([True]), np.array([9]))
    wide, small = most_frequent([first, again])
    assert (wide.width, wide.images, wide.guided, wide.largest) == (512, 64, True, 64)
    assert wide.slots == (64,) * 7
    assert (small.images, small.guided, small.largest) == (17, True, 9)
    assert small.slots == (17, 4 + 6 + 10, 4 + 8 + 12, 8 + 8 + 16, 48, 96, 192)
    assert small.padding(8) == 32 / 17


def test_only_the_most_frequent_sizes_are_measured() -> None:
    sides = np.arange(256, 256 + 8 * 20, 8)
    loads = most_frequent([loads_of(sides, sides, sides > 0, np.arange(20) + 1)])
    assert [one.images for one in loads] == list(range(20, 12, -1))


def test_rare_sizes_take_the_next_larger_ones_batch_and_larger_ones_less() -> None:
    sizes = BatchSizes(4, {(512, 512): 16, (1024, 1024): 6})
    assert [sizes.of(512, 512), sizes.of(1024, 1024)] == [16, 6]
    assert [sizes.of(256, 256), sizes.of(512, 520), sizes.of(1024, 512)] == [16, 6, 6]
    assert [sizes.of(2048, 1024), sizes.of(1088, 1024), sizes.of(4096, 4096)] == [2, 4, 1]
    assert BatchSizes(4).of(4096, 4096) == 4


def recorded(render: Callable[[int], None]) -> tuple[list[int], Callable[[int], None]]:
    sizes: list[int] = []

    def remember(size: int) -> None:
        sizes.append(size)
        render(size)

    return sizes, remember


def full_beyond(most: int) -> Callable[[int], None]:
    def render(size: int) -> None:
        if size > most:
            raise DeviceOutOfMemory("full")

    return render


def test_measuring_ends_where_memory_does() -> None:
    sizes, render_some = recorded(full_beyond(4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "_timed", timed_as({1: 1.0, 2: 1.2, 4: 1.6, 8: None}, sizes))
        found = measure(load(), render_some)
    assert (set(found.seconds), found.out_of_memory) == ({1, 2, 4}, 8)
    assert found.seconds[4] == pytest.approx(0.4)
    assert measure(load(), full_beyond(0)).out_of_memory == 1


def timed_as(seconds: dict[int, float | None], seen: list[int]) -> Callable[..., float | None]:
    def timed(_render: object, batch: int) -> float | None:
        seen.append(batch)
        return seconds[batch]

    return timed


def test_measuring_ends_after_two_sizes_that_bring_little(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    rising = {1: 1.0, 2: 1.2, 4: 2.38, 8: 4.0, 16: 8.0, 32: 16.0, 64: 1.0}
    monkeypatch.setattr(probing, "_timed", timed_as(rising, seen))
    found = measure(load(), lambda _size: None)
    assert list(found.seconds) == [1, 2, 4, 8, 16, 32], "4 brought little, 8 much, 16 and 32 nothing"
    assert choose(load(), found.seconds) == 8


def test_no_batch_is_measured_that_no_shard_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(probing, "_timed", timed_as({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}, seen))
    assert list(measure(load(60, 6), lambda _size: None).seconds) == [1, 2, 4]


def test_a_batch_that_takes_long_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, render_some = recorded(lambda _size: None)
    probing._timed(render_some, 4)
    monkeypatch.setattr(probing, "SHORT_S", -1.0)
    probing._timed(render_some, 8)
    assert sizes == [4, 4, 8]


def test_whoever_is_first_fixes_the_batch_for_all(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe(RunRef(store, True, ""), "c", (load(),))
    monkeypatch.setattr(probing, "_timed", timed_as(dict.fromkeys((1, 2, 4, 8, 16, 32, 64), 1.0), []))

    def meanwhile(_batch: Batch) -> None:
        raise AssertionError("nobody measures once it is fixed")

    def settle(batch: int | str = "probe", kind: str = "cpu") -> int:
        return settled_sizes(batch, kind, 1.0, probe, meanwhile).of(256, 256)

    assert (settle(), settle()) == (64, 64)
    monkeypatch.setattr(probing, "_timed", timed_as({1: 1.0, 2: 2.0, 4: 4.0}, []))
    assert settle() == 64, "read, not measured"
    assert settle(kind="NVIDIA H100 80GB HBM3") == 1, "each device kind has its own"
    assert settle("auto", "NVIDIA H100 80GB HBM3") == 1, "auto measures on an accelerator"
    assert (settle("auto"), settle(7)) == (4, 7), "and takes 4 on a CPU"
    assert {info.key for info in Storage(store).list()} == {
        "numerics/cpu/c.json",
        "numerics/NVIDIA-H100-80GB-HBM3/c.json",
    }


def test_a_worker_that_measures_beside_the_first_takes_the_firsts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe, key = Probe(RunRef(str(tmp_path), True, ""), "ba", (load(),)), "numerics/cpu/ba.json"

    def timed(_render: object, batch: int) -> float:
        if not Storage(str(tmp_path)).exists(key):
            Storage(str(tmp_path)).create(key, b'{"256x256": {"batch": 16}}')
        return float(batch)

    monkeypatch.setattr(probing, "_timed", timed)
    assert settled_sizes("probe", "cpu", 1.0, probe, lambda _batch: None).of(256, 256) == 16


def test_without_create_only_writes_nothing_is_measured(tmp_path: Path) -> None:
    probe = Probe(RunRef(str(tmp_path), False, ""), "c", (load(),))
    assert settled_sizes("auto", "NVIDIA H100", 1.0, probe, lambda _batch: None) == BatchSizes(4)
    storage = Storage(str(tmp_path))
    storage.create_only = False
    with pytest.raises(SpecError, match="without create-only writes"):
        settled(load_spec("", ["pools.ba.batch=probe"]).pools, DtypeSpec(), storage)


def findings(out: Path, pool: str) -> dict:
    return json.loads((out / f"numerics/cpu/{pool}.json").read_text())


def check_probed_run(out: Path) -> None:
    """Pool C has memory for 2 images, pool BA for 1."""
    for pool, most in (("c", 2), ("ba", 1)):
        assert set(findings(out, pool)) == {"256x256", "384x256"}
        for size, found in findings(out, pool).items():
            assert found["out_of_memory"] == 2 * most
            assert found["batch"] <= most
            assert set(found["seconds"]) == {str(n) for n in (1, 2) if n <= most}, size
    rows = manifest_of(str(out)).to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * len(rows)
    for row in rows:
        size = f"{row['width']}x{row['height']}"
        assert row["stage_c_batch"] == findings(out, "c")[size]["batch"]
        assert row["stage_ba_batch"] == findings(out, "ba")[size]["batch"]
    assert json.loads((out / "numerics/cpu.json").read_text())["c"]["batch"] == "probe"


WIDTHS = [256, 384, 256] * 8
"""Two sizes, eight and four of each in a shard of twelve."""


def test_a_local_run_measures_once_survives_full_memory_and_resumes_with_what_it_fixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = write_prompts(tmp_path, 24, width=WIDTHS), tmp_path / "run"
    for kind, most in ((Prior, 2), (Decoder, 1)):
        monkeypatch.setattr(kind, "render", rendering_at_most(kind.render, most))
    assert render(prompts, str(out), *PROBED) == 0
    check_probed_run(out)
    before = {pool: findings(out, pool) for pool in ("c", "ba")}
    (out / "manifest/shard-00000001.parquet").unlink()
    (out / "embeddings/shard-00000001.parquet").unlink()

    def measured_again(*_: object) -> None:
        raise AssertionError("a resume measures nothing")

    monkeypatch.setattr(probing, "measure", measured_again)
    assert render(prompts, str(out), "--set=shards.prompts=12") == 0, "auto goes on with what stands"
    assert {pool: findings(out, pool) for pool in ("c", "ba")} == before
    check_probed_run(out)
    assert render(prompts, str(out), *PROBED, "--set=pools.c.batch=4", "--retry-failed") == 0, "nothing to do"
    (out / "manifest/shard-00000001.parquet").unlink()
    assert render(prompts, str(out), *PROBED, "--set=pools.c.batch=4") == 2
    assert "pools.c.batch was fixed" in capsys.readouterr().err
    assert render(prompts, str(out), *PROBED) == 0
    assert main(["verify", str(out)]) == 0


def rendering_at_most(render: Callable[..., Any], most: int) -> Callable[..., Any]:
    def render_or_fail(networks: Any, batch: PriorBatch | DecoderBatch) -> Any:
        if len(batch.seeds) > most:
            raise torch.OutOfMemoryError("no room")
        return render(networks, batch)

    return render_or_fail


def test_memory_that_shrinks_after_the_measuring_halves_batches_and_the_manifest_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, out = write_prompts(tmp_path, 8), tmp_path / "run"
    monkeypatch.setattr(probing, "choose", lambda _load, _seconds: 8)
    rendered = Decoder.render
    measuring = iter([True] * 100)

    def full_in_the_run(decoder: Decoder, batch: DecoderBatch) -> DecodedImages:
        if batch.steps != probing.STEPS and len(batch.seeds) > 2 and next(measuring):
            raise torch.OutOfMemoryError("a neighbour came")
        return rendered(decoder, batch)

    monkeypatch.setattr(Decoder, "render", full_in_the_run)
    assert render(prompts, str(out), *PROBED) == 0
    manifest = manifest_of(str(out))
    assert manifest["stage_c_batch"].to_pylist() == [8] * 8
    assert manifest["stage_ba_batch"].to_pylist() == [2] * 8
    assert findings(out, "ba")["256x256"]["batch"] == 8


def test_the_default_on_a_cpu_is_4_and_measures_nothing(tmp_path: Path) -> None:
    prompts, out = write_prompts(tmp_path, 8), tmp_path / "run"
    assert render(prompts, str(out), "--set=shards.prompts=8") == 0
    assert manifest_of(str(out))["stage_c_batch"].to_pylist() == [4] * 8
    assert [path.name for path in (out / "numerics").iterdir()] == ["cpu.json"]
    assert render(prompts, f"{out}-4", "--set=shards.prompts=8", *EXPLICIT) == 0
    ours, theirs = (contents(uri) for uri in (str(out), f"{out}-4"))
    assert {key for key in ours if ours[key] != theirs[key]} == {"numerics/cpu.json"}, "it says auto, or 4"


EXPLICIT = ("--set=pools.c.batch=4", "--set=pools.ba.batch=4")
