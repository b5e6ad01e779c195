"""Files and folders with the names that people give them, on disk and on S3."""

import json

import pytest

from cascade_batch.errors import PromptTableError
from cascade_batch.prompts import read_rows
from cascade_batch.storage import Storage
from tests.prompts.writing import opened, planned, write

ODD = [
    "a[1]",
    "what?",
    "star*",
    "two words",
    "50%20off",
    "a#b",
    "日本 é",
    "a[!b]c",
    "x::y",
    "{a,b}",
    "a&b=c",
    "a+b",
    "~x",
]


def rows_of(uri: object) -> dict[str, str]:
    """Path -> prompt of each file's first row, as a run reads it."""
    table = opened(uri)
    planned(table)
    return {f.path: read_rows(table, i, 0, 1)["prompt"][0].as_py() for i, f in enumerate(table.files)}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_name_of_a_folder_or_a_file(store: str, name: str) -> None:
    folder, file = f"{store}/{name}", f"{name}.parquet"
    write(folder, file, {"prompt": ["both"]})
    write(folder, "sub/x.parquet", {"prompt": ["below"]})
    write(f"{store}/a1", "x.parquet", {"prompt": ["what the glob would take"]})
    for uri in (folder, f"{folder}/"):
        assert rows_of(uri) == {file: "both", "sub/x.parquet": "below"}
    assert rows_of(f"{folder}/{file}") == {file: "both"}


def test_a_glob_is_one_where_nothing_bears_its_name(store: str) -> None:
    write(store, "a1/x.parquet", {"prompt": ["one"]})
    write(store, "a2/x.parquet", {"prompt": ["two"]})
    assert rows_of(f"{store}/a[1]/*.parquet") == {"a1/x.parquet": "one"}
    write(store, "a[1]/y.parquet", {"prompt": ["itself"]})
    assert rows_of(f"{store}/a[1]") == {"y.parquet": "itself"}


def test_every_spelling_of_the_suffix_is_seen_in_a_folder(store: str) -> None:
    names = ["a.PARQUET", "b.Parquet", "c.parq", "d.pq", "e.snappy.parquet"]
    for name in names:
        write(store, name, {"prompt": [name]})
    Storage(store).put("parquet", b"no suffix at all")
    Storage(store).put("a.parquet.crc", b"a checksum")
    assert list(rows_of(store)) == names


def test_keys_with_empty_names_are_read_as_they_are(moto_root: str) -> None:
    client = Storage(moto_root)._store().files
    write(moto_root, "plain/x.parquet", {"prompt": ["plain"]})
    data = Storage(moto_root).read("plain/x.parquet")
    for key in ("a//b.parquet", "//c.parquet", "d///e//f.parquet"):
        client.pipe_file(f"{moto_root.removeprefix('s3://')}/{key}", data)
    found = rows_of(moto_root)
    assert set(found) == {"plain/x.parquet", "a//b.parquet", "//c.parquet", "d///e//f.parquet"}
    assert rows_of(f"{moto_root}/a//b.parquet") == {"/b.parquet": "plain"}
    assert rows_of(f"{moto_root}/**/b.parquet") == {"a//b.parquet": "plain"}


def make_run(root: str, folder: str, record: object) -> None:
    storage = Storage(f"{root}/{folder}" if folder else root)
    storage.put("run.json", json.dumps(record).encode())
    for key in (
        "plan.parquet",
        "manifest/shard-00000000.parquet",
        "embeddings/x.parquet",
        "table/part-0.parquet",
    ):
        write(storage.uri, key, {"prompt": ["of a run"]})


RUN = {"format": 2, "spec": {}, "table": {}, "plan": {}}


@pytest.mark.parametrize("folder", ["", "run", "deep/er/run"])
def test_a_scan_leaves_out_what_runs_wrote(store: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        write(store, f"in/{number:02}.parquet", {"prompt": ["mine"]})
    make_run(store, folder, RUN)
    beside = f"{folder}/prompts.parquet".lstrip("/")
    write(store, beside, {"prompt": ["mine, beside the run's"]})
    read: list[str] = []
    original = Storage._read_once
    monkeypatch.setattr(
        Storage, "_read_once", lambda self, key, *part: read.append(key) or original(self, key, *part)
    )
    table = opened(store)
    assert {file.path for file in table.files} == {f"in/{n:02}.parquet" for n in range(20)} | {beside}
    assert len(read) == len(table.files) + 1, "one request for the run, one per footer"
    assert {f.path for f in opened(f"{store}/**/*.parquet").files} == {f.path for f in table.files}


def test_a_run_alone_is_no_prompt_table(store: str) -> None:
    make_run(store, "", RUN)
    with pytest.raises(PromptTableError, match="the files of runs are no prompts"):
        opened(store)


@pytest.mark.parametrize("record", [{}, {"format": 2}, [1], "text", None])
def test_a_run_json_of_others_hides_nothing(store: str, record: object) -> None:
    make_run(store, "", record)
    assert len(opened(store).files) == 4
    Storage(store).put("run.json", b"not JSON")
    assert len(opened(store).files) == 4
