"""`make demo-regenerate`: the story of a collection, told with the tiny model; and sheets of editions."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from jobs.demo import contact_sheet, regenerate
from tests.patience import PATIENCE_S
from tests.run.runs import QUICK

PROJECT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(1200)  # a dozen processes, one after the other


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The story's folder, and what was printed; the script is started as `make` does."""
    folder = tmp_path_factory.mktemp("story") / "told"
    flags = [word for word in QUICK if not word.startswith(("--model", "--set=shards"))]
    command = [sys.executable, "jobs/demo/regenerate.py", str(folder), "--model=tiny", *flags]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_S,
        check=False,
        cwd=PROJECT,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_each_edition_costs_what_changed(told: tuple[Path, str]) -> None:
    _, said = told
    assert re.findall(r"^edition \d \(\w+\): 24 images, .* rendered, 0 failed$", said, re.MULTILINE) == [
        "edition 1 (monday): 24 images, 0 reused, 0 decoded, 24 rendered, 0 failed",
        "edition 2 (tuesday): 24 images, 21 reused, 0 decoded, 3 rendered, 0 failed",
        "edition 3 (wednesday): 24 images, 0 reused, 24 decoded, 0 rendered, 0 failed",
    ]
    assert "1 new, 2 changed, 1 withdrawn, 0 with other columns alone" in said
    assert "nothing to do: edition 2 (tuesday)" in said


def test_diff_time_travel_and_history_are_told(told: tuple[Path, str]) -> None:
    _, said = told
    assert "prompt: 'a red circle' > 'a blue circle'" in said
    assert "made with weights of stage_b: " in said
    assert re.search(r"^1 \[\{'prompt': 'a red circle', 'image_uri': 'runs/000001-", said, re.MULTILINE)
    assert re.search(r"^3 \[\{'prompt': 'a blue circle', 'image_uri': 'runs/000003-", said, re.MULTILINE)
    assert re.findall(r"^ +(\d)  .* (\w+)( \(swept\))?$", said, re.MULTILINE)[-3:] == [
        ("3", "wednesday", ""),
        ("2", "tuesday", ""),
        ("1", "monday", " (swept)"),
    ]


def test_gc_takes_what_the_last_two_editions_do_not_show(told: tuple[Path, str]) -> None:
    folder, said = told
    assert "nothing was changed. To do it:" in said
    assert "forgotten 3 known pictures" in said
    assert "no differences" in said
    runs = sorted((folder / "collection/runs").iterdir())
    assert [len(list(run.rglob("*.png"))) for run in runs] == [21, 3, 24]


def test_the_sheet_has_both_editions_side_by_side(told: tuple[Path, str]) -> None:
    with Image.open(told[0] / regenerate.SHEET) as sheet:
        assert (sheet.format, sheet.width) == ("PNG", contact_sheet.WIDTH)
        assert sheet.height > 8 * sheet.width / 6, "25 prompts by two editions, in six columns"


def test_a_sheet_of_the_newest_edition(told: tuple[Path, str], tmp_path: Path) -> None:
    collection, out = str(told[0] / "collection"), tmp_path / "sheet.png"
    rows = list(contact_sheet.editions_side_by_side(collection, []))
    assert [row["prompt"] for row in rows if row["prompt"].startswith("a large purple")] == [
        regenerate.NEW["prompt"]
    ]
    assert len(rows) == 24
    assert contact_sheet.main([collection, f"--out={out}"]) == 0
    assert out.exists()


def test_an_edition_that_is_not_there_has_no_sheet(
    told: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(told[0] / "collection"), "--edition=7", f"--out={tmp_path / 'sheet.png'}"]
    assert contact_sheet.main(command) == 1
    assert "no such edition" in capsys.readouterr().err


def test_a_story_is_told_once(told: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert regenerate.main([str(told[0])]) == 1
    assert "told in" in capsys.readouterr().err
