"""What every store promises, whichever it is: a new one passes these tests by one parameter, in one of three lists."""

import hashlib
import pickle
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from cascade_batch.errors import StorageError
from cascade_batch.storage import ObjectChanged, ObjectExists, ObjectMissing, Storage, hub
from tests.patience import PATIENCE_S
from tests.storage.hub import Hub
from tests.storage.web import web_server

WRITTEN = ["folder_root", "moto_root", "seaweed_root", "memory_root"]
"""Fixtures that give a fresh, empty root."""
READ_ONLY = ["hub_root"]
"""Fixtures that give a root which holds `CONTENT`."""
UNGUARDED = ["memory_root"]
"""Those of the written ones that cannot tell two writers apart."""
UNLISTED = ["web_root"]
"""The same, of stores that cannot be listed."""

CONTENT = {
    "ten": b"0123456789",
    "empty": b"",
    "a/1/x": b"in folders below",
    "a/2": b"in a folder",
    "ab": b"beside it",
    "large.safetensors": bytes(range(256)) * 20,
}


@pytest.fixture
def folder_root(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def memory_root() -> str:
    """A store without conditions: fsspec only looks first there."""
    return f"memory://{secrets.token_hex(6)}/run"


@pytest.fixture
def web_root() -> Iterator[str]:
    with web_server() as server:
        server.files = {f"/folder/{key}": data for key, data in CONTENT.items()}
        yield f"{server.address}/folder"


@pytest.fixture
def hub_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = Hub()
    server.repositories["owner/name"] = {"main": {f"folder/{key}": data for key, data in CONTENT.items()}}
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    hub.snapshot.cache_clear()
    yield "hf://owner/name/folder"
    hub.snapshot.cache_clear()
    server.close()


@pytest.fixture(params=WRITTEN)
def storage(request: pytest.FixtureRequest) -> Storage:
    """An empty store."""
    return Storage(request.getfixturevalue(request.param))


@pytest.fixture(params=[root for root in WRITTEN if root not in UNGUARDED])
def contested(request: pytest.FixtureRequest) -> Storage:
    """An empty store that keeps several writers apart."""
    return Storage(request.getfixturevalue(request.param))


@pytest.fixture(params=[*WRITTEN, *READ_ONLY])
def listed(request: pytest.FixtureRequest) -> Storage:
    """A store that holds `CONTENT`, and can be listed."""
    return _filled(request)


@pytest.fixture(params=[*WRITTEN, *READ_ONLY, *UNLISTED])
def filled(request: pytest.FixtureRequest) -> Storage:
    """A store that holds `CONTENT`."""
    return _filled(request)


@pytest.fixture(params=[*READ_ONLY, *UNLISTED])
def read_only(request: pytest.FixtureRequest) -> Storage:
    """A store that holds `CONTENT` for good."""
    return _filled(request)


def _filled(request: pytest.FixtureRequest) -> Storage:
    storage = Storage(request.getfixturevalue(request.param))
    for key, data in CONTENT.items() if request.param in WRITTEN else ():
        storage.put(key, data)
    return storage


def test_reads_of_parts(filled: Storage) -> None:
    for key, data in CONTENT.items():
        assert filled.read(key) == data
    assert filled.read_head("ten", 3) == b"012"
    assert filled.read_head("ten", 99) == b"0123456789"
    assert filled.read_tail("ten", 3) == b"789"
    assert filled.read_tail("ten", 99) == b"0123456789"
    assert filled.read_head("empty", 3) == filled.read_tail("empty", 3) == filled.read("empty") == b""
    assert filled.read_range("ten", 2, 4) == b"23"
    assert filled.read_range("ten", 2, 2) == b""


def test_an_open_file_and_a_copy(filled: Storage, tmp_path: Path) -> None:
    with filled.open("ten") as file:
        assert file.read(2) == b"01"
        assert (file.seek(-3, 2), file.read()) == (7, b"789")
        assert (file.seek(4), file.read(2)) == (4, b"45")
    assert filled.open("empty").read() == b""
    for key, data in CONTENT.items():
        assert filled.download(key, tmp_path / "copy") == len(data)
        assert (tmp_path / "copy").read_bytes() == data


def test_what_is_not_there(filled: Storage, tmp_path: Path) -> None:
    reads: list[Callable[[str], object]] = [
        filled.read,
        lambda key: filled.read_head(key, 3),
        lambda key: filled.read_tail(key, 3),
        lambda key: filled.read_range(key, 0, 3),
        filled.open,
        lambda key: filled.download(key, tmp_path / "copy"),
    ]
    for key in ("absent", "a/absent", "absent/x"):
        for read in reads:
            with pytest.raises(ObjectMissing, match="no such object") as failure:
                read(key)
            assert failure.value.__dict__["key"] == key
        assert filled.info(key) is None
        assert not filled.exists(key)
    assert filled.info("a") is None, "a folder is no object"


def test_what_is_known_of_an_object(filled: Storage) -> None:
    for key, data in CONTENT.items():
        info = filled.info(key)
        assert info is not None
        assert filled.exists(key)
        assert (info.key, info.size) == (key, len(data))
        assert info.etag is None or (info.etag and '"' not in info.etag)
        assert info.sha256 in (None, hashlib.sha256(data).hexdigest())
        assert filled.info(key) == info


def test_a_local_file_is_the_object(filled: Storage) -> None:
    paths = {key: filled._store().local_file(key) for key in CONTENT}
    assert (None not in paths.values()) is filled.is_local
    assert all(path is None or path.read_bytes() == CONTENT[key] for key, path in paths.items())


def test_list_is_recursive_sorted_and_relative(listed: Storage) -> None:
    assert [info.key for info in listed.list()] == sorted(CONTENT)
    assert [info.key for info in listed.list("a/")] == ["a/1/x", "a/2"]
    assert [info.key for info in listed.list("a")] == ["a/1/x", "a/2", "ab"]
    assert [info.key for info in listed.list("a/1/x")] == ["a/1/x"]
    assert [info.size for info in listed.list("a/1/")] == [len(CONTENT["a/1/x"])]
    assert listed.list("none/") == listed.list("a/none") == []
    assert listed.list() == [listed.info(key) for key in sorted(CONTENT)]


def test_a_listing_by_prefix_tells_of_nothing_else(listed: Storage) -> None:
    told = {info.key for info in listed._store().list("a/1")}
    assert told >= {"a/1/x"}
    assert told == {"a/1/x"} or not listed.lists_by_prefix


@pytest.mark.parametrize("key", ["", "../x", "a/../../x", "a/./x", "a\0b", ".tmp~1", "a/.tmp~1"])
def test_unsafe_keys_are_not_read(filled: Storage, key: str) -> None:
    for access in (filled.read, filled.info, filled.open):
        with pytest.raises(StorageError, match="not a safe key"):
            access(key)


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "a\0b", ".tmp~1"])
def test_unsafe_keys_are_refused(storage: Storage, key: str) -> None:
    writes = [
        storage.delete,
        lambda key: storage.create(key, b""),
        lambda key: storage.put(key, b""),
    ]
    names = key.split("/")
    for access in writes if storage.is_local is False and "" in names and key else [storage.read, *writes]:
        with pytest.raises(StorageError, match="not a safe key"):
            access(key)


