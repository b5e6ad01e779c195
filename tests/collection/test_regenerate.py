"""`regenerate`: what changed is rendered and nothing else, and the edition is what a new collection would have."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cascade_batch.cli import main
from cascade_batch.run.ids import image_id
from cascade_batch.weights import EMBEDDED
from tests.collection.conftest import TABLE
from tests.collection.regenerations import (
    FAST,
    by_prompt,
    check,
    hashes,
    history,
    newest,
    no_runner,
    regenerate,
    rows_of,
    runs_of,
    told,
    write_table,
)
from tests.run.remembered import Asked
from tests.run.runs import manifest_of, render
from tests.run.test_stored_embeddings import change, without_stage_c
from tests.whole_model import write_image_encoder

SECOND = {
    "id": [f"prompt {i}" for i in (0, 1, 2, 3, 4, 6)],
    "prompt": [
        *("a white circle", "a red circle, number 1", "a red circle, number 2"),
        *("a black circle", "a red circle, number 4", "a new circle"),
    ],
    "seed": [0, 1, 2, 3, 4, 6],
    "category": ["even", "odd", "even", "odd", "even", "even"],
}
"""`TABLE` with two prompts changed, one withdrawn and one new."""


def same_as_new(into: str, prompts: Path, folder: Path, *flags: str) -> None:
    """A collection of this table alone has the same rows and pictures, and so has a plain run."""
    assert regenerate(prompts, str(folder / "new"), *flags) in (0, 6)
    assert told(into) == told(str(folder / "new"))
    assert hashes(into) == hashes(str(folder / "new"))
    assert render(prompts, str(folder / "run"), *FAST, *flags) == 0
    made = {row["image_id"]: row["image_sha256"] for row in manifest_of(str(folder / "run")).to_pylist()}
    assert {row["image_id"]: row["image_sha256"] for row in rows_of(into)} == made


def test_three_editions(night: str, tmp_path: Path, asked: Asked) -> None:
    prompts = write_table(tmp_path, SECOND)
    first = hashes(night)
    assert regenerate(prompts, night) == 0
    assert asked.prompts == {"a white circle", "a black circle", "a new circle"}
    assert asked.seeds == {0, 3, 6}
    counts = newest(night).counts
    assert (counts.images, counts.reused, counts.rendered, counts.decoded) == (6, 3, 3, 0)
    assert (counts.new, counts.changed, counts.withdrawn, counts.failed) == (1, 2, 1, 0)
    rows, before = by_prompt(night), by_prompt(night, 1)
    assert [rows[f"prompt {i}"]["rendered_in"] for i in (0, 1, 2, 3, 4, 6)] == [2, 1, 1, 2, 1, 2]
    assert rows["prompt 1"] == before["prompt 1"]
    same_as_new(night, prompts, tmp_path)

    other = tmp_path / "model"
    copy_with_another_stage_b(other)
    flags = (f"--model={other}", "--set=render.decoder_steps=3")
    asked.clear()
    with without_stage_c():
        assert regenerate(prompts, night, *flags) == 0
    assert (asked.prompts, asked.seeds) == (set(), {0, 1, 2, 3, 4, 6})
    counts = newest(night).counts
    assert (counts.reused, counts.decoded, counts.rendered, counts.changed) == (0, 6, 0, 6)
    same_as_new(night, prompts, tmp_path / "other", *flags)
    assert [edition.number for edition in history(night)] == [3, 2, 1]
    assert hashes(night, 1) == first, "older editions stay as they were"
    check(night)


def copy_with_another_stage_b(folder: Path) -> None:
    for file in (EMBEDDED / "tiny").rglob("*"):
        if file.is_file():
            target = folder / file.relative_to(EMBEDDED / "tiny")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    change(folder / "decoder")


def test_the_columns_of_the_table_alone_make_an_edition_without_a_runner(night: str, tmp_path: Path) -> None:
    before = by_prompt(night)
    prompts = write_table(tmp_path, TABLE | {"category": ["other", *TABLE["category"][1:]]})
    with no_runner():
        assert regenerate(prompts, night) == 0
    assert by_prompt(night)["prompt 0"] == before["prompt 0"] | {"category": "other"}
    assert by_prompt(night, 1) == before
    counts = newest(night).counts
    assert (counts.reused, counts.carried, counts.changed, counts.new) == (6, 1, 0, 0)
    assert len(runs_of(night)) == 1


def test_nothing_changed_is_no_edition(
    night: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, lines = tmp_path / "prompts.parquet", []
    with no_runner():
        assert regenerate(prompts, night) == 0
        lines.append(capsys.readouterr().out)
        write_table(tmp_path, {name: values[::-1] for name, values in TABLE.items()})
        assert regenerate(prompts, night) == 0, "the same rows in another order"
        lines.append(capsys.readouterr().out)
    assert all("nothing to do: edition 1" in line for line in lines)
    assert len(history(night)) == 1


@pytest.mark.parametrize(
    "columns",
    [
        {"category": None},
        {"category": ["even", "odd"] * 3, "weight": [0.5] * 6},
        {"category": pa.array([0, 1] * 3, pa.int64())},
        {"category": [{"name": "even"}, {"name": "odd"}] * 3},
    ],
    ids=["withdrawn", "added", "retyped", "a struct"],
)
def test_columns_come_and_go(night: str, tmp_path: Path, columns: dict) -> None:
    table = {name: values for name, values in (TABLE | columns).items() if values is not None}
    prompts = write_table(tmp_path, table)
    with no_runner():
        assert regenerate(prompts, night) == 0
        assert regenerate(prompts, night) == 0
    assert len(history(night)) == 2
    assert regenerate(prompts, str(tmp_path / "new")) == 0
    assert told(night) == told(str(tmp_path / "new"))
    assert all(row["category"] == TABLE["category"][n] for n, row in enumerate(rows_of(night, 1)))


def test_ids_that_name_other_prompts_show_those(night: str, tmp_path: Path, asked: Asked) -> None:
    """Texts and seeds change places: what was rendered for one image is another's now."""
    prompts = write_table(tmp_path, TABLE | {"id": TABLE["id"][1:] + TABLE["id"][:1]})
    with no_runner():
        assert regenerate(prompts, night) == 0
    assert newest(night).counts.changed == 6
    assert newest(night).counts.reused == 6
    shown = {row["prompt"]: row["image_sha256"] for row in rows_of(night)}
    assert shown == {row["prompt"]: row["image_sha256"] for row in rows_of(night, 1)}
    assert by_prompt(night)["prompt 1"]["prompt"] == "a red circle, number 0"


