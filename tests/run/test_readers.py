"""Embedding shards that hold failed rows open in every common reader, with the arrays that were written."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import duckdb
import lance
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.run.runs import render, write_prompts

COLUMNS = ["image_id", "status", "embedding", "height", "width", "pooled", "embedding_sha256"]
Rows = list[dict[str, Any]]


SIZES: dict[str, dict[str, list]] = {"one-size": {}, "several-sizes": {"width": [None, 384, None, None, 384]}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with failed rows before, between and after good ones; the second shard has no other."""
    folder = tmp_path_factory.mktemp("readers")
    texts = ["a red circle", None, None, None, "a blue square"]
    for name, sizes in SIZES.items():
        side = 1024 if name == "one-size" else 256
        prompts = write_prompts(folder, 5, prompt=texts, **sizes)
        assert (
            render(prompts, str(folder / "runs" / name / "run"), f"--width={side}", f"--height={side}") == 0
        )
    return folder / "runs"


@pytest.fixture(params=SIZES)
def run(request: pytest.FixtureRequest, runs: Path) -> Path:
    return runs / request.param / "run"


def pyarrow_file(run: Path, _: Path) -> Rows:
    return [r for p in sorted((run / "embeddings").iterdir()) for r in pq.read_table(p).to_pylist()]


def pyarrow_dataset(run: Path, _: Path) -> Rows:
    return ds.dataset(run / "embeddings").to_table(columns=COLUMNS).to_pylist()


def from_duckdb(run: Path, _: Path) -> Rows:
    query = f"SELECT {', '.join(COLUMNS)} FROM '{run}/embeddings/*.parquet'"
    return [dict(zip(COLUMNS, row, strict=True)) for row in duckdb.sql(query).fetchall()]


def from_polars(run: Path, _: Path) -> Rows:
    return pl.read_parquet(run / "embeddings/*.parquet").to_dicts()


def from_pandas(run: Path, _: Path) -> Rows:
    return pd.read_parquet(run / "embeddings").to_dict("records")


def from_datasets(run: Path, cache: Path) -> Rows:
    files = f"{run}/embeddings/*.parquet"
    datasets.disable_progress_bars()
    return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(cache)).to_list()


def from_lance(run: Path, folder: Path) -> Rows:
    stored = lance.write_dataset(pq.read_table(run / "embeddings"), str(folder / "embeddings.lance"))
    assert stored.to_table(filter="status = 'ok'").num_rows == 2
    return stored.to_table().to_pylist()


def from_ray(run: Path, _: Path) -> Rows:
    return _ray_rows(run.parent.parent)[run.parent.name]


@cache
def _ray_rows(runs: Path) -> dict[str, Rows]:
    """Of every run, read in a process of its own, so that no cluster of other tests is met."""
    folders = {name: str(runs / name / "run/embeddings") for name in SIZES}
    script = (
        "import json, ray\n"
        "ray.init(address='local', num_cpus=1, include_dashboard=False, object_store_memory=100 << 20)\n"
        f"rows = {{n: ray.data.read_parquet(f, columns={COLUMNS!r}).take_all() for n, f in {folders!r}.items()}}\n"
        "print('ROWS', json.dumps(rows, default=lambda value: value.tolist()))\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.partition("ROWS ")[2])


READERS = [
    pyarrow_file,
    pyarrow_dataset,
    from_duckdb,
    from_polars,
    from_pandas,
    from_datasets,
    from_lance,
    from_ray,
]


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_every_reader_finds_the_arrays_and_tells_failed_rows(
    read: Callable[[Path, Path], Rows], run: Path, tmp_path: Path
) -> None:
    rows = read(run, tmp_path)
    assert sorted(row["status"] for row in rows) == ["failed"] * 3 + ["ok"] * 2
    hashes = {row["image_id"]: row["embedding_sha256"] for row in pyarrow_dataset(run, tmp_path)}
    for row in rows:
        sides = (row["height"], row["width"])
        assert sides in {(24, 24), (6, 6), (6, 9)}
        if row["status"] == "ok":
            values = np.asarray(row["embedding"], "<f4")
            assert sha256(values) == hashes[row["image_id"]]
            assert values.size == 16 * sides[0] * sides[1]
            assert len(row["pooled"]) > 0
        else:
            assert not len(list(_numbers(row["embedding"])))
            assert row["pooled"] is None


def sha256(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


def _numbers(embedding: Any) -> Iterator[float]:
    """Values that a careless mean would take in."""
    return (value for value in (() if embedding is None else embedding) if not np.isnan(value))


@pytest.mark.parametrize("run", ["one-size"], indirect=True)
def test_the_readme_says_how(run: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (code,) = re.findall(r"```python\n([^`]*run/embeddings[^`]*)```", readme)
    found: dict[str, Any] = {}
    with chdir(run.parent):
        exec(code, found)
    assert found["arrays"].shape == (2, 16, 24, 24)
    assert [sha256(array) for array in found["arrays"]] == found["good"]["embedding_sha256"].to_pylist()


@pytest.mark.parametrize("run", ["one-size"], indirect=True)
def test_a_careless_mean_is_no_number(run: Path) -> None:
    """All rows read as one array, as who overlooks `status` does."""
    column = pq.read_table(run / "embeddings")["embedding"].combine_chunks()
    arrays = column.flatten().to_numpy().reshape(-1, 16, 24, 24)
    assert len(arrays) == 5
    assert np.isnan(arrays.mean())
