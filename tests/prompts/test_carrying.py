"""Whatever a table brings is carried to the end of a run, or refused by name before anything is spent."""

import decimal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import duckdb
import lance
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_batch.cli import main
from cascade_batch.errors import PromptTableError
from cascade_batch.prompts import carrying, check_carried, read_rows, reader_notes, rows_sha256
from cascade_batch.prompts import rows as reading
from cascade_batch.prompts.encodings import decoded
from cascade_batch.prompts.types import plain
from tests.prompts.writing import opened, write

KEY = uuid.UUID(int=7)
TENSOR = pa.fixed_shape_tensor(pa.float32(), [2, 3])
TURNED = pa.fixed_shape_tensor(pa.float32(), [2, 3], permutation=[1, 0])
SIX = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


class OfOneProcess(pa.ExtensionType):
    """An extension type that other processes do not know, such as Ray's tensors."""

    def __init__(self) -> None:
        super().__init__(pa.list_view(pa.int64()), "tests.one_process")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "OfOneProcess":
        return cls()


def extension(kind: pa.BaseExtensionType, values: list) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))


def listed(values: pa.Array) -> pa.Array:
    """Lists of two, none, and no values at all."""
    return pa.ListArray.from_arrays(pa.array([0, 2, 2, 2]), values, mask=pa.array([False, False, True]))


CARRIED = {
    "turned tensor": extension(TURNED, [SIX, None, SIX]),
    "list of turned tensors": listed(extension(TURNED, [SIX, SIX])),
    "struct of tensors": pa.StructArray.from_arrays([extension(TENSOR, [SIX, SIX, SIX])], ["t"]),
    "list-view": pa.array([[1, None], None, []], pa.list_view(pa.int64())),
    "large list-view": pa.array([[1], None, []], pa.large_list_view(pa.int64())),
    "struct of list-views": pa.array([{"a": [1]}, {"a": None}, None], pa.struct([("a", pa.list_view(pa.int8()))])),
    "string-view": pa.array(["x", None, ""], pa.string_view()),
    "binary-view": pa.array([b"x", None, b""], pa.binary_view()),
    "list of string-views": pa.array([["x"], None, []], pa.list_(pa.string_view())),
    "dictionary": pa.array(["x", None, "y"]).dictionary_encode(),
    "list of dictionaries": listed(pa.array(["x", None]).dictionary_encode()),
    "fixed list of dictionaries": pa.FixedSizeListArray.from_arrays(pa.array(list("xyxyzz")).dictionary_encode(), 2),
    "map": pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int8())),
    "map of string-views": pa.array([[("a", "b")], None, []], pa.map_(pa.string(), pa.string_view())),
    "map of list-views": pa.array([[("a", [1])], None, []], pa.map_(pa.string(), pa.list_view(pa.int8()))),
    "own extension": extension(OfOneProcess(), [[1], None, []]),
    "list of own extensions": listed(extension(OfOneProcess(), [[1], None])),
    "uuid": extension(pa.uuid(), [KEY.bytes, None, KEY.bytes]),
    "list of uuids": listed(extension(pa.uuid(), [KEY.bytes, None])),
    "json-view": extension(pa.json_(pa.string_view()), ["{}", None, "1"]),
    "opaque": extension(pa.opaque(pa.binary(), "type", "vendor"), [b"a", None, b""]),
    "bool8": extension(pa.bool8(), [1, None, 0]),
    **{
        f"decimal{kind.bit_width}": pa.array([decimal.Decimal("0.1"), None, None], kind)
        for kind in (pa.decimal32(5, 2), pa.decimal64(15, 2), pa.decimal128(38, 2), pa.decimal256(76, 2))
    },
    "half": pa.array([np.float16(1.5), None, np.float16(-0.0)], pa.float16()),
    "null": pa.nulls(3),
    "list of nulls": pa.array([[None], None, []], pa.list_(pa.null())),
    "struct with a null": pa.array([{"a": None}, None, {"a": None}], pa.struct([("a", pa.null())])),
    **{f"time {u}": pa.array([1, None, 2], k) for u, k in (("s", pa.time32("s")), ("ns", pa.time64("ns")))},
    **{f"duration {unit}": pa.array([1, None, 2], pa.duration(unit)) for unit in ("s", "ms", "us", "ns")},
    **{
        f"timestamp {zone}": pa.array([1, None, 2], pa.timestamp("us", tz=zone))
        for zone in ("UTC", "+05:30", "Europe/Berlin", "Nowhere/Land")
    },
    "far day": pa.array([2**31 - 1, None, 0], pa.date32()),
    "large string": pa.array(["x", None, ""], pa.large_string()),
    "large cell": pa.array(["x" * 2**22, None, ""]),
    "not utf-8": pa.array([b"\xff", None, b""]).view(pa.string()),
}  # fmt: skip


