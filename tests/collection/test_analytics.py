"""What docs/collections.md shows to analysts, run as it stands there, on a collection of two editions."""

import json
import re
import subprocess
import sys
import time
from contextlib import chdir
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_batch.cli import main
from cascade_batch.run.embeddings import embedding_sha256
from tests.run.runs import QUICK

PAGE = Path(__file__).parents[2] / "docs/collections.md"
NOON = "datetime(2026, 11, 24, 12, tzinfo=UTC)"
TUESDAY = {
    "red": ("a red circle", "warm"),
    "blue": ("a blue circle", "cold"),
    "green": ("a green circle", "cold"),
    "pink": ("a pink star", "warm"),
}
TODAY = {name: told for name, told in TUESDAY.items() if name != "pink"} | {
    "blue": ("a blue square", "cold"),
    "none": (None, "none"),
    "gold": ("a golden heart", "warm"),
}
Notebook = dict[str, Any]


def blocks() -> list[str]:
    section = PAGE.read_text().split("## For analysts")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def regenerate(folder: Path, prompts: dict[str, tuple[str | None, str]], edition: str) -> int:
    table = {
        "id": list(prompts),
        "prompt": [text for text, _ in prompts.values()],
        "category": [category for _, category in prompts.values()],
    }
    pq.write_table(pa.table(table), folder / f"{edition}.parquet")
    flags = ["--into", str(folder / "collection"), "--edition", edition, "--runner=local", *QUICK]
    return main(["regenerate", str(folder / f"{edition}.parquet"), *flags])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analysts")
    assert regenerate(folder, TUESDAY, "tuesday") == 0
    time.sleep(0.1)
    noon = datetime.now(UTC)
    time.sleep(0.1)
    assert regenerate(folder, TODAY, "today") == 6, "the edition has a failed row"
    (folder / "today.parquet").rename(folder / "prompts.parquet")
    (folder / "noon").write_text(noon.isoformat())
    return folder


@pytest.fixture(scope="module")
def notebook(folder: Path) -> Notebook:
    """What the page's variables hold once all of it but Ray has run."""
    code = "\n".join(block for block in blocks() if "import ray" not in block)
    noon = datetime.fromisoformat((folder / "noon").read_text())
    assert code.count(NOON) == 1
    found: Notebook = {}
    with chdir(folder):
        exec(code.replace(NOON, f"datetime.fromisoformat({noon.isoformat()!r})"), found)
    return found


def test_the_history_has_every_edition_and_what_it_cost(notebook: Notebook) -> None:
    told = [(edition["number"], edition["name"]) for edition in notebook["editions"]]
    assert told == [(2, "today"), (1, "tuesday")]
    counts = notebook["editions"][0]["counts"]
    assert {name: counts[name] for name in ("images", "rendered", "reused", "failed")} == {
        "images": 5,
        "rendered": 2,
        "reused": 2,
        "failed": 1,
    }


OVER_TIME = [
    ("tuesday", "cold", 2, 2),
    ("tuesday", "warm", 2, 2),
    ("today", "cold", 2, 2),
    ("today", "none", 1, 0),
    ("today", "warm", 2, 2),
]


def test_polars_and_duckdb_count_by_category_over_time(notebook: Notebook) -> None:
    counts: pl.DataFrame = notebook["counts"]
    found = counts.select("edition", "category", "images", "pictures").rows()
    assert sorted(found) == sorted(OVER_TIME)
    assert notebook["over_time"] == OVER_TIME


def test_two_versions_by_time_tell_what_changed(notebook: Notebook) -> None:
    assert notebook["withdrawn"].prompt_then.to_list() == ["a pink star"]
    assert notebook["new"].prompt_now.to_list() == ["a golden heart"]
    changed = notebook["changed"]
    assert changed[["prompt_then", "prompt_now"]].to_numpy().tolist() == [["a blue circle", "a blue square"]]


def test_prompts_stand_beside_their_pictures(notebook: Notebook, folder: Path) -> None:
    pictures = notebook["pictures"].set_index("id")
    assert pictures.index.to_list() == list(TODAY)
    for name, row in pictures.iterrows():
        if name == "none":
            assert row.error_code == "null_prompt"
        else:
            assert (folder / row.file).read_bytes().startswith(b"\x89PNG")


def test_embeddings_of_an_edition_are_an_array(notebook: Notebook) -> None:
    arrays, good = notebook["arrays"], notebook["good"]
    assert arrays.shape == (4, 16 * 6 * 6)
    found = [embedding_sha256(array.reshape(16, 6, 6)) for array in arrays]
    assert found == good["embedding_sha256"].to_pylist()
    assert len(notebook["nearest"]) == 3
    distances = 1 - notebook["unit"] @ notebook["unit"][0]
    assert np.all(np.diff(distances[notebook["nearest"]]) >= 0)
    assert 0 not in notebook["nearest"]


def test_ray_reads_an_edition_and_its_pictures(folder: Path) -> None:
    (code,) = (block for block in blocks() if "import ray" in block)
    script = (
        "import json, ray\n"
        "ray.init(address='local', num_cpus=1, include_dashboard=False, object_store_memory=100 << 20)\n"
        f"{code}\nprint('FOUND', json.dumps(brightness))\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.partition("FOUND ")[2])
    assert sorted(row["category"] for row in found) == ["cold", "warm"]
    assert all(0 < row["mean(brightness)"] < 255 for row in found)
