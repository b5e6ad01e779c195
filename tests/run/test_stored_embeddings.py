"""`render --embeddings-from`: stored embeddings of equal keys, decoded without Stage C, into ordinary runs."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_batch.cli import main
from cascade_batch.cli.showing import PlainObserver
from cascade_batch.pipeline import sitting
from cascade_batch.pipeline.runners.local import LocalRunner
from cascade_batch.run import paths
from cascade_batch.run.run import open_existing
from cascade_batch.run.sources import shards_with_sources
from cascade_batch.run.stored import RunEmbeddings
from cascade_batch.settings import load_spec
from cascade_batch.storage import Storage
from cascade_batch.weights import EMBEDDED
from cascade_batch.workers.stage_c import StageCWorker
from tests.run.failing import Died, Writes, failing_writes
from tests.run.remembered import Asked, remember
from tests.run.runs import QUICK, contents, differences, manifest_of, render, write_prompts
from tests.run.test_retry_failed import FLAT, NAN, SEEDS, TEXTS, break_networks

FAST = ("--set=pools.c.batch=2", "--set=pools.ba.batch=2")
OTHER = ("--set=render.decoder_steps=3", "--set=render.decoder_guidance_scale=1.5", "--set=shards.prompts=3")
ONLY_SOURCES = [f"{paths.SOURCES}: extra"]


@contextmanager
def without_stage_c() -> Iterator[None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("Stage C is loaded")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageCWorker, "__init__", refuse)
        yield


def taken_from(source: str) -> str:
    return f"--embeddings-from={source}"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return remember(monkeypatch)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Five prompts, one of them null and one of three images."""
    texts = ["a red circle", None, "a blue circle", "a green circle", "a black circle"]
    return write_prompts(tmp_path, 5, prompt=texts, num_images=[1, 1, 3, 1, 1])


@pytest.fixture
def source(prompts: Path, store: str) -> str:
    out = f"{store}/source"
    assert render(prompts, out, *FAST) == 0
    return out


def test_other_decoder_settings_give_a_full_rendering_without_stage_c(
    prompts: Path, source: str, store: str
) -> None:
    out, full = f"{store}/run", f"{store}/full"
    with without_stage_c():
        assert render(prompts, out, *FAST, *OTHER, taken_from(source)) == 0
        assert render(prompts, out, *FAST, *OTHER, taken_from(source)) == 0
    assert render(prompts, full, *FAST, *OTHER) == 0
    assert differences(contents(out), contents(full)) == ONLY_SOURCES
    assert main(["verify", out]) == 0
    made = manifest_of(out)
    assert set(made["stage_c_seconds"].to_pylist()) == {0.0}
    assert manifest_of(source)["pixel_sha256"].to_pylist() != made["pixel_sha256"].to_pylist()


def test_another_stage_b_decodes_what_stage_c_left_though_its_weights_cannot_be_loaded(
    prompts: Path, tmp_path: Path
) -> None:
    source, model = str(tmp_path / "source"), tmp_path / "model"
    assert render(prompts, source, *FAST) == 0
    shutil.copytree(EMBEDDED / "tiny", model)
    change(model / "decoder")
    full = str(tmp_path / "full")
    assert render(prompts, full, *FAST, f"--model={model}") == 0
    with without_stage_c():
        out = str(tmp_path / "run")
        assert render(prompts, out, *FAST, f"--model={model}", taken_from(source)) == 0
    assert differences(contents(out), contents(full)) == ONLY_SOURCES
    assert manifest_of(out)["stage_c_key"].to_pylist() == manifest_of(source)["stage_c_key"].to_pylist()
    assert manifest_of(out)["pixel_sha256"].to_pylist() != manifest_of(source)["pixel_sha256"].to_pylist()


