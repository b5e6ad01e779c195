"""Every operation behind a network that breaks: the same results, and permanent errors as quick as ever."""

import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cascade_batch.cli import main
from cascade_batch.errors import PictureError, StorageError
from cascade_batch.storage import ObjectChanged, ObjectExists, ObjectMissing, Storage, failures, hub, remote
from cascade_batch.workers.row_conditions import RowReader
from tests.servers import S3Server, free_ports
from tests.storage.hub import Hub
from tests.storage.proxy import FAULTS, GROUPS, Proxy, at_random, two_of_three


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(failures, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(remote, "PAGE", 2)
    failures._memory.reached.clear()
    yield
    failures.ending.clear()


@contextmanager
def proxied(port: int, next_fault: Callable[[], str | None]) -> Iterator[Proxy]:
    proxy = Proxy(port, next_fault)
    yield proxy
    proxy.close()


def exercise(root: str, folder: Path) -> list[Any]:
    """What each operation gives back or raises, in order, and what is stored in the end."""
    storage, found = Storage(root), []

    def note(operation: Callable[[], Any]) -> None:
        try:
            found.append(operation())
        except StorageError as error:
            found.append(type(error))

    note(storage.check_writable)
    note(lambda: storage.exists("run.json"))
    note(lambda: storage.create("run.json", b"{}"))
    note(lambda: storage.probe_create_only("run.json"))
    note(lambda: storage.create("run.json", b"{}"))
    note(lambda: storage.create("run.json", b"another"))
    for number in range(3):
        note(lambda number=number: storage.create(f"manifest/{number}", b"shard %d" % number * 100))
    note(lambda: storage.put("empty", b""))
    for key in ("manifest/2", "empty", "absent"):
        note(lambda key=key: storage.read(key))
        note(lambda key=key: storage.download(key, folder / "copy"))
    note(lambda: storage.read_tail("manifest/2", 9))
    note(lambda: storage.read_tail("empty", 9))
    note(lambda: storage.read_range("manifest/1", 3, 33))
    note(lambda: storage.open("manifest/1").read())
    note(lambda: [info.key for info in storage.list("manifest/")])
    note(lambda: storage.replace("run.json", b"new", expected=b"{}"))
    note(lambda: storage.replace("run.json", b"newer", expected=b"{}"))
    note(lambda: storage.put("driver.json", b"1"))
    note(lambda: storage.put("driver.json", b"22"))
    note(lambda: storage.delete("manifest/0"))
    note(lambda: storage.delete("absent"))
    found.append([(info.key, storage.read(info.key)) for info in storage.list()])
    return found


@pytest.fixture
def whole(moto_root: str, tmp_path: Path) -> list[Any]:
    """What a network without faults gives."""
    found = exercise(moto_root, tmp_path)
    assert ObjectExists in found
    assert ObjectChanged in found
    assert found.count(ObjectMissing) == 2
    return found


@pytest.mark.parametrize("group", GROUPS)
def test_faults_of_each_request_change_no_result(
    whole: list[Any],
    moto_root: str,
    moto_s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    group: str,
) -> None:
    """Every request of every operation fails, twice; where that costs time-outs, every fourth."""
    monkeypatch.setattr(remote, "READ_SECONDS", 0.2 if group == "stalled" else 20)
    faults = at_random(0.25, 5, GROUPS[group]) if group == "stalled" else two_of_three(GROUPS[group], 5)
    with proxied(moto_s3.port, faults) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        failures.take_retries()
        assert exercise(f"{moto_root}/behind", tmp_path) == whole
        assert set(GROUPS[group]) <= proxy.done.keys()
        harmless = proxy.done["no range"]  # what was sent too much is cut off
        assert failures.take_retries() >= (proxy.done.total() - harmless) // 2 > 5


def test_a_server_that_checks_signatures_serves_through_faults_of_all_kinds(
    seaweed_root: str, seaweed_s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "READ_SECONDS", 0.5)
    wanted = exercise(seaweed_root, tmp_path)
    with proxied(seaweed_s3.port, at_random(0.3, seed=7)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert exercise(f"{seaweed_root}/behind", tmp_path) == wanted
        assert len(proxy.done) > 8
    uploads = seaweed_s3.client().list_multipart_uploads(Bucket="ready")
    assert not uploads.get("Uploads"), "what the first contact began it gave up"


def test_a_network_that_never_works_is_one_transient_error(
    moto_root: str, moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "READ_SECONDS", 0.2)
    monkeypatch.setattr(failures, "TRIES", 3)
    Storage(moto_root).put("a", b"data")
    faults: list[str] = []
    with proxied(moto_s3.port, lambda: faults[-1]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        storage = Storage(moto_root)
        for fault in FAULTS:
            faults.append(fault)
            proxy.requests.clear()
            with pytest.raises(StorageError, match=r"kept failing \(3 tries\)") as failure:
                storage.read_tail("a", 2) if fault == "other range" else storage.list()
            assert failure.value.transient, fault
            assert len(proxy.requests) in (3, 6), "aiohttp sends once more where a kept connection was closed"


def test_retries_wait_as_long_as_the_store_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    monkeypatch.setattr(failures.ending, "wait", waits.append)
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60))
    headers = iter([{"Retry-After": "3"}, {"retry-after": later}, {"ratelimit": '"api";r=0;t=55'}, {}])

    def refused() -> None:
        raise Refused(429, next(headers))

    with pytest.raises(StorageError, match="4 tries"):
        failures.retried(lambda: refused() if len(waits) < 4 else None, "s3://bucket/a") or _fail_for_good()
    assert waits[0] == 3
    assert 55 < waits[1] <= 60
    assert waits[2] == 55
    assert waits[3] < 1


def _fail_for_good() -> None:
    raise StorageError("4 tries")


def _tear() -> None:
    raise ConnectionResetError("torn")


class Refused(Exception):
    """As gcsfs, Azure and aiohttp tell of an answer."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.status, self.headers = status, headers or {}


@pytest.mark.parametrize("status", [400, 401, 403, 405, 501, 505, 507])
def test_a_refusal_is_told_at_once(status: int) -> None:
    with pytest.raises(StorageError) as failure:
        failures.retried(lambda: (_ for _ in ()).throw(Refused(status)), "gs://bucket/a")
    assert not failure.value.transient
    assert "tries" not in str(failure.value)


def test_a_store_that_asks_for_an_hour_is_left_to_the_next_sitting() -> None:
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"kept failing \(1 try\)") as failure:
        failures.retried(
            lambda: (_ for _ in ()).throw(Refused(503, {"Retry-After": "3600"})), "s3://bucket/a"
        )
    assert failure.value.transient
    assert time.monotonic() - began < 1


def test_an_error_behind_an_answer_is_judged_by_itself() -> None:
    """A read after a lost race: Python chains the 412 to it."""
    failed = []

    def read() -> str:
        if failed:
            return "read"
        failed.append(True)
        try:
            raise Refused(412)
        except Refused:
            _tear()
        return "never"

    assert failures.retried(read, "s3://bucket/a") == "read"


def test_a_store_that_is_away_for_a_while_is_waited_for_if_it_was_there(
    moto_root: str, moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "FIRST_WAIT", 0.05)
    Storage(moto_root).put("a", b"data")
    port = free_ports(1)[0]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    failures.reached(moto_root)
    back = threading.Timer(1.5, lambda: servers.append(_proxy_at(port, moto_s3.port)))
    servers: list[Proxy] = []
    back.start()
    assert Storage(moto_root).read("a") == b"data"
    servers[0].close()


def _proxy_at(port: int, upstream: int) -> Proxy:
    class At(Proxy):
        def server_bind(self) -> None:
            self.server_address = ("127.0.0.1", port)
            super().server_bind()

    return At(upstream, lambda: None)


def test_an_address_where_nobody_was_is_given_up_sooner(
    moto_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(StorageError, match=rf"kept failing \({failures.TRIES_OF_STRANGERS} tries\)"):
        Storage(moto_root).read("a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://no-such-host.invalid")
    with pytest.raises(StorageError, match="name of the host is not known") as failure:
        Storage(moto_root).read("a")
    assert not failure.value.transient


def test_a_certificate_that_nobody_signed_is_told_at_once(
    moto_root: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with tls_server(tmp_path) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(StorageError, match="TLS certificate was refused") as failure:
            Storage(moto_root).read("a")
        assert not failure.value.transient
        with pytest.raises(StorageError, match="TLS certificate was refused"):
            Storage(url).read("a")
        monkeypatch.setenv("HF_ENDPOINT", url)
        hub.snapshot.cache_clear()
        with pytest.raises(StorageError, match="TLS certificate was refused"):
            Storage("hf://owner/name").list()


def test_a_handshake_that_breaks_off_is_tried_again(moto_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_hang_up_on, args=(listener, 3), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setattr(failures, "TRIES", 3)
        with pytest.raises(StorageError, match="kept failing") as failure:
            Storage(moto_root).read("a")
    assert failure.value.transient


def _hang_up_on(listener: socket.socket, clients: int) -> None:
    for _ in range(clients):
        client, _ = listener.accept()
        client.recv(10)
        client.close()


@contextmanager
def tls_server(folder: Path) -> Iterator[str]:
    """Its certificate is its own."""
    certificate, key = _self_signed(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"https://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def _self_signed(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nobody")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate, private


def test_an_interrupt_ends_the_waiting_of_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_WAIT", 60)
    ended = []

    def wait() -> None:
        try:
            failures.retried(lambda: (_ for _ in ()).throw(ConnectionResetError()), "s3://bucket/a")
        except StorageError as error:
            ended.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    failures.ending.set()
    for thread in threads:
        thread.join(5)
    assert [error.transient for error in ended] == [True] * 3


def test_ctrl_c_ends_a_command_that_waits_for_a_store(
    moto_root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(failures, "FIRST_WAIT", 60)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    began = time.monotonic()
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        assert main(["status", moto_root]) == 130
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert time.monotonic() - began < 10
    assert "what is committed is safe" in capsys.readouterr().err


class Pictures(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: ClassVar[dict[str, bytes]]

    def do_GET(self) -> None:
        data = self.files.get(self.path)
        self.send_response_only(404 if data is None else 200)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data or b"")

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def pictures(**files: bytes) -> Iterator[int]:
    handler = type("Handler", (Pictures,), {"files": {f"/{name}": data for name, data in files.items()}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("group", ["closed", "torn", "stalled", "refused"])
def test_pictures_of_rows_come_through_faults(monkeypatch: pytest.MonkeyPatch, group: str) -> None:
    monkeypatch.setattr(remote, "READ_SECONDS", 0.2 if group == "stalled" else 20)
    picture = b"not quite a picture" * 99
    with pictures(a=picture) as port, proxied(port, two_of_three(GROUPS[group], 3)) as proxy:
        storage = Storage(proxy.url)
        assert storage.read("a") == picture
        assert storage.read_tail("a", 7) == picture[-7:]
        info = storage.info("a")
        assert info is not None
        assert info.size == len(picture)
        assert storage.info("b") is None
        with pytest.raises(ObjectMissing):
            storage.read("b")


def test_a_picture_fails_its_row_where_the_answer_is_no_and_the_shard_where_there_is_none() -> None:
    row = {"width": 256, "height": 256}
    with pictures() as port:
        reader = RowReader(f"http://127.0.0.1:{port}", None)
        with pytest.raises(PictureError, match="cannot be fetched"):
            reader.read({**row, "init_image": "missing.png"})
        with pytest.raises(PictureError, match="cannot be fetched"):
            reader.read({**row, "init_image": "http://no-such-host.invalid/a.png"})
        with pytest.raises(StorageError) as failure:
            reader.read({**row, "init_image": f"http://127.0.0.1:{free_ports(1)[0]}/a.png"})
        assert failure.value.transient


def test_the_hub_is_read_through_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "TIMEOUT", 0.3)
    server = Hub()
    server.repositories["owner/name"] = {"main": {"config.json": b"{}" * 999, "a.safetensors": b"w" * 999}}
    with proxied(int(server.endpoint.rpartition(":")[2]), at_random(0.4, seed=3)) as proxy:
        monkeypatch.setenv("HF_ENDPOINT", proxy.url)
        hub.snapshot.cache_clear()
        storage = Storage("hf://owner/name")
        for _ in range(10):
            hub.snapshot.cache_clear()
            assert [info.key for info in storage.list()] == ["a.safetensors", "config.json"]
            assert storage.read("config.json") == b"{}" * 999
            assert storage.read_tail("a.safetensors", 5) == b"wwwww"
        assert len(proxy.done) > 5
    server.close()
    hub.snapshot.cache_clear()
