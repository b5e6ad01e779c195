"""Rows come back exact from any row-group layout, hash by value, and become image requests."""

import datetime
import decimal
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_batch.errors import IntegrityError, PromptTableError
from cascade_batch.model.seeds import image_seed
from cascade_batch.prompts import image_requests, read_rows, rows_sha256
from cascade_batch.prompts import rows as reading
from cascade_batch.run.ids import image_id
from cascade_batch.run.schemas import IMAGE_REQUESTS
from cascade_batch.settings import RenderSpec
from tests.prompts.writing import opened, write

ODD = pa.table(
    {
        "prompt": ["a", None, "c"],
        "time": pa.array([1, None, 2**62], pa.timestamp("ns", tz="UTC")),
        "day": pa.array([datetime.date(2026, 1, 2), None, None]),
        "clock": pa.array([1, 2, None], pa.time64("us")),
        "money": [decimal.Decimal("1.50"), None, decimal.Decimal("-2.25")],
        "raw": [b"\x00\xff", b"", None],
        "fixed": pa.array([b"ab", None, b"cd"], pa.binary(2)),
        "real": [float("nan"), None, -0.0],
        "half": np.array([1.5, 2.5, np.nan], np.float16),
        "nested": [[{"k": [1, None], "s": "x"}], [], None],
        "pairs": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int32())),
        "vector": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float32(), 2)),
        "flag": [True, None, False],
        "nothing": pa.nulls(3),
        "kind": pa.array(["p", "q", "p"]).dictionary_encode(),
    }
)


@pytest.mark.parametrize("row_group_size", [1, 2, 100])
def test_odd_carried_types_survive_to_the_value(tmp_path: Path, row_group_size: int) -> None:
    table = opened(write(tmp_path, f"{row_group_size}.parquet", ODD, row_group_size=row_group_size))
    rows = read_rows(table, 0, 0, 3)
    for name in set(ODD.column_names) - {"prompt", "real", "half"}:
        assert rows[name].equals(ODD[name].cast(rows[name].type)), name
    assert repr(rows["real"].to_pylist()) == repr(ODD["real"].to_pylist())


def test_ranges_over_row_groups(tmp_path: Path) -> None:
    texts = [f"prompt {i}" for i in range(50)]
    table = opened(write(tmp_path, "t.parquet", {"prompt": texts}, row_group_size=7))
    for first, count in ((0, 50), (6, 2), (7, 7), (20, 25), (49, 1), (50, 0)):
        rows = read_rows(table, 0, first, count)
        assert rows["prompt"].to_pylist() == texts[first : first + count]
        assert rows["prompt_id"].to_pylist() == [f"t.parquet:{i}" for i in range(first, first + count)]


def test_consecutive_shards_read_a_row_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = opened(write(tmp_path, "t.parquet", {"prompt": ["a"] * 100}, row_group_size=50))
    read: list[int] = []
    original = reading._read
    monkeypatch.setattr(
        reading, "_read", lambda p, w, groups, c: read.extend(groups) or original(p, w, groups, c)
    )
    for first in range(0, 100, 10):
        read_rows(table, 0, first, 10)
    assert read == [0, 1]


def test_a_file_that_changed_under_the_run_is_refused(tmp_path: Path) -> None:
    table = opened(write(tmp_path, "t.parquet", {"prompt": ["a"]}))
    write(tmp_path, "t.parquet", {"prompt": ["b", "c"]})
    with pytest.raises(IntegrityError, match="table_changed"):
        read_rows(table, 0, 0, 1)


def test_damaged_pages_are_one_clear_error(tmp_path: Path) -> None:
    path = Path(write(tmp_path, "t.parquet", {"prompt": [f"{i}" * 50 for i in range(100)]}))
    data = bytearray(path.read_bytes())
    data[4:400] = b"\xff" * 396
    path.write_bytes(data)
    with pytest.raises(PromptTableError, match=r"t\.parquet"):
        read_rows(opened(path), 0, 0, 100)


def test_a_prompt_that_is_not_utf8_fails_alone(tmp_path: Path) -> None:
    broken = pa.array([b"fine", b"\xff\xfe"]).view(pa.string())
    table = opened(write(tmp_path, "t.parquet", {"prompt": broken}))
    assert read_rows(table, 0, 0, 2)["prompt"].to_pylist() == ["fine", None]


