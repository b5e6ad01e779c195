"""Where a collection may be made, and what is taken for one."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from cascade_batch.collection import place
from cascade_batch.collection.delta.table import DeltaTableAt
from cascade_batch.collection.place import FORMAT_KEY, create_or_open, is_collection, open_collection
from cascade_batch.collection.schemas import EDITION, FORMAT, KNOWN
from cascade_batch.errors import CascadeError, SpecError, StorageError
from cascade_batch.storage import Storage
from tests.patience import PATIENCE_S
from tests.servers import S3Server
from tests.storage.proxy import Proxy


def foreign_table(folder: str) -> Callable[[Storage], object]:
    return lambda storage: DeltaTableAt.create(storage, folder, pa.schema([("x", pa.int64())]), {})


def test_a_collection_is_made_once_and_opened(store: str) -> None:
    assert not is_collection(store)
    made = create_or_open(store)
    assert is_collection(store)
    assert (made.table.version(), made.known.version()) == (0, 0)
    assert (made.table.schema(), made.known.schema()) == (EDITION, KNOWN)
    assert made.table.configuration()[FORMAT_KEY] == str(FORMAT)
    for opened in (create_or_open(store), open_collection(store + "/")):
        assert (opened.uri, opened.table.url) == (made.uri, made.table.url)


def test_relative_places_and_file_urls_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    create_or_open("my collection")
    assert open_collection(f"file://{tmp_path}/my%20collection").table.version() == 0
    assert open_collection(str(tmp_path / "my collection")).known.version() == 0


def test_two_may_make_the_same_one(store: str) -> None:
    made: list[object] = []

    def make() -> None:
        try:
            made.append(create_or_open(store).uri)
        except CascadeError as error:
            made.append(error)

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert made == [store] * 3
    assert (open_collection(store).table.version(), open_collection(store).known.version()) == (0, 0)


def test_a_half_made_one_is_made_whole(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    DeltaTableAt.create(storage, "known", KNOWN, {FORMAT_KEY: str(FORMAT)})
    storage.create("runs/2026/run.json", b"{}")
    assert not is_collection(storage.uri)
    assert create_or_open(storage.uri).table.version() == 0


@pytest.mark.parametrize(
    ("fill", "told"),
    [
        (lambda storage: storage.create("run.json", b"{}"), "a run"),
        (lambda storage: storage.create("prompts.parquet", b"PAR1"), "prompts.parquet"),
        (lambda storage: storage.create("manifest/shard-00000000.parquet", b""), "manifest/shard-00000000"),
        (lambda storage: storage.create("_delta_log/00000000000000000000.json", b"{}"), "a Delta table"),
    ],
    ids=["run", "prompt table", "files of a run", "Delta table"],
)
def test_a_place_that_holds_something_else_is_refused(
    store: str, fill: Callable[[Storage], object], told: str
) -> None:
    storage = Storage(store)
    fill(storage)
    before = storage.list()
    with pytest.raises(SpecError, match="no room for a collection") as error:
        create_or_open(store)
    assert told in str(error.value.got)
    assert storage.list() == before
    with pytest.raises(SpecError, match="not a collection"):
        open_collection(store)


@pytest.mark.parametrize("folder", ["table", "known"])
def test_tables_that_someone_else_made_are_refused(store: str, folder: str) -> None:
    storage = Storage(store)
    foreign_table(folder)(storage)
    with pytest.raises(SpecError, match="did not make") as error:
        create_or_open(store)
    assert error.value.where == f"{store}/{folder}"
    assert DeltaTableAt(storage, folder).schema().names == ["x"]
    assert not is_collection(store)


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "FORMAT", FORMAT + 1)
    create_or_open(str(tmp_path))
    monkeypatch.undo()
    for opened in (create_or_open, open_collection):
        with pytest.raises(SpecError, match="another format") as error:
            opened(str(tmp_path))
        assert f"format {FORMAT + 1}" in str(error.value.got)
    assert is_collection(str(tmp_path))


@pytest.mark.parametrize(
    ("fill", "told"),
    [
        (lambda _: None, "nothing"),
        (lambda storage: storage.create("run.json", b"{}"), "a run"),
        (lambda storage: storage.create("a.txt", b""), "a.txt"),
    ],
    ids=["nothing", "run", "other"],
)
def test_what_is_there_instead_is_told(tmp_path: Path, fill: Callable[[Storage], object], told: str) -> None:
    fill(Storage(str(tmp_path)))
    with pytest.raises(SpecError, match="not a collection") as error:
        open_collection(str(tmp_path))
    assert told in str(error.value.got)


def test_a_server_that_ignores_conditions_is_refused(
    moto_s3: S3Server, moto_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(moto_s3.port, lambda: None)
    proxy.without = ("if-none-match", "if-match")
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    with pytest.raises(SpecError, match="conditional writes") as error:
        create_or_open(moto_root)
    proxy.close()
    assert "two commits of one edition" in str(error.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{moto_s3.port}")
    assert Storage(moto_root).list() == []


def test_a_disk_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(SpecError, match="conditional writes"):
        create_or_open(str(tmp_path))
    assert Storage(str(tmp_path)).list() == []


def test_a_bucket_that_does_not_exist_is_told_of(moto_root: str) -> None:
    with pytest.raises(StorageError, match="bucket does not exist"):
        create_or_open("s3://no-such-bucket-here/collection")


@pytest.mark.parametrize("uri", ["memory://x/y", "https://example.org/x", "hf://a/b"])
def test_stores_of_no_collections(uri: str) -> None:
    for opened in (create_or_open, open_collection):
        with pytest.raises(SpecError, match="a collection needs"):
            opened(uri)
    assert not is_collection(uri)