def test_a_table_without_ids_counts_its_rows(tmp_path: Path, asked: Asked) -> None:
    into, texts = str(tmp_path / "collection"), ["a red circle", "a blue circle", "a green circle"]
    assert regenerate(write_table(tmp_path, {"prompt": texts}), into) == 0
    asked.clear()
    prompts = write_table(tmp_path, {"prompt": [*texts, "a pink circle"]})
    assert regenerate(prompts, into) == 0
    assert asked.prompts == {"a pink circle"}
    asked.clear()
    prompts = write_table(tmp_path, {"prompt": texts[:2]})
    assert regenerate(prompts, into) == 0
    assert asked.prompts == set()
    assert newest(into).counts.withdrawn == 2
    same_as_new(into, prompts, tmp_path)


def test_more_images_of_a_prompt_are_rendered_beside_the_first(
    night: str, tmp_path: Path, asked: Asked
) -> None:
    prompts = write_table(tmp_path, TABLE | {"num_images": [3, *[1] * 5]})
    assert regenerate(prompts, night) == 0
    counts = newest(night).counts
    assert (counts.images, counts.rendered, counts.new) == (8, 2, 2)
    assert asked.prompts == {"a red circle, number 0"}
    assert len(manifest_of(f"{night}/{newest(night).run}")) == 2
    same_as_new(night, prompts, tmp_path)
    check(night)


def test_rows_of_one_key_are_rendered_once(tmp_path: Path, asked: Asked) -> None:
    """The first two are one picture; the third shares only their embedding, and is decoded from it."""
    columns = {"id": ["a", "b", "c"], "prompt": ["a red circle"] * 3, "seed": [7] * 3, "category": [1, 2, 3]}
    prompts = write_table(tmp_path, columns | {"decoder_steps": [2, 2, 3]})
    into = str(tmp_path / "collection")
    assert regenerate(prompts, into) == 0
    rows, counts = by_prompt(into), newest(into).counts
    assert rows["a"]["image_uri"] == rows["b"]["image_uri"] != rows["c"]["image_uri"]
    assert rows["a"]["embedding_sha256"] == rows["c"]["embedding_sha256"]
    assert [rows[name]["category"] for name in "abc"] == [1, 2, 3]
    assert (counts.images, counts.rendered, counts.decoded, counts.reused) == (3, 2, 1, 0)
    seconds = [manifest_of(f"{into}/{run}")["stage_c_seconds"].to_pylist() for run in runs_of(into)]
    assert sum(second > 0 for run in seconds for second in run) == 1, "Stage C once"
    same_as_new(into, prompts, tmp_path)
    check(into)


