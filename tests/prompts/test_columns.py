"""Column names and types: mapping, clashes, odd Arrow types, and one schema over many files."""

from pathlib import Path

import pyarrow as pa
import pytest

from cascade_batch.errors import PromptTableError
from cascade_batch.prompts import read_rows
from cascade_batch.prompts.types import plain, unified
from tests.prompts.writing import opened, planned, write


def test_mapping_and_renaming(tmp_path: Path) -> None:
    path = write(tmp_path, "t.parquet", {"caption": ["a"], "key": [7], "status": ["new"], "note": ["n"]})
    table = opened(path, prompt="caption", id="key", source_status="status")
    rows = read_rows(table, 0, 0, 1)
    assert table.carried.names == ["source_status", "note"]
    assert rows.select(["prompt_id", "prompt", "source_status"]).to_pylist() == [
        {"prompt_id": "7", "prompt": "a", "source_status": "new"}
    ]


@pytest.mark.parametrize(
    ("columns", "mapping", "message"),
    [
        ({"Caption": ["a"]}, {}, "--column prompt=Caption"),
        ({"Prompt": ["a"]}, {}, "--column prompt=Prompt"),
        ({"prompt": ["a"]}, {"id": "promt"}, "did you mean --column id=prompt"),
        ({"prompt": ["a"], "status": [1]}, {}, "--column source_status=status"),
        ({"prompt": ["a"], "Status": [1]}, {}, "--column source_status=Status"),
        ({"prompt": ["a"], "caption": ["b"]}, {"prompt": "caption"}, "--column source_prompt=prompt"),
        ({"prompt": [1]}, {}, "cannot be 'prompt'"),
        ({"prompt": [b"a"]}, {}, "binary"),
        ({"prompt": ["a"], "id": [1.0]}, {}, "text or a whole number"),
        ({"prompt": ["a"], "width": [512.0]}, {}, "Int64"),
        ({"prompt": ["a"], "num_images": [True]}, {}, "bool"),
        ({"prompt": ["a"], "prior_guidance_scale": ["4"]}, {}, "a number"),
    ],
)
def test_bad_columns_are_refused_with_the_way_out(
    tmp_path: Path, columns: dict, mapping: dict, message: str
) -> None:
    path = write(tmp_path, "t.parquet", columns)
    with pytest.raises(PromptTableError) as error:
        opened(path, **mapping)
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_file_without_prompts_among_others_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", {"prompt": ["a"]})
    write(tmp_path, "b.parquet", {"text": ["a"]})
    with pytest.raises(PromptTableError, match=r"b\.parquet"):
        opened(tmp_path)


TEXTS = ["a", None, "ü"]
TEXT_TYPES = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]


@pytest.mark.parametrize("kind", TEXT_TYPES, ids=str)
def test_every_kind_of_text_reads_the_same(tmp_path: Path, kind: pa.DataType) -> None:
    columns = {"prompt": TEXTS, "id": ["x", "y", "z"], "negative_prompt": TEXTS, "carried": TEXTS}
    texts = pa.table({name: pa.array(values).cast(kind) for name, values in columns.items()})
    table = opened(write(tmp_path, "t.parquet", texts))
    assert planned(table).prompts == 3
    rows = read_rows(table, 0, 0, 3)
    assert rows.select(["prompt", "prompt_id", "negative_prompt", "carried"]).to_pydict() == {
        "prompt": TEXTS,
        "prompt_id": ["x", "y", "z"],
        "negative_prompt": TEXTS,
        "carried": TEXTS,
    }
    assert rows.schema.field("prompt").type == pa.string()


def test_null_typed_columns_mean_defaults(tmp_path: Path) -> None:
    names = ["prompt", "negative_prompt", "seed", "num_images", "width", "prior_guidance_scale", "carried"]
    table = opened(write(tmp_path, "t.parquet", {name: pa.nulls(2) for name in names}))
    assert planned(table).images == 2
    assert read_rows(table, 0, 0, 2)["prompt"].to_pylist() == [None, None]
    assert table.carried.field("carried").type == pa.null()


def test_carried_columns_are_unified_over_files(tmp_path: Path) -> None:
    dictionary = pa.array(["x"]).dictionary_encode()
    write(tmp_path, "1.parquet", {"prompt": ["a"], "n": pa.array([1], pa.int8()), "s": dictionary, "l": [[]]})
    write(tmp_path, "2.parquet", {"prompt": ["a"], "n": pa.nulls(1), "s": ["y"], "l": [[{"k": None}]]})
    write(
        tmp_path, "3.parquet", {"prompt": ["a"], "n": pa.array([2**40]), "l": [[{"k": 2.5}]], "only": [True]}
    )
    table = opened(tmp_path)
    assert {f.name: str(f.type) for f in table.carried} == {
        "n": "int64",
        "s": "string",
        "l": "list<item: struct<k: double>>",
        "only": "bool",
    }
    rows = [read_rows(table, i, 0, 1).select(table.carried.names) for i in range(3)]
    assert all(r.schema == table.carried for r in rows)
    assert [r.to_pylist()[0] for r in rows] == [
        {"n": 1, "s": "x", "l": [], "only": None},
        {"n": None, "s": "y", "l": [{"k": None}], "only": None},
        {"n": 2**40, "s": None, "l": [{"k": 2.5}], "only": True},
    ]


def test_types_that_do_not_go_together_name_both_files(tmp_path: Path) -> None:
    write(tmp_path, "1.parquet", {"prompt": ["a"], "n": [1]})
    write(tmp_path, "2.parquet", {"prompt": ["a"], "n": ["1"]})
    with pytest.raises(PromptTableError) as error:
        opened(tmp_path)
    assert all(word in str(error.value) for word in ("'n'", "1.parquet and 2.parquet", "int64 and string"))


def test_unified_types_hold_every_value() -> None:
    assert unified(pa.uint8(), pa.int8()) == pa.int16()
    assert unified(pa.int64(), pa.uint64()) is None
    assert unified(pa.float32(), pa.float64()) == pa.float64()
    assert unified(pa.int32(), pa.float64()) is None
    assert unified(pa.string(), pa.large_string()) == pa.large_string()
    assert unified(pa.timestamp("us"), pa.timestamp("ns")) is None
    assert unified(pa.struct([("a", pa.int8())]), pa.struct([("a", pa.string())])) is None
    assert plain(pa.list_(pa.dictionary(pa.int8(), pa.binary_view()))) == pa.list_(pa.binary())
