"""What a newcomer gets wrong about collections: told, and nothing is written or withdrawn."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cascade_batch.cli import main
from cascade_batch.collection.editions import editions_of
from cascade_batch.collection.place import open_collection
from tests.run.runs import QUICK, write_prompts


def test_a_run_is_not_made_in_a_collection(
    night: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path(night).rglob("*"))
    prompts = write_prompts(tmp_path, 1)
    assert main(["render", str(prompts), "--out", night, "--runner", "local", *QUICK]) == 2
    assert "does not belong into a collection" in capsys.readouterr().err
    assert sorted(Path(night).rglob("*")) == before


def test_an_empty_table_withdraws_nothing_unless_it_is_to(
    night: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.parquet"
    pq.write_table(pq.read_table(write_prompts(tmp_path, 1)).slice(0, 0), empty)
    command = ["regenerate", str(empty), "--into", night, "--runner", "local", *QUICK]
    assert main(command) == 2
    assert "--allow-empty" in capsys.readouterr().err
    assert len(editions_of(open_collection(night).table)) == 1
    assert main([*command, "--allow-empty"]) == 0
    assert editions_of(open_collection(night).table)[0].counts.images == 0


def test_an_edition_without_a_name_is_refused(
    night: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path, 1)
    assert main(["regenerate", str(prompts), "--into", night, "--edition", " "]) == 2
    assert "the name of an edition is empty" in capsys.readouterr().err
