"""How places are written: what is refused with the right spelling, and which of two places lies in the other."""

import os
from pathlib import Path

import pytest

from cascade_batch.errors import SpecError, StorageError
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import (
    is_absolute,
    is_model_url,
    key_below,
    names_of,
    split_key,
    split_name,
    split_url,
)


@pytest.mark.parametrize(
    ("uri", "meant"),
    [
        ("s3:/bucket/x", "s3://bucket/x"),
        ("s3:bucket", "s3://bucket"),
        ("s3:///bucket/x", "s3://bucket/x"),
        ("S3://bucket", "s3://bucket"),
        ("s3://", "s3://bucket/folder"),
        ("gs:/bucket", "gs://bucket"),
        ("hf:/datasets/a/b", "hf://datasets/a/b"),
        ("abfs:/container/x", "abfs://container/x"),
        ("https:/host/x", "https://host/x"),
        ("HTTPS://host/x", "https://host/x"),
        ("file:/x/y", "file:///x/y"),
        ("File:///x/y", "file:///x/y"),
    ],
)
def test_what_is_almost_a_url_is_no_local_folder(uri: str, meant: str) -> None:
    with pytest.raises(SpecError, match="almost a URL") as failure:
        Storage(uri)
    assert failure.value.next_step.startswith(f"did you mean {meant}?")


@pytest.mark.parametrize(
    "uri", ["simplecache::s3://b/x", "zip://a.parquet::s3://b/x.zip", "filecache::/x/y", "zip::/x.zip"]
)
def test_chains_of_urls_are_refused(uri: str) -> None:
    with pytest.raises(SpecError, match="wrap others"):
        Storage(uri)


@pytest.mark.parametrize("uri", ["a::b", "at:10:00", "./s3:/x", "what?*[1]", "50%20off", "a#b", "日本"])
def test_odd_local_names_are_local(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage(uri)
    storage.put("x", b"there")
    assert (tmp_path / uri / "x").read_bytes() == b"there"
    assert storage.list()[0].key == "x"


def test_file_urls(tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    for uri in (
        folder.as_uri(),
        f"file://{folder}",
        f"file://localhost{folder}",
        f"local://{folder}",
        f"file:///{folder}",
    ):
        assert os.path.samefile(tmp_path, Path(Storage(uri).uri).parent)
        assert Path(Storage(uri).uri).name == "my run"
    (tmp_path / "my%20run").mkdir()
    assert Storage(folder.as_uri()).uri.endswith("my%20run"), "the very name goes first"


@pytest.mark.parametrize(
    ("uri", "needles"),
    [
        ("gs://bucket/x", ["gs://", "cascade-batch[gcs]"]),
        ("az://container/x", ["az://", "cascade-batch[azure]"]),
        ("wandb://x/y", ["wandb://", "Install wandbfs"]),
        ("nonsense://x/y", ["nonsense://"]),
        ("zip://x.zip/y", ["zip://"]),
    ],
)
def test_a_protocol_that_nothing_speaks_says_what_to_install(
    uri: str, needles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    monkeypatch.setitem(__import__("sys").modules, "adlfs", None)
    for access in (
        lambda s: s.read("k"),
        lambda s: s.info("k"),
        lambda s: s.list(),
        lambda s: s.check_writable(),
    ):
        with pytest.raises(StorageError) as failure:
            access(Storage(uri))
        assert not failure.value.transient
        for needle in needles:
            assert needle in str(failure.value)


def test_which_place_lies_in_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for root in ("in", "./in/", "in/../in", f"file://{tmp_path}/in", "link", "~/in", f"{tmp_path}//in"):
        assert key_below(root, "in") == ""
        assert key_below("in", root) == ""
        assert key_below(root, f"{tmp_path}/in/sub/new") == "sub/new"
        assert key_below(root, "link/sub") == "sub"
        assert key_below(root, "in2") is None
        assert key_below(root, ".") is None
    assert key_below("s3://b/p", "s3a://b//p/q/") == "q"
    assert key_below("s3://b", "s3://b/p") == "p"
    assert key_below("gs://b/p/", "gcs://b/p") == ""
    assert key_below("s3://b/p", "s3://b/pq") is None
    assert key_below("s3://b/p", "gs://b/p") is None
    assert key_below("s3://b/p", "p") is None


@pytest.mark.parametrize(
    ("uri", "folder", "key"),
    [
        ("s3://b/a/x.parquet", "s3://b/a", "x.parquet"),
        ("s3://b/a//x.parquet", "s3://b/a", "/x.parquet"),
        ("s3://b//x", "s3://b", "/x"),
        ("s3://b", "s3://b", ""),
        ("s3://b/a/", "s3://b/a", ""),
        ("https://host/x", "https://host", "x"),
        ("/x", "/", "x"),
        ("/a//x", "/a", "x"),
        ("a/x", "a", "x"),
        ("x", ".", "x"),
        ("/a://b/x", "/a://b", "x"),
        ("file:///a/x", "file:///a", "x"),
        ("file:///x", "file:///", "x"),
    ],
)
def test_a_file_and_its_folder(uri: str, folder: str, key: str) -> None:
    assert split_key(uri) == (folder, key)


def test_a_folder_and_a_last_name_without_empty_ones_between() -> None:
    assert split_name("s3://b/a//x") == ("s3://b/a", "x")
    assert split_name("hf://owner/name") == ("hf://owner", "name")
    assert split_name("s3://b") == ("s3://b", "")
    assert split_name("x") == (".", "x")


def test_what_a_place_consists_of() -> None:
    assert split_url("s3://b/a//x") == ("s3", "b", "a//x")
    assert split_url("s3://b") == ("s3", "b", "")
    assert split_url("file:///a/x") == ("file", "", "/a/x")
    assert split_url("/a://b") == ("", "", "/a://b")
    assert names_of("https://host/a//x") == ["host", "a", "x"]
    assert [is_absolute(uri) for uri in ("s3://b", "/x", "x", "a/b://c")] == [True, True, False, False]
    models = ("hf://owner/name", "hf://datasets/a/b", "s3://owner/name", "owner/name")
    assert [is_model_url(uri) for uri in models] == [True, False, False, False]