def change(part: Path) -> None:
    """Other weights, that changed together with their checksums."""
    file = next(part.glob("*.safetensors"))
    (part / "SHA256SUMS").unlink(missing_ok=True)
    data = bytearray(file.read_bytes())
    data[-2] ^= 0x40
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--seed=3", "seed is"),
        ("--set=render.prior_steps=3", "steps is 2 there, 3 here"),
        ("--set=render.negative_prompt=grey", "negative_prompt is '' there, 'grey' here"),
        ("--set=sampler.c.shift=2", "sampler is"),
        ("--dtype=bfloat16", "dtype is 'float32' there, 'bfloat16' here"),
    ],
)
def test_embeddings_of_other_keys_are_refused_and_nothing_is_written(
    flag: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, source = write_prompts(tmp_path, 3), str(tmp_path / "source")
    assert render(prompts, source, *FAST) == 0
    assert render(prompts, str(tmp_path / "run"), *FAST, flag, taken_from(source)) == 2
    said = capsys.readouterr().err
    assert "embeddings that the table asks for are not stored" in said
    assert f"prompts.embeddings_from={source}" in said
    assert told in said
    assert "3 images without one" in said
    assert Storage(str(tmp_path / "run")).list() == []


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"prompt": ["a red circle, number 0", "a pink star"]}, "prompt is 'a green circle, number 1' there"),
        ({"id": ["x", "y"], "prompt": ["p", "q"]}, "no image there has the id or the text of 'x'"),
        ({"id": ["x", "y"]}, "image of 'prompt 0': seed is"),
        ({"sca": [0.5, None]}, "conditions is {} there, {'sca': 0.5} here"),
    ],
)
def test_rows_that_ask_for_something_else_are_named(
    columns: dict[str, list], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, source = write_prompts(tmp_path, 3), str(tmp_path / "source")
    assert render(prompts, source, *FAST) == 0
    others = write_prompts(tmp_path, 2, **columns)
    assert render(others, str(tmp_path / "run"), *FAST, taken_from(source)) == 2
    assert told in capsys.readouterr().err


def test_other_weights_of_stage_c_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, source, model = write_prompts(tmp_path, 2), str(tmp_path / "source"), tmp_path / "model"
    assert render(prompts, source, *FAST) == 0
    shutil.copytree(EMBEDDED / "tiny", model)
    change(model / "prior")
    assert render(prompts, str(tmp_path / "run"), *FAST, f"--model={model}", taken_from(source)) == 2
    assert "weights of stage_c is" in capsys.readouterr().err


def test_a_place_without_a_run_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path, 2)
    assert render(prompts, str(tmp_path / "run"), taken_from(str(tmp_path))) == 2
    said = capsys.readouterr().err
    assert "there are no embeddings to take" in said
    assert prompts.name in said
    assert Storage(str(tmp_path / "run")).list() == []


def test_a_resume_must_not_take_embeddings_from_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = write_prompts(tmp_path, 2), str(tmp_path / "run")
    assert render(prompts, out) == 0
    assert render(prompts, out, taken_from(out)) == 2
    assert "prompts.embeddings_from: the run has None" in capsys.readouterr().err


def test_noise_of_stage_b_alone_may_be_another(tmp_path: Path) -> None:
    plain, source, out = write_prompts(tmp_path, 2), str(tmp_path / "source"), str(tmp_path / "run")
    assert render(plain, source, *FAST) == 0
    noise = np.random.default_rng(1).standard_normal((2, 4 * 64 * 64), np.float32)
    other = write_prompts(tmp_path, 2, decoder_latents=[row.tolist() for row in noise])
    with without_stage_c():
        assert render(other, out, *FAST, taken_from(source)) == 0
    assert render(other, str(tmp_path / "full"), *FAST) == 0
    assert differences(contents(out), contents(str(tmp_path / "full"))) == ONLY_SOURCES


def test_a_shard_of_null_prompts_alone_needs_no_source(asked: Asked, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 4, prompt=["a red circle", "a star", None, None])
    source, out, full = (str(tmp_path / name) for name in ("source", "run", "full"))
    assert render(prompts, source, *FAST, "--limit=2") == 0
    assert render(prompts, full, *FAST) == 0
    assert render(prompts, out, *FAST, taken_from(source)) == 0
    assert differences(contents(out), contents(full)) == ONLY_SOURCES
    assert main(["verify", out]) == 0


def test_a_driver_that_dies_at_any_write_is_gone_on_from(asked: Asked, prompts: Path, tmp_path: Path) -> None:
    source, wanted = str(tmp_path / "source"), str(tmp_path / "wanted")
    assert render(prompts, source, *FAST) == 0
    flags = (*FAST, *OTHER, taken_from(source))
    with failing_writes(Writes()) as counted:
        assert render(prompts, wanted, *flags) == 0
    keys = [key for key in counted.keys if key != paths.DRIVER]
    assert keys[:3] == [paths.RUN, paths.SOURCES, paths.PLAN]
    asked.clear()
    for n, key in enumerate(counted.keys, 1):
        out = str(tmp_path / f"run-{n}")
        with (
            failing_writes(Writes(n, "after it landed" if n % 2 else "before it landed")),
            pytest.raises(Died),
        ):
            render(prompts, out, *flags)
        assert render(prompts, out, *flags) == 0, key
        assert differences(contents(out), contents(wanted)) == [], key
        assert Storage(out).read(paths.SOURCES) == Storage(wanted).read(paths.SOURCES)
    assert asked.prompts == set()


