"""What every store promises, on a local folder and on S3 alike."""

import multiprocessing
import os
import pickle
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_batch.errors import SpecError, StorageError
from cascade_batch.storage import ObjectChanged, ObjectExists, ObjectMissing, Storage, remote
from cascade_batch.storage.local import TEMPORARY
from tests.patience import PATIENCE_S


def test_create_writes_once_and_accepts_equal_bytes(store: str) -> None:
    storage = Storage(store)
    storage.create("manifest/a", b"first")
    storage.create("manifest/a", b"first")
    with pytest.raises(ObjectExists) as failure:
        storage.create("manifest/a", b"second")
    assert pickle.loads(pickle.dumps(failure.value)).key == "manifest/a"
    assert storage.read("manifest/a") == b"first"


def test_put_overwrites_and_delete_forgets(store: str) -> None:
    storage = Storage(store)
    storage.put("driver.json", b"1")
    storage.put("driver.json", b"22")
    info = storage.info("driver.json")
    assert info is not None
    assert info.size == 2
    storage.delete("driver.json")
    storage.delete("driver.json")
    assert storage.info("driver.json") is None
    with pytest.raises(ObjectMissing, match="no such object"):
        storage.read("driver.json")


def test_replace_needs_what_was_read(store: str) -> None:
    storage = Storage(store)
    storage.create("record", b"old")
    storage.replace("record", b"new", expected=b"old")
    storage.replace("record", b"new", expected=b"old")  # again: the own write whose answer was lost
    with pytest.raises(ObjectChanged):
        storage.replace("record", b"newer", expected=b"old")
    with pytest.raises(ObjectChanged):
        storage.replace("absent", b"x", expected=b"old")
    assert storage.read("record") == b"new"
    assert not storage.exists("absent")


def test_list_is_recursive_sorted_and_relative(store: str) -> None:
    storage = Storage(store)
    assert storage.list() == []
    for key in ("b", "a/2", "a/1/x", "ab"):
        storage.create(key, key.encode())
    assert [info.key for info in storage.list()] == ["a/1/x", "a/2", "ab", "b"]
    assert [info.key for info in storage.list("a/")] == ["a/1/x", "a/2"]
    assert [info.key for info in storage.list("a")] == ["a/1/x", "a/2", "ab"]
    assert [info.size for info in storage.list("a/1/")] == [5]
    assert storage.list("none/") == []
    assert storage.info("a") is None, "a folder is no object"


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


def test_reads_of_parts(store: str, tmp_path: Path) -> None:
    storage = Storage(store)
    storage.create("ten", b"0123456789")
    storage.create("empty", b"")
    assert storage.read_tail("ten", 3) == b"789"
    assert storage.read_tail("ten", 99) == b"0123456789"
    assert storage.read_tail("empty", 3) == storage.read("empty") == b""
    assert storage.read_range("ten", 2, 4) == b"23"
    assert storage.download("ten", tmp_path / "copy") == 10
    assert (tmp_path / "copy").read_bytes() == b"0123456789"
    for missing in (storage.open, lambda key: storage.download(key, tmp_path / "x")):
        with pytest.raises(ObjectMissing):
            missing("absent")


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


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "a\0b", ".tmp~1"])
def test_unsafe_keys_are_refused(store: str, key: str) -> None:
    storage = Storage(store)
    writes = [storage.delete, lambda key: storage.create(key, b"")]
    names = key.split("/")
    for access in writes if storage.is_local is False and "" in names and key else [storage.read, *writes]:
        with pytest.raises(StorageError, match="not a safe key"):
            access(key)


@pytest.mark.parametrize("key", ["/x", "a//b", "a///b"])
def test_keys_with_empty_names_are_read_where_others_made_them(moto_root: str, key: str) -> None:
    storage = Storage(moto_root)
    storage._store().put(key, b"theirs")
    assert storage.read(key) == storage.open(key).read() == b"theirs"
    assert [info.key for info in storage.list()] == [key]


def test_32_writers_have_one_winner(store: str) -> None:
    race(store)


def test_32_writers_have_one_winner_on_seaweed(seaweed_root: str) -> None:
    race(seaweed_root)


def race(root: str) -> None:
    """32 threads create the same key with different bytes; then 8 replace the winner's."""
    storage = Storage(root)

    def winners(writes: list) -> list[int]:
        won, start = [], threading.Barrier(len(writes), timeout=PATIENCE_S)

        def attempt(number: int) -> None:
            start.wait()
            try:
                writes[number]()
                won.append(number)
            except ObjectExists:
                pass

        threads = [threading.Thread(target=attempt, args=(n,), daemon=True) for n in range(len(writes))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert not any(thread.is_alive() for thread in threads)
        return won

    won = winners([lambda n=n: storage.create("shard", b"writer %d" % n) for n in range(32)])
    assert len(won) == 1
    stored = storage.read("shard")
    assert stored == b"writer %d" % won[0]
    won = winners([lambda n=n: storage.replace("shard", b"again %d" % n, stored) for n in range(8)])
    assert len(won) == 1
    assert storage.read("shard") == b"again %d" % won[0]


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


def test_probe_leaves_no_trace(store: str) -> None:
    storage = Storage(store)
    storage.create("run.json", b"{}")
    assert storage.probe_create_only("run.json") is True
    storage.check_writable()
    assert [info.key for info in storage.list()] == ["run.json"]


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


def test_memory_works_without_create_only_promise() -> None:
    storage = Storage("memory://test-promises/run")
    storage.create("run.json", b"{}")
    assert storage.probe_create_only("run.json") is False, "fsspec only looks first there"
    with pytest.raises(ObjectExists):
        storage.create("run.json", b"other")
    storage.replace("run.json", b"new", expected=b"{}")
    assert [info.key for info in storage.list()] == ["run.json"]
    assert storage.open("run.json").read() == b"new"


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