def test_conditions_come_along(tmp_path: Path, asked: Asked) -> None:
    """Pictures by paths relative to the table, and noise of Stage B, which decides its key alone."""
    folder, into, model = tmp_path / "table", str(tmp_path / "collection"), tmp_path / "encoder"
    folder.mkdir()
    flag = f"--set=model.image_encoder={write_image_encoder(model)}"
    noise = np.random.default_rng(0).standard_normal((2, 4 * 64 * 64)).astype(np.float32).tolist()
    for name, colour in (("a", (200, 30, 30)), ("b", (30, 30, 200))):
        Image.new("RGB", (64, 64), colour).save(folder / f"{name}.png")
    columns: dict[str, Any] = {
        "id": ["a", "b", "c"],
        "prompt": ["a circle"] * 3,
        "image": [["a.png"], ["b.png", "a.png"], None],
        "decoder_latents": [None, *noise],
    }
    prompts = write_table(folder, columns)
    assert regenerate(prompts, into, flag) == 0
    assert regenerate(prompts, into, flag) == 0
    assert len(history(into)) == 1
    same_as_new(into, prompts, tmp_path, flag)
    write_table(folder, columns | {"decoder_latents": [None, noise[1], noise[1]]})
    with without_stage_c():
        assert regenerate(prompts, into, flag) == 0
    assert newest(into).counts.decoded == 1
    Image.new("RGB", (64, 64), (30, 200, 30)).save(folder / "b.png")
    assert regenerate(prompts, into, flag) == 0
    assert newest(into).counts.rendered == 1, "another picture under the same name"
    same_as_new(into, prompts, tmp_path / "again", flag)
    check(into)


def test_an_edition_of_a_name_is_made_once(night: str, tmp_path: Path, asked: Asked) -> None:
    prompts = write_table(tmp_path, SECOND)
    assert regenerate(prompts, night, "--edition=2026-05-01") == 0
    changed = write_table(tmp_path, SECOND | {"prompt": ["another"] * 6}, "changed")
    with no_runner():
        assert regenerate(changed, night, "--edition=2026-05-01") == 0
    assert [edition.name for edition in history(night)] == ["2026-05-01", None]
    assert regenerate(changed, night, "--edition=2026-05-02") == 0
    assert newest(night).counts.rendered == 6


def test_images_of_all_files_are_rendered_together(tmp_path: Path, asked: Asked) -> None:
    """One change in each of six files is a run of six rows in three full shards."""
    folder, into = tmp_path / "table", str(tmp_path / "collection")
    folder.mkdir()

    def write(word: str) -> None:
        for n in range(6):
            ids = [f"{n}-{i}" for i in range(3)]
            texts = [f"a {word} circle, {n}", f"a blue circle, {n}", f"a green circle, {n}"]
            pq.write_table(pa.table({"id": ids, "prompt": texts}), folder / f"{n}.parquet")

    write("red")
    assert regenerate(folder, into) == 0
    write("black")
    assert regenerate(folder, into) == 0
    run = f"{into}/{newest(into).run}"
    assert sorted(manifest_of(run)["shard"].to_pylist()) == [0, 0, 1, 1, 2, 2]
    assert set(manifest_of(run)["prompt_id"].to_pylist()) == {image_id(f"{n}-0", 0) for n in range(6)}
    check(into)


def test_a_collection_serves_embeddings(night: str, tmp_path: Path) -> None:
    out, full, flags = str(tmp_path / "run"), str(tmp_path / "full"), ("--set=render.decoder_steps=3",)
    prompts = tmp_path / "prompts.parquet"
    with without_stage_c():
        assert render(prompts, out, *FAST, *flags, f"--embeddings-from={night}") == 0
    assert render(prompts, full, *FAST, *flags) == 0
    assert manifest_of(out)["image_sha256"].to_pylist() == manifest_of(full)["image_sha256"].to_pylist()
    assert main(["verify", out]) == 0
