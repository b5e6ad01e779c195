"""A run of an earlier format is read, and goes on in the format that it was begun with.

`format_2/` was written by the last program of that format and stopped after one of two shards; the second row of four
failed. `prompts.parquet` is its table.
"""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_batch.cli import main
from cascade_batch.run.embeddings import embedding_arrays, read_embeddings
from cascade_batch.storage import Storage
from tests.run.runs import render

STORED = Path(__file__).parent / "format_2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(STORED, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_run_of_format_2_is_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(folder / "run"), "--rows"]) == 0
    assert "null_prompt" in capsys.readouterr().out
    assert main(["verify", str(folder / "run")]) == 0
    assert "no differences" in capsys.readouterr().out


def test_a_run_of_format_2_goes_on_in_it(folder: Path) -> None:
    run = folder / "run"
    assert render(folder / "prompts.parquet", str(run)) == 0
    assert render(folder / "prompts.parquet", str(run), "--retry-failed") == 0
    assert main(["verify", str(run)]) == 0
    assert json.loads((run / "run.json").read_text())["format"] == 2
    for path in sorted((run / "embeddings").iterdir()):
        assert isinstance(pq.read_schema(path).field("embedding").type, pa.FixedShapeTensorType)
    arrays = [a for shard in (0, 1) for a in embedding_arrays(read_embeddings(Storage(str(run)), shard))]
    assert [array is None for array in arrays] == [False, True, False, False]
    assert pq.read_table(run / "table")["status"].to_pylist() == ["ok", "failed", "ok", "ok"]
    assert pq.read_table(run / "table")["attempts"].to_pylist()[1] == 2


def test_a_run_of_an_unknown_format_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((folder / "run/run.json").read_text())
    (folder / "run/run.json").write_text(json.dumps(record | {"format": 4}))
    assert main(["status", str(folder / "run")]) != 0
    assert "format 4" in capsys.readouterr().err
