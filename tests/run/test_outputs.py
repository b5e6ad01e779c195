"""What a run leaves opens as it is in DuckDB, Polars, pandas and pyarrow, and means the same in each."""

from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cascade_batch.cli import main
from cascade_batch.prompts.encodings import decoded
from cascade_batch.run.manifest import read_table
from cascade_batch.storage import Storage
from tests.run.runs import QUICK, manifest_of, render, write_prompts

EVIL_IDS = ["../../etc/passwd", "a/b\\c", "nul\0nul", "x" * 1000, "snow ☃ 雪", "", ".tmp~1", "CON", "a b?#%&"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sizes, two images of each prompt, one failed row, carried columns of several types."""
    folder = tmp_path_factory.mktemp("outputs")
    prompts = write_prompts(
        folder,
        4,
        num_images=[2, 2, 1, 1],
        width=[None, None, 384, 384],
        prompt=["a red circle", "a blue square", None, "a green star"],
        tags=[["a", "b"], [], None, ["c"]],
        score=[0.5, None, 1.5, 2.5],
    )
    assert render(prompts, str(folder / "run")) == 0
    return folder / "run"


def test_every_reader_counts_the_same(run: Path) -> None:
    query = f"SELECT category, status, count(*) FROM '{run}/table/*.parquet' GROUP BY ALL ORDER BY ALL"
    expected = [("blue", "failed", 1), ("green", "ok", 2), ("red", "ok", 3)]
    assert duckdb.sql(query).fetchall() == expected
    frame = pl.read_parquet(run / "table/*.parquet").group_by("category", "status").len()
    assert sorted(frame.rows()) == expected
    counted = pd.read_parquet(run / "table").groupby(["category", "status"]).size()
    assert [(*key, n) for key, n in sorted(counted.items())] == expected
    dataset = ds.dataset(run / "manifest", format="parquet").to_table()
    grouped = dataset.group_by(["category", "status"]).aggregate([([], "count_all")]).to_pylist()
    assert sorted(tuple(row.values()) for row in grouped) == expected


def test_carried_columns_keep_their_types(run: Path) -> None:
    manifest = manifest_of(str(run))
    assert manifest["tags"].to_pylist()[:2] == [["a", "b"], ["a", "b"]]
    assert manifest.schema.field("tags").type == pa.list_(pa.string())
    assert manifest["score"].to_pylist() == [0.5, 0.5, None, None, 1.5, 2.5]


def test_columns_of_any_type_come_to_the_end_of_a_run(tmp_path: Path) -> None:
    """Through retries and `verify`, with values that Python or readers cannot tell."""
    turned = pa.fixed_shape_tensor(pa.float32(), [2, 3], permutation=[1, 0])
    values = pa.array([[1, 2, 3, 4, 5, 6], None], turned.storage_type)
    columns = {
        "turned": pa.ExtensionArray.from_storage(turned, values),
        "views": pa.array([["a"], None], pa.list_view(pa.string())),
        "far": pa.array([2**31 - 1, None], pa.date32()),
        "zone": pa.array([1, 2], pa.timestamp("us", tz="Nowhere/Land")),
        "broken": pa.array([b"\xff", b"fine"]).view(pa.string()),
        "": pa.array([1, 2]),
    }
    prompts, run = tmp_path / "odd.parquet", str(tmp_path / "run")
    table = pa.table({"id": ["a", "b"], "prompt": ["a red circle", None], "num_images": [2, 1], **columns})
    pq.write_table(table, prompts)
    assert render(prompts, run) == 0
    assert render(prompts, run, "--retry-failed") == 0
    assert main(["status", run, "--rows"]) == 0
    assert main(["verify", run]) == 0
    (whole,) = read_table(Storage(run))
    assert whole["status"].to_pylist() == ["ok", "ok", "failed"]
    for name, given in columns.items():
        assert whole[name].equals(decoded(pa.chunked_array([given])).take(pa.array([0, 0, 1]))), name


def test_pictures_are_what_the_manifest_says(run: Path) -> None:
    for row in manifest_of(str(run)).to_pylist():
        if row["status"] == "failed":
            assert row["image_uri"] is None
            assert row["error_code"] == "null_prompt"
            continue
        with Image.open(run / row["image_uri"]) as picture:
            assert picture.size == (row["width"], row["height"])
            assert picture.mode == "RGB"


def test_embeddings_of_several_sizes_carry_their_shape(run: Path) -> None:
    rows = pq.read_table(run / "embeddings").to_pylist()
    for row in rows:
        if row["status"] == "ok":
            assert len(row["embedding"]) == 16 * row["height"] * row["width"]
    assert {(row["height"], row["width"]) for row in rows} == {(6, 6), (6, 9)}


def test_any_id_ends_in_a_safe_key_and_comes_back_exactly(store: str, tmp_path: Path) -> None:
    prompts = tmp_path / "evil.parquet"
    pq.write_table(pa.table({"id": EVIL_IDS, "prompt": ["a red circle"] * len(EVIL_IDS)}), prompts)
    assert render(prompts, store, "--set=shards.prompts=4") == 0
    assert manifest_of(store)["prompt_id"].to_pylist() == EVIL_IDS
    keys = [info.key for info in Storage(store).list("images/")]
    assert len(keys) == len(EVIL_IDS)
    for key in keys:
        name = key.rsplit("/", 1)[-1]
        assert len(name.encode()) <= 255
        assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def test_no_prompts_make_a_finished_run_with_an_empty_table(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 0)
    assert render(prompts, str(tmp_path / "run")) == 0
    assert duckdb.sql(f"SELECT count(*) FROM '{tmp_path}/run/table/*.parquet'").fetchall() == [(0,)]


def test_a_row_is_the_same_in_any_company(tmp_path: Path) -> None:
    """Alone, in another order, in other shards: equal bytes at equal numerics."""
    base = write_prompts(tmp_path, 6)
    table = pq.read_table(base)
    assert "--set=shards.prompts=2" in QUICK
    pictures = {}
    for name, rows in {"all": range(6), "reversed": range(5, -1, -1), "alone": [3]}.items():
        for shards in ("--set=shards.prompts=2", "--set=shards.prompts=5"):
            path, out = tmp_path / f"{name}.parquet", str(tmp_path / f"{name}-{shards[-1]}")
            pq.write_table(table.take(list(rows)), path)
            assert render(path, out, shards) == 0
            for row in manifest_of(out).to_pylist():
                key = row["prompt_id"]
                bits = (row["image_sha256"], row["embedding_sha256"], row["stage_ba_key"])
                assert pictures.setdefault(key, bits) == bits
    assert len({bits[0] for bits in pictures.values()}) == 6
