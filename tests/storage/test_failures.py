"""What goes wrong with stores: retries, lost answers, refusals, and what their messages may say."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from s3fs import S3FileSystem

from cascade_batch.errors import StorageError
from cascade_batch.storage import ObjectChanged, ObjectExists, Storage, failures
from tests.servers import ACCESS_KEY, SECRET_KEY, S3Server, free_ports


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_WAIT", 0.001)


class ScriptedS3(ThreadingHTTPServer):
    """Answers every request with `answer(method, path, headers)` -> (status, error code, message)."""

    def __init__(self, answer: Callable[[str, str, dict], tuple[int, str, str]]) -> None:
        self.answer = answer
        self.requests: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # S3 clients wait for `100 Continue`

    def do_PUT(self) -> None:
        server = cast(ScriptedS3, self.server)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.requests.append(self.command)
        status, code, message = server.answer(self.command, self.path, dict(self.headers))
        if status == 0:  # hang up without an answer
            self.close_connection = True
            return
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode() if code else b""
        body = b"" if self.command == "HEAD" else body
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_DELETE = do_PUT

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def scripted(moto_root: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ScriptedS3]]:
    """Starts a `ScriptedS3` and points the environment to it."""
    servers: list[ScriptedS3] = []

    def start(answer: Callable[[str, str, dict], tuple[int, str, str]]) -> ScriptedS3:
        server = ScriptedS3(answer)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code"),
    [(503, "SlowDown"), (500, "InternalError"), (502, ""), (400, "RequestTimeout"), (429, "TooManyRequests"),
     (409, "ConditionalRequestConflict"), (0, "")],
)  # fmt: skip
def test_transient_answers_are_retried_until_they_pass(scripted: Callable, status: int, code: str) -> None:
    answers = iter([(status, code, "later")] * 2)
    server = scripted(lambda *_: next(answers, (200, "", "")))
    Storage("s3://bucket/run").create("a", b"data")
    assert server.requests == ["PUT"] * 3


def test_retries_are_bounded_and_say_so(scripted: Callable) -> None:
    server = scripted(lambda *_: (503, "SlowDown", "reduce your request rate"))
    with pytest.raises(StorageError, match="kept failing") as failure:
        Storage("s3://bucket/run").create("a", b"data")
    assert failure.value.transient
    assert len(server.requests) == failures.TRIES, "s3fs and botocore must not multiply the tries"


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [(403, "AccessDenied", "access denied"), (403, "InvalidAccessKeyId", "bad credentials"),
     (403, "SignatureDoesNotMatch", "bad credentials"), (400, "ExpiredToken", "expired credentials"),
     (404, "NoSuchBucket", "bucket does not exist"), (400, "MalformedXML", "the store refused"),
     (403, "RequestTimeTooSkewed", "clock")],
)  # fmt: skip
def test_refusals_are_told_at_once_without_credentials(
    scripted: Callable, monkeypatch: pytest.MonkeyPatch, status: int, code: str, said: str
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-session-token")
    secret = (
        f"key {ACCESS_KEY} {SECRET_KEY} a-session-token AKIAIOSFODNN7EXAMPLE http://h/p?X-Amz-Signature=5ec"
    )
    server = scripted(lambda *_: (status, code, secret.replace("&", "&amp;")))
    with pytest.raises(StorageError, match=said) as failure:
        Storage("s3://bucket/run").create("a", b"data")
    assert not failure.value.transient
    assert len(server.requests) == 1
    for word in (ACCESS_KEY, SECRET_KEY, "a-session-token", "AKIAIOSFODNN7EXAMPLE", "5ec"):
        assert word not in str(failure.value)
    assert failure.value.__cause__ is None
    assert failure.value.__suppress_context__, "a traceback would print the server's own text"


def test_first_contact_names_what_is_wrong(
    seaweed_root: str, seaweed_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    Storage(seaweed_root).check_writable()
    with pytest.raises(StorageError, match="bucket does not exist") as failure:
        Storage("s3://no-such-bucket/run").check_writable()
    assert "no-such-bucket" in str(failure.value)
    with pytest.raises(StorageError, match="bucket does not exist"):
        Storage("s3://no-such-bucket/run").list("manifest/")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    with pytest.raises(StorageError, match="credentials") as failure:
        Storage(seaweed_root).check_writable()
    assert "a-wrong-secret" not in str(failure.value)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StorageError, match="no credentials found"):
        Storage(seaweed_root).check_writable()


def test_unreachable_endpoint_is_transient(moto_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL") as failure:
        Storage(moto_root).list()
    assert failure.value.transient


def test_unknown_protocol_is_one_clear_line() -> None:
    with pytest.raises(StorageError, match="refused") as failure:
        Storage("nosuchthing://bucket/run").check_writable()
    assert "nosuchthing" in str(failure.value)


@pytest.mark.parametrize("landed", [False, True], ids=["before", "after landing"])
@pytest.mark.parametrize("verb", ["create", "put", "replace"])
def test_a_lost_answer_costs_nothing(
    store: str, monkeypatch: pytest.MonkeyPatch, verb: str, landed: bool
) -> None:
    storage, real, failed = Storage(store), Storage._put_once, []
    if verb == "replace":
        storage.create("a", b"old")

    def failing_once(self: Storage, *args: Any) -> None:
        if failed or landed:
            real(self, *args)
        if not failed:
            failed.append(True)
            raise ConnectionResetError(errno.ECONNRESET, "reset by peer")

    monkeypatch.setattr(Storage, "_put_once", failing_once)
    getattr(storage, verb)(*("a", b"new", b"old")[: 3 if verb == "replace" else 2])
    assert storage.read("a") == b"new"
    assert failed


def test_reads_of_an_open_file_are_retried(moto_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, real, failed = Storage(moto_root), Storage._read_once, []
    storage.create("a", b"0123456789")

    def failing_once(self: Storage, *args: Any) -> bytes:
        if not failed:
            failed.append(True)
            raise TimeoutError("too slow")
        return real(self, *args)

    monkeypatch.setattr(Storage, "_read_once", failing_once)
    assert storage.open("a").read() == b"0123456789"
    assert failed


def test_a_store_that_ignores_the_condition_is_found_out(
    moto_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = S3FileSystem._call_s3

    async def ignoring(self: S3FileSystem, *args: Any, **options: Any) -> Any:
        return await real(self, *args, **{k: v for k, v in options.items() if k != "IfNoneMatch"})

    monkeypatch.setattr(S3FileSystem, "_call_s3", ignoring)
    storage = Storage(moto_root)
    storage.create("run.json", b"{}")
    storage.create_only = storage.probe_create_only("run.json")
    assert storage.create_only is False
    with pytest.raises(ObjectExists):
        storage.create("run.json", b"another")
    assert storage.read("run.json") == b"{}"


def test_a_store_that_refuses_conditions_is_used_without(scripted: Callable) -> None:
    def answer(method: str, path: str, headers: dict) -> tuple[int, str, str]:
        if "If-None-Match" in headers:
            return 501, "NotImplemented", "no such header"
        if method == "PUT":
            return 200, "", ""
        return 404, "NoSuchKey", "nothing there"

    server = scripted(answer)
    Storage("s3://bucket/run").create("a", b"data")
    assert server.requests[0] == server.requests[-1] == "PUT"


def test_a_store_that_refuses_the_right_etag_is_overwritten_with_a_warning(
    moto_root: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Storage(moto_root)
    storage.create("a", b"old")
    real = Storage._put_once

    def refusing(self: Storage, key: str, data: bytes, mode: Any, *rest: Any) -> None:
        if mode == "replace":
            raise FileExistsError(key)
        real(self, key, data, mode)

    monkeypatch.setattr(Storage, "_put_once", refusing)
    storage.replace("a", b"new", expected=b"old")
    assert storage.read("a") == b"new"
    assert "refuses the right ETag" in caplog.text


def test_a_record_changed_between_look_and_write_is_kept(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, real = Storage(store), Storage._put_once
    storage.create("a", b"old")

    def overtaken(self: Storage, key: str, data: bytes, mode: Any, *rest: Any) -> None:
        if mode == "replace":
            real(self, key, b"someone else's", "put")
        real(self, key, data, mode, *rest)

    monkeypatch.setattr(Storage, "_put_once", overtaken)
    with pytest.raises(ObjectChanged):
        storage.replace("a", b"new", expected=b"old")
    assert storage.read("a") == b"someone else's"


def test_a_disk_without_hard_links_is_not_create_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    storage = Storage(str(tmp_path / "run"))
    storage.create("run.json", b"{}")
    assert storage.probe_create_only("run.json") is False
    with pytest.raises(ObjectExists):
        storage.create("run.json", b"another")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def test_a_full_disk_and_a_file_in_the_way_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="a folder is needed"):
        Storage(str(tmp_path / "file" / "run")).check_writable()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full") as failure:
        Storage(str(tmp_path)).create("a", b"data")
    assert not failure.value.transient
