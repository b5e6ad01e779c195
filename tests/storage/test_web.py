"""Files behind web URLs: presigned or not, with ranges or without, and never a word of the query."""

import pickle
from collections.abc import Iterator

import pytest

from cascade_batch.errors import StorageError
from cascade_batch.storage import ObjectMissing, Storage
from tests.storage.web import SIGNATURE, WebServer, web_server

DATA = bytes(range(256)) * 40


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        server.files = {"/a/table.bin": DATA, "/a/empty": b"", "/a/my file é.bin": b"named"}
        yield server


@pytest.mark.parametrize("ranges", [True, False])
def test_parts_of_a_file_that_only_a_signature_opens(web: WebServer, ranges: bool) -> None:
    web.ranges, web.signatures = ranges, {SIGNATURE}
    storage = pickle.loads(pickle.dumps(Storage(f"{web.address}/a", SIGNATURE)))
    info = storage.info("table.bin")
    assert info is not None
    assert info.size == len(DATA)
    assert storage.read("table.bin") == DATA
    assert storage.read_tail("table.bin", 100) == DATA[-100:]
    assert storage.read_tail("table.bin", 10**6) == DATA
    assert storage.read_range("table.bin", 300, 5000) == DATA[300:5000]
    file = storage.open("table.bin")
    assert (file.seek(77), file.read(5)) == (77, DATA[77:82])
    assert {method for method, _ in web.requests} == {"GET"}
    assert not ranges or len({target for _, target in web.requests}) == 1


def test_a_server_without_ranges_is_asked_once(web: WebServer) -> None:
    web.ranges = False
    file = Storage(f"{web.address}/a").open("table.bin")
    for at in (0, 5000, 9000):
        file.seek(at)
        file.read(10)
    assert len(web.requests) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_empty_missing_and_oddly_named_files(web: WebServer, ranges: bool) -> None:
    web.ranges = ranges
    storage = Storage(f"{web.address}/a")
    empty = storage.info("empty")
    assert empty is not None
    assert (empty.size, storage.read("empty"), storage.read_tail("empty", 8)) == (0, b"", b"")
    assert storage.info("none") is None
    with pytest.raises(ObjectMissing):
        storage.read_tail("none", 8)
    assert storage.read("my file é.bin") == storage.read("my%20file%20%C3%A9.bin") == b"named"


def test_a_redirect_is_followed_with_its_own_signature(web: WebServer) -> None:
    web.redirect = {"/get?id=5": f"{web.address}/a/table.bin?{SIGNATURE}"}
    storage = Storage(web.address, "id=5")
    assert storage.read_range("get", 5, 50) == DATA[5:50]
    assert web.requests[-1] == ("GET", f"/a/table.bin?{SIGNATURE}")


def test_a_refused_signature_is_one_line_without_it(web: WebServer) -> None:
    web.signatures = {SIGNATURE}
    with pytest.raises(StorageError, match="access denied") as failure:
        Storage(f"{web.address}/a", "X-Amz-Signature=hush-hush").read("table.bin")
    assert "hush" not in str(failure.value)
    assert "hush" not in repr(Storage(f"{web.address}/a", "X-Amz-Signature=hush-hush"))


def test_the_web_is_neither_listed_nor_written(web: WebServer) -> None:
    storage = Storage(f"{web.address}/a")
    with pytest.raises(StorageError, match="cannot be listed"):
        storage.list()
    for write in (storage.check_writable, lambda: storage.create("x", b""), lambda: storage.put("x", b"")):
        with pytest.raises(StorageError, match="read, never written"):
            write()
