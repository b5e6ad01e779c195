"""No row ends a run, whatever a library raises about it; and no broken worker or store fails rows."""

from pathlib import Path
from typing import Any

import pytest

from cascade_batch.engine.decoder import Decoder
from cascade_batch.engine.networks.text import TextEncoder
from cascade_batch.engine.prior import Prior
from cascade_batch.errors import StorageError
from cascade_batch.workers import committing, row_conditions
from tests.run.runs import contents, differences, manifest_of, render, write_prompts

TEXTS = [
    "a red circle",
    "a blue circle",
    "a cursed circle",
    "a green circle",
    "a black circle",
    "a pink circle",
]
CURSED = 2
BATCHES = ("--set=pools.c.batch=4", "--set=pools.ba.batch=4", "--set=shards.prompts=6")
FAULTS = [
    TypeError("unorderable"),
    KeyError(3),
    AssertionError(),
    RuntimeError("sizes differ"),
    RecursionError("deep"),
]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_prompts(tmp_path, 6, prompt=TEXTS, seed=list(range(6)))


def curse(patch: pytest.MonkeyPatch, owner: Any, name: str, is_cursed: Any, fault: Exception) -> None:
    """Have a method raise where its argument says so."""
    sound = getattr(owner, name)

    def cursed(self: Any, given: Any) -> Any:
        if is_cursed(given):
            raise fault
        return sound(self, given)

    patch.setattr(owner, name, cursed)


def cursed_prior(patch: pytest.MonkeyPatch, fault: Exception) -> None:
    curse(patch, Prior, "render", lambda batch: TEXTS[CURSED] in batch.prompts, fault)


def cursed_decoder(patch: pytest.MonkeyPatch, fault: Exception) -> None:
    curse(patch, Decoder, "render", lambda batch: CURSED in batch.seeds, fault)


def cursed_tokenizer(patch: pytest.MonkeyPatch, fault: Exception) -> None:
    curse(patch, TextEncoder, "windows", lambda text: text == TEXTS[CURSED], fault)


@pytest.mark.parametrize("where", [cursed_prior, cursed_decoder, cursed_tokenizer])
def test_what_a_library_raises_fails_its_row_alone(tmp_path: Path, prompts: Path, where: Any) -> None:
    sound, out = str(tmp_path / "sound"), str(tmp_path / "run")
    assert render(prompts, sound, *BATCHES) == 0
    for fault in FAULTS[: 2 if where is not cursed_prior else None]:
        with pytest.MonkeyPatch.context() as patch:
            where(patch, fault)
            assert render(prompts, f"{out} {type(fault).__name__}", *BATCHES) == 0
        rows = manifest_of(f"{out} {type(fault).__name__}").to_pylist()
        expected = manifest_of(sound).to_pylist()
        assert [row["error_code"] for row in rows] == [None, None, "bad_condition", None, None, None]
        assert type(fault).__name__ in rows[CURSED]["error_message"]
        for row, other in zip(rows, expected, strict=True):
            if row["error_code"] is None:
                assert row["image_sha256"] == other["image_sha256"]
    last = f"{out} {type(fault).__name__}"
    assert render(prompts, last, "--retry-failed", *BATCHES) == 0
    assert differences(contents(last), contents(sound)) == []


@pytest.mark.parametrize("owner", [Prior, Decoder])
@pytest.mark.parametrize(
    "fault", [RuntimeError("no kernel"), RuntimeError("CUDA error: lost"), ImportError("gone")]
)
def test_a_worker_that_renders_nothing_fails_no_row(
    tmp_path: Path, prompts: Path, owner: Any, fault: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        curse(patch, owner, "render", lambda batch: True, fault)
        assert render(prompts, out, *BATCHES) == 1
    assert str(fault) in capsys.readouterr().out
    assert render(prompts, out, *BATCHES) == 0
    assert manifest_of(out)["status"].to_pylist() == ["ok"] * 6


def test_memory_that_a_row_needs_is_its_own_failure(tmp_path: Path, prompts: Path) -> None:
    """On a CPU, too, the batch is halved down to the row."""
    full = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
    )
    for fault in (full, MemoryError()):
        out = str(tmp_path / type(fault).__name__)
        with pytest.MonkeyPatch.context() as patch:
            cursed_prior(patch, fault)
            assert render(prompts, out, *BATCHES) == 0
        codes = manifest_of(out)["error_code"].to_pylist()
        assert codes == [None, None, "out_of_memory", None, None, None]


def with_sizes(fault: Exception) -> Any:
    """A column of Stage C whose reading raises for one row."""

    def read(name: str, value: Any, *how: Any) -> Any:
        if value[0] == CURSED:
            raise fault
        return sound(name, value, *how)

    sound = row_conditions.times
    return read


@pytest.mark.parametrize("column", ["prior_timesteps", "decoder_timesteps"])
def test_what_reading_raises_fails_its_row_alone(tmp_path: Path, column: str) -> None:
    times = [[float(CURSED) if row == CURSED else 1.0, 0.5] for row in range(6)]
    prompts = write_prompts(tmp_path, 6, **{column: times})
    for fault in (ZeroDivisionError("by 0"), MemoryError("\udcff")):  # what no text can hold, too
        out = str(tmp_path / type(fault).__name__)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(row_conditions, "times", with_sizes(fault))
            assert render(prompts, out, *BATCHES) == 0
        codes = manifest_of(out)["error_code"].to_pylist()
        assert codes == [None, None, "bad_condition", None, None, None]


def test_a_store_that_fails_while_a_row_is_read_fails_no_row(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 6, prior_timesteps=[[1.0, 0.5]] * 6)
    out = str(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            row_conditions, "times", lambda *_: (_ for _ in ()).throw(StorageError("the store is down"))
        )
        assert render(prompts, out, *BATCHES) == 1
    assert render(prompts, out, *BATCHES) == 0
    assert manifest_of(out)["status"].to_pylist() == ["ok"] * 6


def test_what_a_step_raises_about_no_row_leaves_its_shard_undone(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sound = str(tmp_path / "run"), committing.commit_image

    def commit(storage: Any, shard: int, *rest: Any) -> Any:
        if shard == 1:
            raise MemoryError("no room for a PNG")
        return sound(storage, shard, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(committing, "commit_image", commit)
        assert render(prompts, out) == 1
    assert "no room for a PNG" in capsys.readouterr().out
    assert manifest_of(out)["prompt_id"].to_pylist() == ["prompt 0", "prompt 1", "prompt 4", "prompt 5"]
    assert render(prompts, out) == 0
    assert manifest_of(out)["status"].to_pylist() == ["ok"] * 6
