"""A regeneration whose keys Ray Data makes and joins, beside one in this process: the same editions."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_batch.cli import main
from cascade_batch.collection.place import open_collection
from cascade_batch.collection.regenerating import assessing
from tests.run.runs import QUICK, write_prompts

MOVED = ["run", "image_uri", "embedding_uri", "embedding_row"]
"""Columns that tell where a picture lies."""


def regenerate(prompts: Path, into: Path, runner: str, *flags: str) -> None:
    assert main(["regenerate", str(prompts), "--into", str(into), "--runner", runner, *QUICK, *flags]) == 0


def edition(into: Path) -> pa.Table:
    return open_collection(str(into)).table.read().sort_by("image_id")


def test_editions_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two editions each: all new, then one changed, one withdrawn, one new, and Stage B with another step."""
    first = write_prompts(tmp_path, 5)
    rows = pq.read_table(first).to_pylist()
    rows[1]["prompt"], rows[2]["id"] = "a blue star", "another"
    second = tmp_path / "second.parquet"
    pq.write_table(pa.Table.from_pylist(rows), second)
    here, cluster = tmp_path / "here", tmp_path / "cluster"
    for into, runner in ((here, "local"), (cluster, "ray")):
        monkeypatch.setattr(assessing, "ALONE", 0)
        monkeypatch.setattr(assessing, "RAY_ABOVE", 3 if runner == "ray" else 10**9)
        regenerate(first, into, runner)
        regenerate(second, into, runner, "--set=render.decoder_steps=1")
    ours, theirs = edition(here), edition(cluster)
    assert ours.num_rows == 5
    assert ours.drop(MOVED).equals(theirs.drop(MOVED))
    for name in ("image_uri", "embedding_uri"):
        assert all((cluster / uri).is_file() for uri in theirs[name].to_pylist())