def test_the_hash_depends_on_values_alone(tmp_path: Path) -> None:
    hashes = {rows_sha256(ODD.slice(0, 1).cast(ODD.schema)), rows_sha256(pa.concat_tables([ODD]).slice(0, 1))}
    sink = io.BytesIO()
    pq.write_table(ODD, sink, row_group_size=1)
    hashes.add(rows_sha256(pq.read_table(sink, schema=ODD.schema).slice(0, 1)))
    assert len(hashes) == 1
    wide = pa.table({"a": pa.array([1, 2]), "t": pa.array(["x", None], pa.large_string())})
    narrow = pa.table({"a": pa.array([1, 2], pa.int8()), "t": pa.array(["x", None]).dictionary_encode()})
    assert rows_sha256(wide) == rows_sha256(narrow)


def test_the_hash_is_a_promise() -> None:
    """A change here makes every unfinished run refuse its own prompt table."""
    assert rows_sha256(ODD) == "734c9a5f353e43beb80fc4249fcb20a742c8014dc1554730a956b5d75cff36c6"


def test_the_hash_sees_every_difference() -> None:
    tables = [
        pa.table({"a": values})
        for values in (
            ["ab", "c"],
            ["a", "bc"],
            ["abc"],
            [None, "abc"],
            ["abc", None],
            ["", "abc"],
            [b"ab", b"c"],
            [[1], [2]],
            [[1, 2], []],
            [[1, 2], None],
            [1, 2],
            [1.0, 2.0],
            [None, None],
            [{"x": 1}, {"x": 2}],
            [{"x": 1}, None],
            [{"x": 1}, {"x": None}],
            [{"y": 1}, {"y": 2}],
            pa.array([1, 2], pa.timestamp("s")),
            pa.array([1, 2], pa.timestamp("ms")),
            pa.array([1, 2], pa.timestamp("s", tz="UTC")),
            pa.array([1, 2], pa.duration("s")),
            [True, False],
        )
    ]
    tables.append(tables[0].rename_columns(["b"]))
    assert len({rows_sha256(table) for table in tables}) == len(tables)


def test_requests_fill_defaults_and_count_seeds_up(tmp_path: Path) -> None:
    columns = {
        "prompt": ["a", None, "c"],
        "id": ["x", "y", "z"],
        "num_images": [2, None, 1],
        "seed": [5, None, None],
        "width": [256, None, None],
        "prior_guidance_scale": [None, 1, None],
        "negative_prompt": [None, None, "dull"],
    }
    rows = read_rows(opened(write(tmp_path, "t.parquet", columns)), 0, 0, 3)
    requests = image_requests(
        rows, SimpleNamespace(first_image=0, images=4), RenderSpec(negative_prompt="bad"), 9
    )
    assert requests.schema == IMAGE_REQUESTS
    found = requests.to_pydict()
    assert found["image_id"] == [image_id("x", 0), image_id("x", 1), image_id("y", 0), image_id("z", 0)]
    assert found["seed"] == [5, 6, image_seed(9, "y", None, 0), image_seed(9, "z", None, 0)]
    assert found["row"] == [0, 0, 1, 2]
    assert found["width"] == [256, 256, 1024, 1024]
    assert found["prior_guidance_scale"] == [4.0, 4.0, 1.0, 4.0]
    assert found["negative_prompt"] == ["bad", "bad", "bad", "dull"]
    assert found["prompt"] == ["a", "a", None, "c"]


def test_requests_of_a_split_prompt(tmp_path: Path) -> None:
    rows = read_rows(opened(write(tmp_path, "t.parquet", {"prompt": ["a"], "num_images": [10]})), 0, 0, 1)
    requests = image_requests(rows, SimpleNamespace(first_image=6, images=3), RenderSpec(), 0)
    assert requests["image_index"].to_pylist() == [6, 7, 8]
    with pytest.raises(IntegrityError, match="fewer images"):
        image_requests(rows, SimpleNamespace(first_image=8, images=3), RenderSpec(), 0)
