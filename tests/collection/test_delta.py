"""A Delta table of ours: what it holds, commits that land where they were meant to, and other readers' view."""

import datetime as dt
import decimal
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from cascade_batch.collection.delta import data_files
from cascade_batch.collection.delta.table import Conflict, DeltaTableAt, cast_for_delta, held_by_delta
from cascade_batch.errors import CascadeError, IntegrityError, PromptTableError, SpecError, StorageError
from cascade_batch.storage import Storage
from tests.patience import PATIENCE_S
from tests.servers import S3Server

ROWS = pa.schema([("image_id", pa.string()), ("n", pa.int64()), ("when", pa.timestamp("us"))])
OURS = {"cascade_batch.format": "1"}


def rows(ids: str, n: int) -> pa.Table:
    when = pa.array([n] * len(ids), pa.timestamp("us"))
    return pa.table({"image_id": list(ids), "n": [n] * len(ids), "when": when}, schema=ROWS)


def begun(store: str, ids: str = "abc") -> DeltaTableAt:
    """A table at version 1."""
    table = DeltaTableAt.create(Storage(store), "table", ROWS, OURS)
    table.overwrite(rows(ids, 1).to_batches(), ROWS, after=0, metadata={}, token="begun")
    return table


def values(table: DeltaTableAt, version: int | None = None) -> dict[str, int]:
    found = table.read(["image_id", "n"], version=version)
    return dict(zip(found["image_id"].to_pylist(), found["n"].to_pylist(), strict=True))


def test_versions_keep_what_they_held(store: str) -> None:
    table = begun(store)
    v2 = table.append(rows("de", 2), after=1, metadata={"spec": {"ü": [1]}}, token="second")
    v3 = table.merge(rows("az", 3), pa.array(["d"]), on="image_id", after=v2, metadata={}, token="third")
    v4 = table.delete(pa.array(["b", "?"]), on="image_id", after=v3, metadata={}, token="fourth")
    v5 = table.restore(v2, after=v4, metadata={"restored": v2}, token="fifth")
    assert (v2, v3, v4, v5, table.version()) == (2, 3, 4, 5, 5)
    assert [values(table, v) for v in range(6)] == [
        {},
        {"a": 1, "b": 1, "c": 1},
        {"a": 1, "b": 1, "c": 1, "d": 2, "e": 2},
        {"a": 3, "b": 1, "c": 1, "e": 2, "z": 3},
        {"a": 3, "c": 1, "e": 2, "z": 3},
        {"a": 1, "b": 1, "c": 1, "d": 2, "e": 2},
    ]
    told = table.history()
    assert [commit.version for commit in told] == [5, 4, 3, 2, 1, 0]
    assert (told[3].metadata, told[3].token) == ({"spec": {"ü": [1]}}, "second")
    assert abs(dt.datetime.now(dt.UTC) - told[0].time) < dt.timedelta(minutes=10)
    assert table.read(["n"], where=pc.field("image_id") == "d").to_pylist() == [{"n": 2}]


def test_another_schema_and_back(tmp_path: Path) -> None:
    table = begun(str(tmp_path))
    other = held_by_delta(pa.schema([("image_id", pa.string()), ("tags", pa.list_(pa.string()))]))
    table.overwrite([], other, after=1, metadata={}, token="none")
    assert (table.schema(), table.read().num_rows) == (other, 0)
    table.append(
        pa.table({"image_id": ["q"], "tags": [["x"]]}, schema=other), after=2, metadata={}, token="one"
    )
    assert table.read().to_pylist() == [{"image_id": "q", "tags": ["x"]}]
    table.restore(1, after=3, metadata={}, token="back")
    assert (table.schema(), table.schema(3)) == (ROWS, other)
    with pytest.raises(ValueError, match="columns"):
        table.append(table.read(version=3), after=4, metadata={}, token="wrong")
    assert table.version() == 4


