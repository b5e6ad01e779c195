"""Keys that are made without rendering are those that a run writes down, whatever conditions its rows."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cascade_batch.model.stages import PerPool
from cascade_batch.run.run import open_existing
from cascade_batch.run.stage_keys import KeyMaker
from cascade_batch.workers.keying import Keying, keyed_rows
from tests.run.runs import contents, differences, manifest_of, render, write_prompts
from tests.run.test_conditions import (  # noqa: F401 - fixtures
    BROKEN,
    as_structs,
    every_column,
    flags,
    model,
    picture,
    web,
    write_table,
)
from tests.run.test_stored_embeddings import ONLY_SOURCES, taken_from, without_stage_c

SIDE = 56
"""Of what the image encoder of these tests looks at."""


def keyed(out: str) -> pa.Table:
    """The images of a run, by its plan, as `keyed_rows` gives them."""
    run = open_existing(out)
    dtypes = PerPool("float32", "float32")
    keying = Keying(
        table=run.table,
        render=run.spec.render,
        seed=run.spec.seed,
        keys=KeyMaker(run.weights, dtypes, run.sampling, run.text),
        picture_side=SIDE,
        picture_pixels=run.spec.limits.picture_pixels,
    )
    return keyed_rows(keying, 0, 0, run.table.files[0].rows)


KEYS = ["stage_c_key", "stage_ba_key"]


def test_keys_of_texts_are_those_of_the_run(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "prompt": ["a red circle", None, "é 😀", ""],
        "num_images": [5, 2, 1, None],
        "decoder_guidance_scale": [None, 1.0, 2.0, 0.5],
    }
    prompts, out = write_prompts(tmp_path, 4, **columns), str(tmp_path / "run")
    assert render(prompts, out, "--set=shards.images=3", "--seed=7") == 0
    made, written = keyed(out), manifest_of(out)
    for name in ("image_id", "conditions", "error_code", "category", *KEYS):
        assert made[name].to_pylist() == written[name].to_pylist(), name
    assert made["stage_c_key"].null_count == 2


def test_keys_of_conditions_are_those_of_the_run_and_find_its_embeddings(
    tmp_path: Path,
    web: str,  # noqa: F811
    model: Path,  # noqa: F811
) -> None:
    rows, _ = every_column(tmp_path, web)
    rows += [{"id": "none", "prompt": None}, {"id": "gone", "prompt": "p", "init_image": "nowhere.png"}]
    prompts, source = write_table(tmp_path / "all.parquet", rows), str(tmp_path / "source")
    assert render(prompts, source, settings=flags(model)) == 0
    made, written = keyed(source), manifest_of(source)
    for name in ("image_id", "conditions", "error_code", *KEYS):
        assert made[name].to_pylist() == written[name].to_pylist(), name
    assert written["error_code"].to_pylist()[-2:] == ["null_prompt", "bad_image"]
    out, full = str(tmp_path / "run"), str(tmp_path / "full")
    other = [*flags(model), "--set=render.decoder_steps=3"]
    with without_stage_c():
        assert render(prompts, out, taken_from(source), settings=other) == 0
    assert render(prompts, full, settings=other) == 0
    assert differences(contents(out), contents(full)) == ONLY_SOURCES


def test_rows_that_cannot_be_used_have_no_key_either(tmp_path: Path, model: Path) -> None:  # noqa: F811
    picture(1).save(tmp_path / "there.png")
    told = (
        "no picture",
        "missing",
        "strength",
        "mask alone",
        "latents",
        "decoder",
    )  # before a network is asked
    rows = [{"id": name, "prompt": "p", **as_structs(BROKEN[name][0])} for name in told]
    prompts, out = write_table(tmp_path / "prompts.parquet", rows), str(tmp_path / "run")
    assert render(prompts, out, settings=flags(model)) == 0
    made, written = keyed(out), manifest_of(out)
    for name in ("error_code", *KEYS):
        assert made[name].to_pylist() == written[name].to_pylist(), name


def test_a_picture_that_is_lost_or_found_since_the_plan(tmp_path: Path, model: Path) -> None:  # noqa: F811
    """A row fails alone if its picture cannot be read, when the run is planned or when it is copied."""
    picture(1).save(tmp_path / "a.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
    rows = [{"id": name, "prompt": "p", "seed": 1, "init_image": f"{name}.png"} for name in "ab"]
    prompts, source = write_table(tmp_path / "prompts.parquet", rows), str(tmp_path / "source")
    assert render(prompts, source, settings=flags(model)) == 0
    (tmp_path / "a.png").rename(tmp_path / "away.png")
    out = str(tmp_path / "run")
    with without_stage_c(), pytest.MonkeyPatch.context() as patch:
        swap_before_copying(patch, tmp_path)
        assert render(prompts, out, taken_from(source), settings=flags(model)) == 0
    assert manifest_of(out)["error_code"].to_pylist() == ["bad_image", "bad_image"]
    assert "when this run was planned" in manifest_of(out)["error_message"].to_pylist()[0]
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    assert render(prompts, out, "--retry-failed", taken_from(source), settings=flags(model)) == 0
    assert manifest_of(out)["pixel_sha256"].to_pylist() == manifest_of(source)["pixel_sha256"].to_pylist()


def swap_before_copying(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Once the run is planned, its first picture is there again, and its second is not."""
    from cascade_batch.pipeline.runners import local

    copy = local.copy_embeddings

    def swapped(*arguments: Any, **named: Any) -> Any:
        (folder / "away.png").rename(folder / "a.png")
        (folder / "b.png").unlink()
        return copy(*arguments, **named)

    patch.setattr(local, "copy_embeddings", swapped)
