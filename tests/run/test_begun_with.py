"""What a run gives its images is settled when it is begun: neither later nor earlier programs change it."""

import json
import shutil
from pathlib import Path

import pytest

from cascade_batch.model.conditions import CONDITIONS
from cascade_batch.prompts.columns import COLUMNS
from tests.run.runs import manifest_of, render, write_prompts

TIMES = [1.0, 0.5, 0.25, 0.0]


def test_a_column_that_a_run_carries_is_no_condition_of_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, out = write_prompts(tmp_path, 4, decoder_timesteps=[TIMES] * 4), tmp_path / "run"
    with monkeypatch.context() as before:
        for table in (CONDITIONS, COLUMNS):
            before.delitem(table, "decoder_timesteps")
        assert render(prompts, str(out)) == 0
    begun = manifest_of(str(out))
    assert begun["decoder_timesteps"].to_pylist() == [TIMES] * 4
    for path in (out / "manifest", out / "images", out / "embeddings"):
        for entry in path.glob("shard-00000001*"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    assert render(prompts, str(out)) == 0
    again = manifest_of(str(out))
    same = ["image_id", "conditions", "pixel_sha256", "stage_ba_key", "decoder_timesteps"]
    assert again.select(same).equals(begun.select(same))
    assert again["conditions"].null_count == 4


def test_a_run_with_conditions_that_nobody_here_knows_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = write_prompts(tmp_path, 2), tmp_path / "run"
    assert render(prompts, str(out)) == 0
    record = json.loads((out / "run.json").read_text())
    record["table"]["conditions"] = ["warmth"]
    (out / "run.json").write_text(json.dumps(record))
    assert render(prompts, str(out)) == 2
    assert "warmth" in capsys.readouterr().err


def test_what_stage_b_cannot_use_gives_no_key_of_its_own(tmp_path: Path) -> None:
    prompts, out = write_prompts(tmp_path, 2, decoder_latents=[[0.0] * 7, None]), tmp_path / "run"
    assert render(prompts, str(out)) == 0
    bad, good = sorted(manifest_of(str(out)).to_pylist(), key=lambda row: row["status"])
    assert (bad["error_code"], bad["stage_ba_key"]) == ("bad_condition", None)
    assert bad["stage_c_key"]
    assert good["stage_ba_key"]