@pytest.mark.parametrize("name", CARRIED)
def test_values_of_every_type_come_to_the_end_as_they_were(tmp_path: Path, name: str) -> None:
    given = pa.chunked_array([CARRIED[name]])
    table = opened(write(tmp_path, "t.parquet", pa.table({"prompt": ["a", "b", "c"], "c": given})))
    check_carried(table)
    rows = read_rows(table, 0, 0, 3).select(["c"])
    assert rows.schema == table.carried
    assert plain(rows.schema.field("c").type) == rows.schema.field("c").type
    assert rows_sha256(rows) == rows_sha256(pa.table({"c": decoded(rows["c"])}))
    if name != "not utf-8":
        assert rows["c"].cast(table.carried.field("c").type).equals(decoded(given).cast(rows["c"].type))


@pytest.mark.parametrize("name", CARRIED)
def test_encodings_are_undone_to_the_value_in_slices_too(name: str) -> None:
    for part in (CARRIED[name], CARRIED[name].slice(1), CARRIED[name].slice(1, 1), CARRIED[name].slice(0, 0)):
        plainly = decoded(pa.chunked_array([part]))
        assert plainly.type == plain(part.type)
        assert len(plainly) == len(part)
        assert plainly.null_count == part.null_count
        if not name.startswith(("far", "not", "timestamp Nowhere")):
            assert repr(plainly.to_pylist()) == repr(part.to_pylist())


def test_types_of_one_process_are_carried_as_stored_there_too(tmp_path: Path) -> None:
    """Ray's workers know its tensors, the driver may not."""
    path = write(tmp_path, "t.parquet", {"prompt": ["a", "b", "c"], "c": CARRIED["own extension"]})
    elsewhere = read_rows(opened(path), 0, 0, 3)
    pa.register_extension_type(OfOneProcess())
    try:
        assert isinstance(pq.read_schema(path).field("c").type, OfOneProcess)
        for cache in (reading._opened, reading._cached_group):
            cache.cache_clear()
        check_carried(opened(path))
        assert read_rows(opened(path), 0, 0, 3).equals(elsewhere)
    finally:
        pa.unregister_extension_type("tests.one_process")


def test_runs_are_undone() -> None:
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["x", None]))
    assert decoded(pa.chunked_array([runs])).to_pylist() == ["x", "x", None]