def test_what_is_only_read_refuses_every_write(read_only: Storage) -> None:
    writes = [
        read_only.check_writable,
        lambda: read_only.create("new", b""),
        lambda: read_only.create("ten", CONTENT["ten"]),
        lambda: read_only.put("ten", b""),
        lambda: read_only.replace("ten", b"new", expected=CONTENT["ten"]),
        lambda: read_only.delete("ten"),
    ]
    for write in writes:
        with pytest.raises(StorageError, match="read, never written"):
            write()
    assert read_only.read("ten") == CONTENT["ten"]


def test_create_writes_once_and_accepts_equal_bytes(storage: Storage) -> None:
    storage.create("manifest/a", b"first")
    storage.create("manifest/a", b"first")
    with pytest.raises(ObjectExists) as failure:
        storage.create("manifest/a", b"second")
    assert pickle.loads(pickle.dumps(failure.value)).key == "manifest/a"
    assert storage.read("manifest/a") == b"first"


def test_put_overwrites_and_delete_forgets(storage: Storage) -> None:
    storage.put("driver.json", b"1")
    before = storage.info("driver.json")
    storage.put("driver.json", b"22")
    info = storage.info("driver.json")
    assert info is not None
    assert info.size == 2
    assert before is not None
    assert info.etag is None or info.etag != before.etag
    storage.delete("driver.json")
    storage.delete("driver.json")
    assert storage.info("driver.json") is None
    with pytest.raises(ObjectMissing, match="no such object"):
        storage.read("driver.json")