WRITES: dict[str, Callable[[DeltaTableAt, int, str], int]] = {
    "append": lambda t, v, k: t.append(rows("x", 9), after=v, metadata={}, token=k),
    "merge": lambda t, v, k: t.merge(
        rows("ax", 9), pa.array(["b"]), on="image_id", after=v, metadata={}, token=k
    ),
    "delete": lambda t, v, k: t.delete(pa.array(["a"]), on="image_id", after=v, metadata={}, token=k),
    "overwrite": lambda t, v, k: t.overwrite(rows("x", 9).to_batches(), ROWS, after=v, metadata={}, token=k),
    "restore": lambda t, v, k: t.restore(0, after=v, metadata={}, token=k),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_lands_at_its_version_or_not_at_all(
    store: str, write: Callable[[DeltaTableAt, int, str], int]
) -> None:
    table = begun(store)
    table.append(rows("o", 5), after=1, metadata={}, token="other")  # a blind append, which Delta could join
    held = values(table)
    with pytest.raises(Conflict, match="version 1"):
        write(table, 1, "late")
    assert (table.version(), values(table)) == (2, held)
    assert write(table, 2, "mine") == 3
    table.append(rows("p", 6), after=3, metadata={}, token="more")
    assert write(table, 2, "mine") == 3, "the same commit again"
    assert table.version() == 4


def test_of_writers_that_race_one_wins(seaweed_root: str) -> None:
    table, outcomes = begun(seaweed_root), []

    def write(name: str) -> None:
        try:
            outcomes.append(table.append(rows(name, 2), after=1, metadata={}, token=name))
        except Conflict:
            outcomes.append(None)

    threads = [threading.Thread(target=write, args=(name,)) for name in "wxyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(outcomes, key=bool) == [None, None, None, 2]
    assert len(values(table)) == 4


@pytest.mark.parametrize("lands", [True, False])
def test_a_commit_whose_answer_was_lost_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lands: bool
) -> None:
    table, commit = begun(str(tmp_path)), DeltaTable.create_write_transaction

    def lost(*given: Any, **named: Any) -> None:
        if lands:
            commit(*given, **named)
        raise OSError("connection reset by AKIAABCDEFGHIJKLMNOP")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", lost)
    if lands:
        assert table.append(rows("d", 2), after=1, metadata={}, token="mine") == 2
        return
    with pytest.raises(StorageError, match="cannot be reached") as error:
        table.append(rows("d", 2), after=1, metadata={}, token="mine")
    assert "AKIA" not in str(error.value)
    assert values(table) == {"a": 1, "b": 1, "c": 1}


def test_what_goes_wrong_in_making_rows_is_told_as_it_is(tmp_path: Path) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from rows("x", 2).to_batches()
        raise PromptTableError("the prompt table changed")

    table = begun(str(tmp_path))
    with pytest.raises(PromptTableError, match="changed"):
        table.overwrite(broken(), ROWS, after=1, metadata={}, token="broken")
    assert table.version() == 1


def test_a_fence_refuses_who_read_before_it(store: str) -> None:
    table = begun(store)
    assert table.fence(token="fence") == 2
    with pytest.raises(Conflict):
        table.append(rows("d", 2), after=1, metadata={}, token="late")
    assert table.history()[0].metadata == {"fence": True}
    assert values(table) == {"a": 1, "b": 1, "c": 1}


def test_only_files_with_changed_rows_are_written_anew_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "GROUP_ROWS", 100)
    monkeypatch.setattr(data_files, "BATCH_ROWS", 30)
    monkeypatch.setattr(data_files, "TARGET_BYTES", 1)
    table = DeltaTableAt.create(Storage(str(tmp_path)), "table", ROWS, OURS)
    names = [f"{n:04d}" for n in range(1000)]
    table.append(numbered(names, 1), after=0, metadata={}, token="1")
    before = {file.key: file for file in table.data_files()}
    assert sum(file.rows for file in before.values()) == 1000
    assert len(before) == 10
    changed = numbered(["0150", "0199", "0100", "new"], 2)
    table.merge(changed, pa.array(["0151"]), on="image_id", after=1, metadata={}, token="2")
    after = {file.key: file for file in table.data_files()}
    assert len(before.keys() & after.keys()) == 9
    (written,) = after.keys() - before.keys()
    ids = pl.read_parquet(tmp_path / "table" / written)["image_id"].to_list()
    assert ids == [*(name for name in names[100:200] if name != "0151"), "new"]
    expected = {name: 2 if name in ("0150", "0199", "0100") else 1 for name in names if name != "0151"}
    assert values(table) == expected | {"new": 2}
    assert {i.key for i in table.storage.list("table/part-")} - {i.key for i in table.unneeded([])} == {
        f"table/{key}" for key in after
    }
    assert [i.key for i in table.unneeded([1])] == []


