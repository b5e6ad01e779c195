"""A run is rendered and scored by one command; right pictures in it score 100 %, its failed rows none."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cascade_batch.errors import PromptTableError, StorageError
from jobs.evaluate.__main__ import main
from jobs.evaluate.prompts import PROMPTS, make_prompts
from jobs.evaluate.score import DETAILS, as_text, score
from jobs.evaluate.validate import drawn

IDS = ("counting/000", "counting/001", "position/000", "single-object/000")
FLAGS = ["--model=tiny", "--runner=local", "--images=2"]
SETTINGS = ("render.width=256", "render.height=256", "render.prior_steps=1", "render.decoder_steps=1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four prompts with two pictures each, and its details."""
    folder = tmp_path_factory.mktemp("evaluated")
    table = pq.read_table(PROMPTS)
    pq.write_table(table.filter(pc.field("id").isin(IDS)), folder / "prompts.parquet")
    settings = [flag for setting in SETTINGS for flag in ("--set", setting)]
    given = ["--prompts", str(folder / "prompts.parquet"), "--details", str(folder / "details.parquet")]
    assert main(["--out", str(folder / "run"), *given, *FLAGS, *settings]) == 0
    return folder / "run"


def test_one_command_renders_and_scores(run: Path) -> None:
    details = pq.read_table(run.parent / "details.parquet")
    assert details.schema.equals(DETAILS)
    assert details.num_rows == 2 * len(IDS)
    scores = json.loads((run / "scores.json").read_text())
    assert [(name, task["pictures"]) for name, task in scores["tasks"].items()] == [
        ("single object", 2),
        ("counting", 4),
        ("position", 2),
    ]
    assert scores["overall"] == 0  # the tiny model knows no shapes


def test_right_pictures_score(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = {prompt.id: prompt.scene for prompt in make_prompts()}
    rows = pq.read_table(run / "table").to_pylist()
    for row in rows[:-1]:
        Image.fromarray(drawn(scenes[row["prompt_id"]])).save(run / row["image_uri"])
    assert main([str(run)]) == 0
    scores = json.loads((run / "scores.json").read_text())
    assert [task["right"] for task in scores["tasks"].values()] == [1, 1, 0.5]
    assert scores["tasks"]["counting"]["held_out"] == {"pictures": 2, "right": 1}
    assert scores["overall"] == pytest.approx(2.5 / 3)
    assert "counting                  4    100.0        2    100.0" in capsys.readouterr().out


def test_a_failed_row_is_a_wrong_picture(run: Path, tmp_path: Path) -> None:
    table = pq.read_table(run / "table")
    for name, values in (("status", "failed"), ("error_code", "nan_output"), ("image_uri", None)):
        column = pa.array([values] * len(table), pa.string())
        table = table.set_column(table.column_names.index(name), name, column)
    (tmp_path / "table").mkdir()
    pq.write_table(table, tmp_path / "table/part-00000.parquet")
    scores, details = score(str(tmp_path))
    assert scores["overall"] == 0
    assert scores["tasks"]["position"]["wrong"] == {"nan_output": 2}
    assert details["right"].to_pylist() == [False] * 8
    assert "nan_output 4" in as_text(scores)


def test_what_cannot_be_scored_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no table of its images yet"):
        score(str(tmp_path))
    (tmp_path / "table").mkdir()
    pq.write_table(pq.read_table(run / "table").drop(["expects"]), tmp_path / "table/part-00000.parquet")
    with pytest.raises(PromptTableError, match="expects"):
        score(str(tmp_path))


def test_a_render_that_failed_is_not_scored(tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path / "run"), "--model", "no such model", *FLAGS[1:]]) == 2
    assert not (tmp_path / "run/scores.json").exists()