def test_replace_needs_what_was_read(storage: Storage) -> None:
    storage.create("record", b"old")
    storage.replace("record", b"new", expected=b"old")
    storage.replace("record", b"new", expected=b"old")  # again: the own write whose answer was lost
    with pytest.raises(ObjectChanged):
        storage.replace("record", b"newer", expected=b"old")
    with pytest.raises(ObjectChanged):
        storage.replace("absent", b"x", expected=b"old")
    assert storage.read("record") == storage.open("record").read() == b"new"
    assert not storage.exists("absent")


def test_nothing_is_there_at_first(storage: Storage) -> None:
    assert storage.list() == storage.list("a/") == []
    assert storage.info("run.json") is None


def test_first_contact_and_probe_leave_no_trace(storage: Storage) -> None:
    storage.check_writable()
    assert storage.list() == []
    storage.create("run.json", b"{}")
    assert storage.probe_create_only("run.json") is storage._store().create_only
    with pytest.raises(ObjectExists):
        storage.create("run.json", b"other")
    storage.check_writable()
    assert [info.key for info in storage.list()] == ["run.json"]
    assert storage.read("run.json") == b"{}"
    with pytest.raises(ObjectMissing):
        storage.probe_create_only("absent")


def test_an_object_is_whole_whenever_it_is_seen(storage: Storage) -> None:
    contents = [bytes([number]) * (100_000 + number) for number in range(8)]
    sizes = {len(data) for data in contents}
    storage.put("driver.json", contents[0])

    def write() -> None:
        for number, data in enumerate(contents):
            storage.create(f"shard-{number}", data)
            storage.put("driver.json", data)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    while writer.is_alive():
        assert storage.read("driver.json") in contents
        for info in storage.list():
            assert info.size in sizes
            assert storage.read(info.key) in contents
    writer.join(PATIENCE_S)
    assert [storage.read(f"shard-{number}") for number in range(8)] == contents


def test_the_store_itself_judges_conditions(storage: Storage) -> None:
    store = storage._store()
    storage.put("record", b"old")
    old = storage.info("record")
    assert old is not None
    storage.put("record", b"other")
    if store.create_only:
        with pytest.raises(FileExistsError):
            store.create("record", b"new")
    if store.replaces_by_condition:
        with pytest.raises(FileExistsError):
            store.replace("record", b"new", b"old", old.etag)
    assert storage.read("record") == b"other"


@pytest.mark.parametrize("root", UNGUARDED)
def test_stores_that_cannot_keep_writers_apart_say_so(root: str, request: pytest.FixtureRequest) -> None:
    store = Storage(request.getfixturevalue(root))._store()
    assert not store.create_only
    assert not store.replaces_by_condition


def test_of_32_creators_one_wins(contested: Storage) -> None:
    won = winners([lambda n=n: contested.create("shard", b"writer %d" % n) for n in range(32)])
    assert len(won) == 1
    assert contested.read("shard") == b"writer %d" % won[0]


def test_of_8_replacers_one_wins(contested: Storage) -> None:
    contested.create("shard", b"old")
    won = winners([lambda n=n: contested.replace("shard", b"again %d" % n, b"old") for n in range(8)])
    assert len(won) == 1
    assert contested.read("shard") == b"again %d" % won[0]


def winners(writes: Sequence[Callable[[], None]]) -> list[int]:
    """Which of the writes, all begun at once by threads of their own, were not told of another object."""
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
