"""The table that `cascade-batch demo` writes is the one of `make demo`, and overwrites nothing."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cascade_batch.cli import main
from jobs.demo import make_prompts


def test_the_table_of_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prompts.parquet"
    assert main(["demo", str(path)]) == 0
    assert f"cascade-batch render {path}" in capsys.readouterr().out
    assert pq.read_table(path).equals(pq.read_table(Path(make_prompts.__file__).with_name("prompts.parquet")))


@pytest.mark.parametrize("name", ["there.parquet", "no/folder/prompts.parquet"])
def test_it_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / "there.parquet").write_text("mine")
    assert main(["demo", str(tmp_path / name)]) == 2
    told = capsys.readouterr().err
    assert "cannot write the prompt table" in told
    assert name in told
    assert (tmp_path / "there.parquet").read_text() == "mine"