def numbered(names: list[str], n: int) -> pa.Table:
    return pa.table({"image_id": names, "n": [n] * len(names), "when": [None] * len(names)}, schema=ROWS)


def test_two_changed_rows_of_one_name_are_refused(tmp_path: Path) -> None:
    table = begun(str(tmp_path))
    with pytest.raises(ValueError, match="two changed rows"):
        table.merge(rows("aa", 2), pa.array([], pa.string()), on="image_id", after=1, metadata={}, token="2")


def test_old_versions_outlive_checkpoints(tmp_path: Path) -> None:
    table = begun(str(tmp_path), "a")
    for n in range(2, 25):
        table.merge(
            rows("a", n), pa.array([], pa.string()), on="image_id", after=n - 1, metadata={}, token=str(n)
        )
    assert list((tmp_path / "table/_delta_log").glob("*.checkpoint*.parquet"))
    assert [values(table, n)["a"] for n in range(1, 25)] == list(range(1, 25))
    assert len(table.history()) == 25
    assert table.unneeded(range(25)) == []
    assert len(table.unneeded([])) == 23


def test_a_file_that_is_gone_or_damaged_is_named(store: str) -> None:
    table = begun(store)
    (key,) = table.files()
    whole = table.storage.read(f"table/{key}")
    table.storage.put(f"table/{key}", whole[:-20] + b"\0" * 20)
    with pytest.raises(IntegrityError, match="cannot be read") as damaged:
        table.read()
    table.storage.delete(f"table/{key}")
    with pytest.raises(IntegrityError, match="is gone") as gone:
        table.read()
    assert key in damaged.value.where
    assert key in gone.value.where
    with pytest.raises(IntegrityError):
        table.read(version=77)
    with pytest.raises(IntegrityError, match="no Delta table"):
        DeltaTableAt(table.storage, "nothing").version()


def test_creating_is_done_once(store: str) -> None:
    storage, errors = Storage(store), []

    def create() -> None:
        try:
            DeltaTableAt.create(storage, "table", ROWS, OURS)
        except CascadeError as error:
            errors.append(error)

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert errors == []
    assert DeltaTableAt(storage, "table").version() == 0
    with pytest.raises(IntegrityError, match="another Delta table"):
        DeltaTableAt.create(storage, "table", ROWS, {"cascade_batch.format": "2"})


def test_the_endpoint_and_credentials_of_config_files_are_used(
    moto_s3: S3Server, moto_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = moto_s3.environment
    for name in settings:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_PROFILE", "loopback")
    Path(os.environ["AWS_CONFIG_FILE"]).write_text(
        f"[profile loopback]\nregion = us-east-1\nendpoint_url = {settings['AWS_ENDPOINT_URL']}\n"
    )
    Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"]).write_text(
        f"[loopback]\naws_access_key_id = {settings['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {settings['AWS_SECRET_ACCESS_KEY']}\n"
    )
    assert values(begun(moto_root)) == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize("uri", ["memory://x/y", "https://example.org/x", "hf://a/b"])