def test_what_cannot_be_carried_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arrow writes lists of no size with a null among them, and cannot read them back."""
    none = pa.array([[], []], pa.list_(pa.int8(), 0))
    columns = pa.table({"prompt": ["a", "b"], "fine": [1, 2], "none": none})
    path = write(tmp_path / "in", "t.parquet", columns)
    with pytest.raises(PromptTableError, match=r"(?s)the column 'none'.*fixed_size_list.*\[0\]"):
        check_carried(opened(path))
    assert main(["plan", path, "--model=tiny"]) == 2
    assert main(["render", path, "--out", str(tmp_path / "run"), "--model=tiny", "--runner=local"]) == 2
    assert "the column 'none' cannot be carried" in capsys.readouterr().err
    assert not (tmp_path / "run/run.json").exists()


def test_each_layout_of_a_table_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "1.parquet", {"prompt": pa.array([], pa.string()), "n": pa.array([], pa.int32())})
    write(tmp_path, "2.parquet", {"prompt": ["a"], "n": pa.array([1], pa.int32())})
    write(tmp_path, "3.parquet", {"prompt": ["a"], "n": pa.array([2])})
    write(tmp_path, "4.parquet", {"prompt": ["a"]})
    tried: list[int] = []
    original = carrying.first_carried
    monkeypatch.setattr(carrying, "first_carried", lambda t, f, n: tried.append(f) or original(t, f, n))
    check_carried(opened(tmp_path))
    assert sorted(tried) == [1, 2, 3]


@pytest.mark.parametrize(
    "names",
    [
        ["Cat", "cat"],
        ["a.b"],
        ["a", "a.b"],
        ["a\nb"],
        [""],
        ["__index_level_0__"],
        ["nul\0"],
        ["list.element"],
    ],
    ids=repr,
)
def test_odd_names_are_carried(tmp_path: Path, names: list[str]) -> None:
    columns = {name: [{"b": 1}] if name == "a" else [name] for name in names}
    table = opened(write(tmp_path, "t.parquet", {"prompt": ["p"]} | columns))
    check_carried(table)
    assert read_rows(table, 0, 0, 1).select(names).to_pydict() == columns


def test_fields_that_must_not_be_null_and_notes_of_fields_are_no_difference(tmp_path: Path) -> None:
    child = pa.field("k", pa.int8(), nullable=False)
    strict = pa.schema(
        [("prompt", pa.string()), pa.field("n", pa.struct([child]), nullable=False, metadata={"unit": "m"})]
    )
    write(tmp_path, "1.parquet", pa.Table.from_pylist([{"prompt": "a", "n": {"k": 1}}], schema=strict))
    write(tmp_path, "2.parquet", {"prompt": ["b"], "n": pa.array([None], pa.struct([("k", pa.int16())]))})
    table = opened(tmp_path)
    check_carried(table)
    assert [read_rows(table, i, 0, 1)["n"].to_pylist() for i in (0, 1)] == [[{"k": 1}], [None]]


def from_duckdb(path: Path) -> list:
    return [value for (value,) in duckdb.sql(f"SELECT c FROM '{path}'").fetchall()]


def from_polars(path: Path) -> list:
    return pl.read_parquet(path)["c"].to_list()


def from_pandas(path: Path) -> list:
    return list(pd.read_parquet(path)["c"])


def from_datasets(path: Path) -> list:
    cache = str(path.parent / "cache")
    return list(datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=cache)["c"])


def from_lance(path: Path) -> list:
    return lance.write_dataset(pq.read_table(path), str(path.parent / "l.lance")).to_table()["c"].to_pylist()


READERS: dict[str, Callable[[Path], list]] = {
    "DuckDB": from_duckdb, "Polars": from_polars, "pandas": from_pandas, "datasets": from_datasets, "Lance": from_lance,
}  # fmt: skip
NOTED = {
    "uuid", "opaque", "bool8", "map", "turned tensor", "struct of tensors", "decimal32", "decimal64", "decimal128",
    "decimal256", "half", "time s", "time ns", "duration s", "timestamp +05:30", "string-view",
    "list-view", "dictionary", "large string", "null",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(NOTED))
def test_the_notes_name_the_readers_that_fail(tmp_path: Path, name: str) -> None:
    column = decoded(pa.chunked_array([CARRIED[name]]))
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"c": column}), path)
    (note,) = reader_notes(pa.schema([("c", column.type)])) or [""]
    assert {reader for reader in READERS if not is_read(READERS[reader], path, column, name)} == {
        reader for reader in READERS if reader in note
    }


def is_read(read: Callable[[Path], list], path: Path, column: pa.ChunkedArray, name: str) -> bool:
    if name.startswith("timestamp") and read is from_duckdb:
        return True  # its Python values need a package that is not installed; SQL and Arrow read it
    try:
        return [_python(value) for value in read(path)] == [_python(value) for value in column.to_pylist()]
    except BaseException:  # noqa: BLE001  a reader in Rust panics, which is no Exception
        return False


def _python(value: Any) -> Any:
    """One form for what readers give as lists or arrays, dicts or pairs, NaN or None."""
    if isinstance(value, np.ndarray | list | tuple):
        pairs = [tuple(pair) for pair in value if isinstance(pair, tuple)]
        return dict(pairs) if pairs else [_python(one) for one in value]
    if isinstance(value, dict):
        return {key: _python(one) for key, one in value.items()} or []
    return None if value is None or value is pd.NaT or value != value else value


def test_plan_says_which_columns_some_readers_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["decimal256", "uuid", "time s", "duration s"]
    columns = (
        {"prompt": ["a", "b", "c"]}
        | {name: CARRIED[name] for name in names}
        | {"Cat": [1] * 3, "cat": [2] * 3}
    )
    path = write(tmp_path, "t.parquet", columns)
    assert main(["plan", path, "--model=tiny"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note ")]
    for name in names:
        assert any(f"the column {name!r}" in note for note in notes), name
    assert any("'Cat' and 'cat'" in note for note in notes)