def begun(prompts: Path, source: str, out: str, until: str = paths.WEIGHTS) -> None:
    """A run whose driver died when it had written an object, by default before any of its shards."""
    flags = (*FAST, *OTHER, taken_from(source))
    with failing_writes(Writes()) as counted:
        assert render(prompts, f"{out}-counted", *flags) == 0
    number = next(n for n, key in enumerate(counted.keys, 1) if key.startswith(until))
    with failing_writes(Writes(number, "after it landed")), pytest.raises(Died):
        render(prompts, out, *flags)


def test_a_source_that_is_deleted_stops_the_run_only_before_it_is_copied(
    asked: Asked, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out, done = (str(tmp_path / name) for name in ("source", "run", "done"))
    assert render(prompts, source, *FAST) == 0
    assert render(prompts, done, *FAST, *OTHER, taken_from(source)) == 0
    begun(prompts, source, out)
    kept = shutil.move(source, tmp_path / "kept")
    assert render(prompts, done, *FAST, *OTHER, taken_from(source)) == 0
    assert main(["verify", done]) == 0
    assert render(prompts, out, *FAST, *OTHER, taken_from(source)) == 1
    said = capsys.readouterr().out
    assert "embeddings that this run was to take from elsewhere are gone" in said
    assert f"{source}/embeddings/shard-00000000.parquet" in said
    shutil.move(kept, source)
    assert render(prompts, out, *FAST, *OTHER, taken_from(source)) == 0
    assert differences(contents(out), contents(done)) == []


def test_an_embedding_that_is_no_longer_what_was_found_is_refused(
    asked: Asked, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = str(tmp_path / "source"), str(tmp_path / "run")
    assert render(prompts, source, *FAST) == 0
    begun(prompts, source, out)
    for path in sorted((tmp_path / "source/embeddings").iterdir()):
        table = pq.read_table(path)
        pq.write_table(table.take(list(reversed(range(table.num_rows)))), path)
    assert render(prompts, out, *FAST, *OTHER, taken_from(source)) == 1
    assert "is not the one that was found" in capsys.readouterr().out
    assert Storage(out).list(paths.EMBEDDINGS) == []


def test_sources_that_are_lost_or_damaged_are_made_again_the_same(
    asked: Asked, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = str(tmp_path / "source"), str(tmp_path / "run")
    assert render(prompts, source, *FAST) == 0
    begun(prompts, source, out, paths.MANIFEST)
    file = tmp_path / "run" / paths.SOURCES
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert render(prompts, out, *FAST, *OTHER, taken_from(source)) == 1
    assert f"delete {paths.SOURCES}" in capsys.readouterr().err
    file.unlink()
    assert render(prompts, out, *FAST, *OTHER, taken_from(source)) == 0
    assert file.read_bytes() == whole


def test_rows_that_fail_in_stage_b_are_tried_again_from_their_copies(asked: Asked, tmp_path: Path) -> None:
    """A source's row that failed after Stage C is as good as any; one that failed in Stage C has nothing to take."""
    prompts = write_prompts(tmp_path, 6, prompt=TEXTS, seed=SEEDS)
    source, out, full = (str(tmp_path / name) for name in ("source", "run", "full"))
    with pytest.MonkeyPatch.context() as patch:
        break_networks(patch)
        assert render(prompts, source, *FAST) == 0
        assert render(prompts, out, *FAST, *OTHER, taken_from(source)) == 2
    assert render(prompts, source, *FAST, "--retry-failed") == 0
    asked.clear()
    with pytest.MonkeyPatch.context() as patch:
        break_networks(patch)
        assert render(prompts, out, *FAST, *OTHER, taken_from(source)) == 0
    assert manifest_of(out)["error_code"].to_pylist() == [
        None,
        None,
        None,
        "null_prompt",
        "single_colour",
        None,
    ]
    assert render(prompts, out, *FAST, *OTHER, "--retry-failed", taken_from(source)) == 0
    assert asked.prompts == set()
    assert render(prompts, full, *FAST, *OTHER) == 0
    assert differences(contents(out), contents(full)) == ONLY_SOURCES
    assert manifest_of(out)["attempts"].to_pylist() == [1, 1, 1, 2, 2, 1]


def test_what_failed_in_stage_c_is_told(
    asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path, 6, prompt=TEXTS, seed=SEEDS)
    source = str(tmp_path / "source")
    with pytest.MonkeyPatch.context() as patch:
        break_networks(patch)
        assert render(prompts, source, *FAST) == 0
    assert render(prompts, str(tmp_path / "run"), *FAST, taken_from(source)) == 2
    said = capsys.readouterr().err
    assert "1 images without one" in said
    assert f"'prompt {NAN}': it failed there with nan_output" in said
    assert manifest_of(source)["status"].to_pylist()[FLAT] == "failed"


STORED = Path(__file__).parent / "format_2"


def test_embeddings_of_a_run_of_format_2_are_taken(tmp_path: Path) -> None:
    """Those that today's numerics made: the shard that was left to do."""
    source, out, full = (str(tmp_path / name) for name in ("format_2/run", "run", "full"))
    shutil.copytree(STORED, tmp_path / "format_2")
    assert render(tmp_path / "format_2/prompts.parquet", source) == 0
    rest = tmp_path / "rest.parquet"
    pq.write_table(pq.read_table(STORED / "prompts.parquet").slice(2), rest)
    flags = ("--set=render.decoder_steps=3",)
    with without_stage_c():
        assert render(rest, out, *flags, taken_from(source)) == 0
    assert render(rest, full, *flags) == 0
    assert differences(contents(out), contents(full)) == ONLY_SOURCES
    assert main(["verify", out]) == 0


def test_embeddings_of_a_run_of_several_sizes_are_taken_by_one_of_one_size_and_back(
    asked: Asked, tmp_path: Path
) -> None:
    several = write_prompts(tmp_path, 4, width=[256, 256, 384, 384])
    source, out, back = (str(tmp_path / name) for name in ("source", "run", "back"))
    assert render(several, source, *FAST) == 0
    assert render(several, out, *FAST, "--limit=2", taken_from(source)) == 0
    assert pa.types.is_fixed_size_list(open_existing(out).embeddings_schema.field("embedding").type)
    assert render(several, f"{out}-full", *FAST, "--limit=2") == 0
    assert differences(contents(out), contents(f"{out}-full")) == ONLY_SOURCES
    assert render_partly(several, back, out) == 0
    assert differences(contents(back), contents(source)) == ONLY_SOURCES


class PartOf(RunEmbeddings):
    """As a collection has them: what is not known is rendered."""

    complete = False


def render_partly(prompts: Path, out: str, source: str, *flags: str, runner: Any = LocalRunner) -> int:
    places = {"prompts.uri": str(prompts), "output.uri": out, "prompts.embeddings_from": source}
    sets = [flag.removeprefix("--set=") for flag in (*QUICK, *FAST, *flags) if flag.startswith("--set=")]
    spec = load_spec("", sets, places | {"model.name": "tiny", "render.width": 256, "render.height": 256})
    stored = PartOf(open_existing(source))
    return 0 if sitting.render(spec, runner, PlainObserver(), stored=stored).state == "finished" else 1


def test_shards_that_are_stored_in_part_are_rendered_and_those_that_are_go_first(
    asked: Asked, tmp_path: Path
) -> None:
    prompts = write_prompts(tmp_path, 6)
    some = tmp_path / "some.parquet"
    pq.write_table(pq.read_table(prompts).slice(3), some)  # of shards 0 to 2, half of 1 and all of 2
    source, out, full = (str(tmp_path / name) for name in ("source", "run", "full"))
    assert render(some, source, *FAST) == 0
    assert render(prompts, full, *FAST) == 0
    asked.clear()
    assert render_partly(prompts, out, source) == 0
    assert shards_with_sources(Storage(out)) == {2}
    assert asked.prompts == {
        f"a {colour} circle, number {n}" for n, colour in enumerate(("red", "green", "blue", "yellow"))
    }
    created = manifest_of(out).sort_by("created_at")["shard"].to_pylist()
    assert created == [2, 2, 0, 0, 1, 1]
    assert differences(contents(out), contents(full)) == ONLY_SOURCES


def test_a_run_of_which_nothing_is_stored_is_rendered(asked: Asked, tmp_path: Path) -> None:
    prompts, source, out = write_prompts(tmp_path, 2), str(tmp_path / "source"), str(tmp_path / "run")
    assert render(prompts, source, *FAST) == 0
    assert render_partly(prompts, out, source, "--set=seed=4") == 0
    assert shards_with_sources(Storage(out)) == set()
