"""Which files make a table: one file, a folder, a glob, on disk and on S3; and what is refused."""

import dataclasses
import json
import pickle
from pathlib import Path

import pytest

from cascade_batch.errors import PromptTableError
from cascade_batch.prompts import PromptTable, read_rows, rows_sha256
from cascade_batch.prompts.finding import glob_pattern
from cascade_batch.prompts.footers import TAIL
from tests.prompts.writing import opened, planned, write

KEYS = ["b.parquet", "a/one.parquet", "a/b/two.parquet", "odd[1].parquet"]
SKIPPED = ["_temporary/x.parquet", ".hidden.parquet", "a/_x.parquet", "_SUCCESS", "notes.txt"]


@pytest.fixture
def root(store: str) -> str:
    for key in KEYS + SKIPPED:
        write(store, key, {"prompt": [key]})
    return store


def paths(table: PromptTable) -> list[str]:
    return [file.path for file in table.files]


def test_every_way_to_name_a_table(root: str) -> None:
    assert paths(opened(root)) == sorted(KEYS)
    assert paths(opened(root + "/")) == sorted(KEYS)
    assert paths(opened(f"{root}/a/one.parquet")) == ["one.parquet"]
    assert paths(opened(f"{root}/odd[1].parquet")) == ["odd[1].parquet"]
    assert paths(opened(f"{root}/*.parquet")) == ["b.parquet", "odd[1].parquet"]
    assert paths(opened(f"{root}/**/*.parquet")) == sorted(KEYS)
    assert paths(opened(f"{root}/a/?n[a-f].*")) == ["one.parquet"]
    assert paths(opened(f"{root}/a/o*")) == ["one.parquet"]


def test_a_table_reads_and_plans_alike_on_every_store(root: str) -> None:
    table = opened(root)
    plan = planned(table)
    assert plan.prompts == 4
    assert [file.rows for file in table.files] == [1, 1, 1, 1]
    rows = read_rows(table, 1, 0, 1)
    assert rows["prompt_id"].to_pylist() == ["a/one.parquet:0"]
    assert rows_sha256(rows)[:12] == "662958c92ed2"


def test_relative_paths_and_names_with_wildcards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "one.parquet", {"prompt": ["a"]})
    monkeypatch.chdir(tmp_path)
    for uri in ("one.parquet", "*.parquet", ".", f"file://{tmp_path}/one.parquet"):
        table = opened(uri)
        assert paths(table) == ["one.parquet"]
        assert table.root == str(tmp_path)


def test_nothing_there_is_an_error_that_says_what_is(tmp_path: Path) -> None:
    write(tmp_path, "table.csv", {"prompt": ["a"]})
    for uri in (tmp_path, tmp_path / "none", tmp_path / "*.parquet"):
        with pytest.raises(PromptTableError, match="no prompt files"):
            opened(uri)
    with pytest.raises(PromptTableError, match=r"table\.csv"):
        opened(tmp_path)
    with pytest.raises(PromptTableError, match="no prompt table was named"):
        opened("")


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not parquet at all", b"PAR1junkjunk\xff\xff\xff\x7fPAR1"])
def test_files_that_are_not_parquet_are_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "broken.parquet").write_bytes(data)
    with pytest.raises(PromptTableError, match=r"broken\.parquet"):
        opened(tmp_path)


def test_a_footer_longer_than_the_first_read(tmp_path: Path) -> None:
    columns = {f"carried_column_with_a_long_name_{i}": [i] for i in range(1500)}
    path = write(tmp_path, "wide.parquet", {"prompt": ["a"], **columns})
    assert int.from_bytes(Path(path).read_bytes()[-8:-4], "little") > TAIL
    assert len(opened(path).carried) == 1500


def test_a_table_survives_pickle_and_json(tmp_path: Path) -> None:
    for key in KEYS:
        write(tmp_path, key, {"caption": ["a"], "id": [key], "score": [1.5]})
    table = opened(tmp_path, prompt="caption")
    assert pickle.loads(pickle.dumps(table)) == table
    stored = json.loads(json.dumps(table.to_json()))
    assert PromptTable.from_json(stored) == table
    assert PromptTable.from_json(stored).at("/elsewhere") == dataclasses.replace(table, root="/elsewhere")


def test_the_digest_follows_names_and_content_not_places(tmp_path: Path) -> None:
    digests = [
        opened(Path(write(tmp_path / folder, name, {"prompt": [text]})).parent).digest
        for folder, name, text in (("1", "a.parquet", "x"), ("2", "a.parquet", "x"), ("3", "b.parquet", "x"))
    ]
    write(tmp_path / "4", "a.parquet", {"prompt": ["y"]})
    assert digests[0] == digests[1]
    assert len({*digests, opened(tmp_path / "4").digest}) == 3


def test_null_prompts_are_counted_from_footers(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", {"prompt": ["a", None, None]}, row_group_size=1)
    assert opened(tmp_path).null_prompts == 2
    write(tmp_path, "b.parquet", {"prompt": ["a"]}, write_statistics=False)
    assert opened(tmp_path).null_prompts is None


@pytest.mark.parametrize(
    ("glob", "key", "matches"),
    [
        ("*.parquet", "a/b.parquet", False),
        ("**/b.parquet", "b.parquet", True),
        ("x[!0-9]", "xa", True),
        ("x[!0-9]", "x5", False),
        ("x[a-c]", "xb", True),
        ("a.b", "axb", False),
        ("[", "[", True),
    ],
)
def test_globs(glob: str, key: str, matches: bool) -> None:
    assert bool(glob_pattern(glob).fullmatch(key)) == matches
