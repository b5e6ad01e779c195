"""Long and weighted prompts of a run: what the spec says reaches pictures, keys and manifests."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.run.runs import manifest_of, render, write_prompts

LONG = "a red circle and a blue square, " * 20 + "on a white ground"
WINDOWS = "--set=text.long_prompts=windows"
WEIGHTING = "--set=text.weighting=true"
ONE_SHARD = "--set=shards.prompts=8"


def rows_of(folder: Path, name: str, *flags: str, **columns: list) -> dict[str, dict]:
    """Manifest rows of one run by prompt id."""
    prompts = write_prompts(folder, len(columns["id"]), category=[""] * len(columns["id"]), **columns)
    assert render(prompts, str(folder / name), ONE_SHARD, *flags) == 0
    return {row["prompt_id"]: row for row in manifest_of(str(folder / name)).to_pylist()}


def test_long_prompts_in_both_ways(tmp_path: Path) -> None:
    table = {"id": ["long", "short"], "prompt": [LONG, "a red circle"]}
    cut, whole = rows_of(tmp_path, "cut", **table), rows_of(tmp_path, "whole", WINDOWS, **table)
    assert [cut[name]["prompt_truncated"] for name in ("long", "short")] == [True, False]
    assert [whole[name]["prompt_truncated"] for name in ("long", "short")] == [False, False]
    assert cut["long"]["prompt_tokens"] == whole["long"]["prompt_tokens"] > 77
    assert cut["long"]["embedding_sha256"] != whole["long"]["embedding_sha256"]
    # Pictures of short texts are the same, though their keys say how texts were read.
    assert cut["short"]["pixel_sha256"] == whole["short"]["pixel_sha256"]
    assert cut["short"]["stage_c_key"] != whole["short"]["stage_c_key"]


def test_an_image_among_others_is_the_image_alone(tmp_path: Path) -> None:
    """Neighbours with more windows, fewer, weights or no prompt change nothing."""
    table = {
        "id": ["long", "short", "weighted", "negative", "none", "longer"],
        "prompt": [LONG, "a red circle", "a (red:1.4) circle", "a red circle", None, f"{LONG}, {LONG}"],
        "negative_prompt": ["", "", "(blue) square", LONG, "", "[red]"],
        "seed": [7] * 6,
    }
    among = rows_of(tmp_path, "among", WINDOWS, WEIGHTING, **table)
    assert among["none"]["error_code"] == "null_prompt"
    for number, name in enumerate(table["id"]):
        one = {key: values[number : number + 1] for key, values in table.items()}
        if name != "none":
            alone = rows_of(tmp_path, name, WINDOWS, WEIGHTING, **one)[name]
            assert alone["embedding_sha256"] == among[name]["embedding_sha256"], name
            assert alone["pixel_sha256"] == among[name]["pixel_sha256"], name
    assert len({row["embedding_sha256"] for row in among.values()}) == 6


def test_weights_are_text_unless_asked_otherwise(tmp_path: Path) -> None:
    table = {"id": ["plain", "weighted"], "prompt": ["a red circle", "a (red:1.4) circle"], "seed": [7, 7]}
    as_text, as_weight = rows_of(tmp_path, "text", **table), rows_of(tmp_path, "weight", WEIGHTING, **table)
    assert as_text["weighted"]["prompt_tokens"] > as_text["plain"]["prompt_tokens"]
    assert as_weight["weighted"]["prompt_tokens"] == as_weight["plain"]["prompt_tokens"]
    assert as_weight["plain"]["embedding_sha256"] == as_text["plain"]["embedding_sha256"]
    assert as_weight["weighted"]["embedding_sha256"] != as_weight["plain"]["embedding_sha256"]


def test_how_texts_are_read_is_held_on_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts, out = write_prompts(tmp_path, 4), tmp_path / "run"
    assert render(prompts, str(out), WINDOWS) == 0
    assert json.loads((out / "run.json").read_text())["spec"]["text"]["long_prompts"] == "windows"
    next((out / "manifest").glob("*.parquet")).unlink()
    assert render(prompts, str(out)) == 2
    assert "text.long_prompts" in capsys.readouterr().err
    assert render(prompts, str(out), WINDOWS) == 0


def test_weights_are_no_words_to_a_small_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"prompt": ["a (red:1.3) circle"]}), tmp_path / "p.parquet")
    sizes = ["--model=mini", "--width=256", "--height=256", "--set=render.prior_steps=1"]
    assert render(tmp_path / "p.parquet", str(tmp_path / "text"), settings=sizes) == 0
    assert "only knows" in capsys.readouterr().err
    assert render(tmp_path / "p.parquet", str(tmp_path / "weights"), WEIGHTING, settings=sizes) == 0
    assert "only knows" not in capsys.readouterr().err
