"""What `Storage` promises beyond what test_conformance asks of every store."""

import multiprocessing
import os
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_batch.errors import SpecError, StorageError
from cascade_batch.storage import Storage, remote
from cascade_batch.storage.local import TEMPORARY


@pytest.mark.parametrize("server", ["moto_root", "seaweed_root"])
def test_a_listing_goes_on_from_page_to_page(
    server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PAGE", 3)
    storage = Storage(request.getfixturevalue(server))
    keys = [f"manifest/shard-{number}" for number in range(7)] + ["manifest/a +&%41 ü.png", "manifest-2"]
    for key in keys:
        storage.create(key, b"")
    assert [info.key for info in storage.list()] == sorted(keys)
    assert [info.key for info in storage.list("manifest/")] == sorted(keys)[1:]
    assert [info.key for info in storage.list("manifest/shard-6")] == ["manifest/shard-6"]


def test_open_serves_parquet(store: str, tmp_path: Path) -> None:
    table = pa.table({"prompt": [f"a fox {i}" for i in range(5000)], "seed": range(5000)})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=1000)
    storage = Storage(store)
    storage.create("t.parquet", (tmp_path / "t.parquet").read_bytes())
    with storage.open("t.parquet") as file:
        opened = pq.ParquetFile(file)
        assert opened.num_row_groups == 5
        assert opened.read_row_group(3, ["seed"]).column("seed").to_pylist() == list(range(3000, 4000))


def test_download_joins_ranges_in_order(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascade_batch.storage.storage.DOWNLOAD_RANGE", 7)
    data, storage = os.urandom(100), Storage(store)
    storage.create("weights", data)
    assert storage.download("weights", tmp_path / "copy") == 100
    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.parametrize("key", ["/x", "a//b", "a///b"])
def test_keys_with_empty_names_are_read_where_others_made_them(moto_root: str, key: str) -> None:
    storage = Storage(moto_root)
    storage._store().put(key, b"theirs")
    assert storage.read(key) == storage.open(key).read() == b"theirs"
    assert [info.key for info in storage.list()] == [key]


def test_storage_crosses_pickle_and_fork(store: str) -> None:
    storage = Storage(store)
    storage.create("a", b"1")
    storage.create_only = False
    copy = pickle.loads(pickle.dumps(storage))
    assert (copy.uri, copy.create_only, copy.read("a")) == (storage.uri, False, b"1")
    child = multiprocessing.get_context("fork").Process(target=storage.create, args=("b", b"from the child"))
    child.start()  # the child must make its own connection: an s3fs instance hangs after a fork
    child.join(60)
    assert child.exitcode == 0
    assert storage.read("b") == b"from the child"


def test_leftovers_of_a_killed_writer_are_not_listed(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.create("shard/.tmp-like-id.png", b"an image whose id looks odd")
    (tmp_path / "shard" / f"{TEMPORARY}dead").write_bytes(b"half a pic")
    assert [info.key for info in storage.list()] == ["shard/.tmp-like-id.png"]


def test_relative_and_file_roots_are_absolute_local_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage("run").uri == Storage(f"file://{tmp_path}/run/").uri == str(tmp_path / "run")
    assert Storage("run").is_local
    assert not Storage("s3://bucket/run").is_local


@pytest.mark.parametrize(
    ("root", "knows"), [("tmp_path", True), ("moto_root", True), ("seaweed_root", True), (None, False)]
)
def test_which_stores_honour_conditions(
    root: str | None, knows: bool, request: pytest.FixtureRequest
) -> None:
    storage = Storage(str(request.getfixturevalue(root)) if root else "memory://test-promises/run")
    store = storage._store()
    assert (store.create_only, store.replaces_by_condition) == (knows, knows)
    storage.put("run.json", b"{}")
    assert storage.probe_create_only("run.json") is knows, "of others, fsspec only looks first"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://user:hunter2@bucket/x",
        "https://host/x?X-Amz-Signature=hunter2",
        "s3://bucket/x?AWSAccessKeyId=hunter2",
        "s3://bucket/x?secret=hunter2",
        "abfs://c@account/x?sig=hunter2",
    ],
)
def test_urls_with_credentials_are_refused_unechoed(uri: str) -> None:
    with pytest.raises(SpecError, match="credentials") as failure:
        Storage(uri)
    assert "hunter2" not in str(failure.value)


def test_what_a_store_cannot_read_is_an_error_of_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise NotImplementedError("that compression method is not supported")

    monkeypatch.setattr(Storage, "_read_once", refuse)
    with pytest.raises(StorageError, match="cannot read this object"):
        Storage(str(tmp_path)).read("a")
