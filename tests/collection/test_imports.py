"""An unchanged table starts neither Ray nor torch, and neither does planning a changed one, nor a carried column."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_batch.cli import main
from tests.patience import PATIENCE_S
from tests.run.runs import QUICK, write_prompts

PROGRAM = """\
import sys
from cascade_batch.cli import main
code = main(sys.argv[1:])
print("heavy", [name for name in ("torch", "ray", "transformers") if name in sys.modules])
sys.exit(code)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of one edition, and its table with one prompt changed and a carried column changed."""
    folder = tmp_path_factory.mktemp("settled")
    prompts = write_prompts(folder, 3)
    into = str(folder / "collection")
    assert main(["regenerate", str(prompts), "--into", into, "--runner=local", *QUICK]) == 0
    rows = pq.read_table(prompts).to_pylist()
    rows[0]["prompt"] = "a golden star"
    pq.write_table(pa.Table.from_pylist(rows), folder / "changed.parquet")
    rows = pq.read_table(prompts).to_pylist()
    rows[1]["category"] = "another"
    pq.write_table(pa.Table.from_pylist(rows), folder / "carried.parquet")
    return folder


def run(folder: Path, command: str, prompts: str) -> str:
    """What a command says, by Ray if it needs workers, in a process that has imported nothing yet."""
    words = [command, str(folder / prompts), "--into", str(folder / "collection"), *QUICK]
    started = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(started, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    assert "heavy []" in done.stdout
    return done.stdout


def test_regenerating_an_unchanged_table(folder: Path) -> None:
    assert "nothing to do: edition 1" in run(folder, "regenerate", "prompts-3.parquet")


def test_planning_a_changed_table(folder: Path) -> None:
    said = run(folder, "plan", "changed.parquet")
    assert "reuse    2 pictures" in said
    assert "render   1 through both stages" in said


def test_an_edition_in_which_only_carried_columns_changed(folder: Path) -> None:
    said = run(folder, "regenerate", "carried.parquet")
    assert "3 reused, 0 decoded, 0 rendered" in said
    assert "1 with other columns alone" in said


@pytest.mark.parametrize(
    ("flag", "where"),
    [("--out=run", "output.uri"), ("--set=prompts.embeddings_from=run", "prompts.embeddings_from")],
)
def test_a_regeneration_has_no_other_place(
    folder: Path, flag: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["regenerate", str(folder / "prompts-3.parquet"), "--into", str(folder / "collection"), flag]
    assert main([*words, *QUICK]) == 2
    assert f"in the collection\n  where: {where}" in capsys.readouterr().err
