"""`render --retry-failed`: failed rows are rendered again, all others keep their bytes and rows, measured ones too."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_batch.engine.batches import DecodedImages, DecoderBatch, PriorBatch, PriorImages
from cascade_batch.engine.decoder import Decoder
from cascade_batch.engine.prior import Prior
from cascade_batch.run import paths
from cascade_batch.run.embeddings import read_embeddings
from cascade_batch.run.manifest import committed_shards
from cascade_batch.storage import Storage
from tests.run.failing import Died, Failure, Way, Writes, failing_writes
from tests.run.remembered import Asked, remember
from tests.run.runs import contents, differences, manifest_of, render, write_prompts

FAST = ("--set=pools.c.batch=2", "--set=pools.ba.batch=2", "--set=output.png_level=1")
NAN, FLAT = 1, 4
"""Prompts that the faulty networks fail, in shards 0 and 2; shard 1 holds a null prompt."""
SEEDS = list(range(100, 106))
TEXTS = ["a red circle", "a cursed circle", "a blue circle", None, "a green circle", "a black circle"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return remember(monkeypatch)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_prompts(tmp_path, 6, prompt=TEXTS, seed=SEEDS)


@pytest.fixture
def wanted(asked: Asked, prompts: Path, tmp_path: Path) -> dict[str, object]:
    """The run that never met the fault."""
    out = str(tmp_path / "sound")
    assert render(prompts, out, *FAST) == 0
    return contents(out)


@pytest.fixture
def faulty(wanted: dict, prompts: Path, store: str) -> str:
    """A finished run with one row of each fault."""
    render_with_faults(prompts, store)
    return store


def render_with_faults(prompts: Path, out: str, *flags: str, code: int = 0) -> None:
    with pytest.MonkeyPatch.context() as patch:
        break_networks(patch)
        assert render(prompts, out, *FAST, *flags) == code


def break_networks(patch: pytest.MonkeyPatch) -> None:
    prior, decoder = Prior.render, Decoder.render

    def nan_for_the_cursed(engine: Any, batch: PriorBatch) -> PriorImages:
        images = prior(engine, batch)
        cursed = np.array([text == TEXTS[NAN] for text in batch.prompts])
        return replaced(images, embeddings=np.where(cursed[:, None, None, None], np.nan, images.embeddings))

    def one_colour(engine: Any, batch: DecoderBatch) -> DecodedImages:
        images = decoder(engine, batch)
        flat = np.array([seed == SEEDS[FLAT] for seed in batch.seeds])
        return replaced(images, pixels=np.where(flat[:, None, None, None], np.uint8(7), images.pixels))

    patch.setattr(Prior, "render", nan_for_the_cursed)
    patch.setattr(Decoder, "render", one_colour)


def replaced(images: Any, **arrays: np.ndarray) -> Any:
    kinds = {name: array.astype(getattr(images, name).dtype) for name, array in arrays.items()}
    return type(images)(**vars(images) | kinds)


def codes(out: str) -> list[str | None]:
    return manifest_of(out)["error_code"].to_pylist()


def test_every_fault_fails_its_row_alone(faulty: str) -> None:
    assert codes(faulty) == [None, "nan_output", None, "null_prompt", "single_colour", None]


def test_only_failed_rows_change_and_end_as_if_they_had_never_failed(
    faulty: str, wanted: dict, prompts: Path, asked: Asked
) -> None:
    before, images = manifest_of(faulty).to_pylist(), stored(faulty, paths.IMAGES)
    embedded = {shard: read_embeddings(Storage(faulty), shard).to_pylist() for shard in range(3)}
    asked.clear()
    assert render(prompts, faulty, *FAST, "--retry-failed") == 0
    assert asked.prompts == {TEXTS[NAN]}, "Stage C again only where it failed"
    assert asked.seeds == {SEEDS[NAN], SEEDS[FLAT]}
    after = manifest_of(faulty).to_pylist()
    assert [i for i in range(6) if after[i] != before[i]] == [NAN, 3, FLAT]
    assert [row["attempts"] for row in after] == [1, 2, 1, 2, 2, 1]
    assert images.items() <= stored(faulty, paths.IMAGES).items()
    kept = {shard: read_embeddings(Storage(faulty), shard).to_pylist() for shard in range(3)}
    assert kept[0][0] == embedded[0][0]
    assert (kept[1][0], kept[2]) == (embedded[1][0], embedded[2])
    assert differences(contents(faulty), wanted) == []
    asked.clear()
    assert render(prompts, faulty, *FAST, "--retry-failed") == 0
    assert asked.prompts == asked.seeds == set(), "a null prompt is never rendered"
    assert manifest_of(faulty)["attempts"].to_pylist() == [1, 2, 1, 3, 2, 1]


def stored(out: str, prefix: str) -> dict[str, bytes]:
    storage = Storage(out)
    return {info.key: storage.read(info.key) for info in storage.list(prefix)}


def test_a_row_that_fails_again_stays_failed(faulty: str, prompts: Path) -> None:
    render_with_faults(prompts, faulty, "--retry-failed")
    assert codes(faulty) == [None, "nan_output", None, "null_prompt", "single_colour", None]
    assert manifest_of(faulty)["attempts"].to_pylist() == [1, 2, 1, 2, 2, 1]


@pytest.mark.parametrize("way", ["before it landed", "after it landed"])
@pytest.mark.parametrize("failure", ["the driver dies", "the store keeps failing", "one answer is lost"])
def test_any_failed_write_of_a_retry_is_healed(
    wanted: dict, prompts: Path, tmp_path: Path, way: Way, failure: Failure
) -> None:
    """Between its two replacements a shard's embedding is new and its manifest is old; that heals as well."""
    check_every_write(wanted, prompts, str(tmp_path / "runs"), way, failure)