def test_stores_that_delta_does_not_speak_to_are_refused(uri: str) -> None:
    with pytest.raises(SpecError, match="a collection needs"):
        DeltaTableAt(Storage(uri), "table")


UUID = uuid.UUID(int=5)
ZONED = dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC)
HELD: list[tuple[pa.Array, Any]] = [
    (pa.array([True, None]), [True, None]),
    (pa.array([-128, None], pa.int8()), [-128, None]),
    (pa.array([255, None], pa.uint8()), [255, None]),
    (pa.array([2**32 - 1, None], pa.uint32()), [2**32 - 1, None]),
    (pa.array([2**64 - 1, None], pa.uint64()), [decimal.Decimal(2**64 - 1), None]),
    (pa.array([1.5, None], pa.float16()), [1.5, None]),
    (pa.array([0.1, float("inf")], pa.float64()), [0.1, float("inf")]),
    (pa.array([decimal.Decimal("1.25"), None], pa.decimal32(5, 2)), [decimal.Decimal("1.25"), None]),
    (pa.array([decimal.Decimal("1.25"), None], pa.decimal256(38, 2)), [decimal.Decimal("1.25"), None]),
    (pa.array([decimal.Decimal(1200)], pa.decimal128(5, -2)), [decimal.Decimal(1200)]),
    (pa.array(["ü", None], pa.large_string()), ["ü", None]),
    (pa.array(["ü", None], pa.string_view()), ["ü", None]),
    (pa.array([b"\0\xff", None], pa.large_binary()), [b"\0\xff", None]),
    (pa.array([b"abc", None], pa.binary(3)), [b"abc", None]),
    (pa.array([b"abc", None], pa.binary_view()), [b"abc", None]),
    (pa.array([dt.date(2026, 1, 2), None], pa.date64()), [dt.date(2026, 1, 2), None]),
    (pa.array([dt.time(1, 2, 3), None], pa.time32("s")), ["01:02:03", None]),
    (pa.array([1, None], pa.time64("ns")), ["00:00:00.000000001", None]),
    (pa.array([dt.timedelta(seconds=2), None], pa.duration("s")), [2_000_000, None]),
    (pa.array([[dt.timedelta(seconds=2)], None], pa.list_(pa.duration("ms"))), [[2_000_000], None]),
    (pa.array([dt.datetime(1, 1, 1), None], pa.timestamp("s")), [dt.datetime(1, 1, 1), None]),
    (pa.array([dt.datetime(2026, 1, 2), None], pa.timestamp("ns")), [dt.datetime(2026, 1, 2), None]),
    (pa.array([ZONED, None], pa.timestamp("us", "Europe/Paris")), [ZONED, None]),
    (pa.array([None, None], pa.null()), [None, None]),
    (pa.array([[1, None], None], pa.list_(pa.uint8(), 2)), [[1, None], None]),
    (pa.array([[1], [], None], pa.large_list(pa.float16())), [[1.0], [], None]),
    (pa.array([["a"], None], pa.list_view(pa.string())), [["a"], None]),
    (
        pa.array([{"x": 1, "y": None}, None], pa.struct([("x", pa.uint8()), ("y", pa.null())])),
        [{"x": 1, "y": None}, None],
    ),
    (pa.array([[("k", 1)], None], pa.map_(pa.large_string(), pa.uint8())), [[("k", 1)], None]),
    (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
    (pa.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"]), ["a", "a", "b"]),
    (pa.array([UUID, None], pa.uuid()), [UUID.bytes, None]),
    (pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}", None])), ["{}", None]),
    (
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float16(), [1, 2]), pa.array([[1, 2], None], pa.list_(pa.float16(), 2))
        ),
        [[1.0, 2.0], None],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("array", "expected"), HELD, ids=[str(array.type) for array, _ in HELD])
def test_a_value_of_every_type_comes_back(array: pa.Array, expected: list[Any], tmp_path: Path) -> None:
    given = pa.table({"image_id": [str(n) for n in range(len(array))], "x": array})
    schema = held_by_delta(given.schema)
    held = cast_for_delta(given, schema)
    table = DeltaTableAt.create(Storage(str(tmp_path)), "table", pa.schema([("image_id", pa.string())]), OURS)
    table.overwrite(held.to_batches(), schema, after=0, metadata={}, token="1")
    assert table.schema() == schema
    assert table.read(["x"])["x"].to_pylist() == expected
    table.merge(held, pa.array([], pa.string()), on="image_id", after=1, metadata={}, token="2")
    read = table.read()
    assert (read.schema, read["x"].to_pylist()) == (schema, expected)
    assert DeltaTable(str(tmp_path / "table")).to_pyarrow_table(columns=["x"])["x"].to_pylist() == expected


@pytest.mark.parametrize(
    "kind",
    [
        pa.decimal256(50, 6),
        pa.month_day_nano_interval(),
        pa.struct([]),
        pa.list_(pa.month_day_nano_interval()),
        pa.dense_union([pa.field("a", pa.int8())]),
    ],
    ids=str,
)
def test_types_that_delta_cannot_hold_are_refused_by_name(kind: pa.DataType) -> None:
    with pytest.raises(PromptTableError, match="'colour' cannot be kept") as error:
        held_by_delta(pa.schema([("image_id", pa.string()), ("colour", kind)]))
    assert str(kind) in str(error.value)


@pytest.mark.parametrize(
    "kind", [pa.timestamp("ns"), pa.duration("ns"), pa.timestamp("ns", "Europe/Paris")], ids=str
)
def test_values_finer_than_a_microsecond_are_refused_by_column(kind: pa.DataType) -> None:
    table = pa.table({"taken": pa.array([1], kind), "ages": pa.array([[1]], pa.list_(kind))})
    with pytest.raises(PromptTableError, match=r"'taken'.*\n.*lose data"):
        cast_for_delta(table, held_by_delta(table.schema))
    with pytest.raises(PromptTableError, match=r"'ages'.*\n.*lose data"):
        cast_for_delta(table.select(["ages"]), held_by_delta(table.select(["ages"]).schema))


def test_names_that_differ_in_case_alone_are_refused() -> None:
    with pytest.raises(PromptTableError, match="'prompt', 'Prompt'"):
        held_by_delta(pa.schema([("prompt", pa.string()), ("Prompt", pa.string())]))


def test_a_schema_that_delta_would_narrow_is_refused(tmp_path: Path) -> None:
    narrow = pa.schema([("x", pa.uint8())])
    with pytest.raises(ValueError, match="uint8"):
        begun(str(tmp_path)).overwrite([], narrow, after=1, metadata={}, token="2")


def test_other_readers_see_the_same_rows(tmp_path: Path) -> None:
    """polars and DuckDB read the files that the table lists; delta-rs its version."""
    table = begun(str(tmp_path), "abcd")
    table.merge(rows("bx", 7), pa.array(["d"]), on="image_id", after=1, metadata={}, token="2")
    files = [str(tmp_path / "table" / key) for key in table.files()]
    expected = [("a", 1), ("b", 7), ("c", 1), ("x", 7)]
    assert duckdb.sql(f"select image_id, n from read_parquet({files}) order by 1").fetchall() == expected
    assert sorted(pl.read_parquet(files).select("image_id", "n").iter_rows()) == expected
    folder = str(tmp_path / "table")
    assert sorted(pl.read_delta(folder).select("image_id", "n").iter_rows()) == expected
    assert len(pl.read_delta(folder, version=1)) == 4
    assert sorted(DeltaTable(folder).to_pandas()["image_id"]) == ["a", "b", "c", "x"]
    assert DeltaTable(folder).count() == 4