@pytest.mark.parametrize("failure", ["the driver dies", "one answer is lost"])
def test_replacing_by_etag_heals_too(wanted: dict, prompts: Path, moto_root: str, failure: Failure) -> None:
    check_every_write(wanted, prompts, moto_root, "after it landed", failure)


def check_every_write(wanted: dict, prompts: Path, store: str, way: Way, failure: Failure) -> None:
    render_with_faults(prompts, f"{store}/0")
    writes = Writes()
    assert retry(prompts, f"{store}/0", writes) == 0
    for n, key in enumerate(writes.keys, 1):
        out = f"{store}/{n}"
        render_with_faults(prompts, out)
        code = retry(prompts, out, Writes(n, way, failure))
        assert code in {"the driver dies": (None,), "one answer is lost": (0,)}.get(failure, (0, 1)), key
        assert render(prompts, out, *FAST) == 0, key
        now = contents(out)
        assert now["table"] == [now["manifest"]], f"{key}: a plain render mends the analysts' table"
        assert render(prompts, out, *FAST, "--retry-failed") == 0, key
        assert differences(contents(out), wanted) == [], key


def retry(prompts: Path, out: str, writes: Writes) -> int | None:
    with failing_writes(writes):
        try:
            return render(prompts, out, *FAST, "--retry-failed")
        except Died:
            return None


def test_a_finished_run_counts_the_failed_rows_of_all_sittings(prompts: Path, store: str) -> None:
    render_with_faults(prompts, store)
    storage = Storage(store)
    last = paths.manifest_key(max(committed_shards(storage)))
    for key in (last, paths.OUTCOME):  # as if the driver had been killed before its last commit
        storage.delete(key)
    for _ in ("the last shard is rendered", "nothing is left to do"):
        assert render(prompts, store, *FAST) == 0
        failed = [code for code in codes(store) if code]
        assert json.loads(storage.read(paths.OUTCOME))["failed_rows"] == len(failed) > 0


def test_the_limit_of_failed_rows_counts_all_sittings(wanted: dict, prompts: Path, store: str) -> None:
    """Three rows fail, one in each shard; with two allowed the third shard is still rendered, with one not."""
    render_with_faults(prompts, store, "--max-failed-rows=1", code=3)
    assert codes(store) == [None, "nan_output", None, "null_prompt"]
    outcome = json.loads(Storage(store).read(paths.OUTCOME))
    assert (outcome["state"], outcome["failed_rows"], outcome["shards_undone"]) == ("too_many_failed", 2, 1)
    render_with_faults(prompts, store, "--max-failed-rows=1", code=3)
    assert len(codes(store)) == 4, "a later sitting spends nothing more"
    render_with_faults(prompts, store, "--max-failed-rows=2", code=3)
    assert len(codes(store)) == 6
    assert render(prompts, store, *FAST, "--max-failed-rows=3", "--retry-failed") == 0
    assert differences(contents(store), wanted) == []
