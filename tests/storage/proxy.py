"""A proxy before a real HTTP server that does to requests what networks do to them: one of `FAULTS`, or nothing.

Clients take it for the server, and the Host header goes through, so signatures hold. Faults named `... after` come once
the server has done what it was asked.
"""

import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from threading import Lock, Thread
from typing import Any, cast

STATUSES = {
    "429": (429, "TooManyRequests"),
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "500 after": (500, "InternalError"),
    "502 after": (502, ""),
    "504 after": (504, ""),
    "408": (408, ""),
    "request timeout": (400, "RequestTimeout"),
    "error in 200 after": (200, "InternalError"),
}
GROUPS = {
    "closed": ("reset before", "reset after", "hang up before", "hang up after"),
    "torn": ("torn head after", "torn body after", "torn chunks after", "noise after"),
    "stalled": ("stall before", "stall after", "stalled body after"),
    "wrong": ("empty after", "no range", "other range", "error in 200 after"),
    "refused": tuple(name for name in STATUSES if "200" not in name),
}
FAULTS = tuple(fault for group in GROUPS.values() for fault in group)
NO_BODY = {"HEAD"}


class Proxy(ThreadingHTTPServer):
    """Listens on loopback; `next_fault` is asked before each request."""

    daemon_threads = True

    def __init__(self, port: int, next_fault: Callable[[], str | None]) -> None:
        self.upstream, self.next_fault = port, next_fault
        self.stall_seconds = 20.0
        self.without: tuple[str, ...] = ()
        """Names of request headers, in lower case, that the server does not get to see."""
        self.done: Counter[str] = Counter()
        """Faults by name."""
        self.requests: list[str] = []
        self.lock = Lock()
        super().__init__(("127.0.0.1", 0), _Handler)
        Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """Clients that gave up are what this is for."""


def at_random(rate: float, seed: int, kinds: Sequence[str] = FAULTS) -> Callable[[], str | None]:
    """One of the faults with probability `rate`."""
    random_ = random.Random(seed)
    return lambda: random_.choice(kinds) if random_.random() < rate else None


def two_of_three(kinds: Sequence[str], seed: int) -> Callable[[], str | None]:
    """Each request fails twice: of one that failed on a kept connection aiohttp tells only if it fails again."""
    random_, turn = random.Random(seed), cycle((True, True, False))
    return lambda: random_.choice(kinds) if next(turn) else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        self.proxy = cast(Proxy, self.server)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.proxy.lock:
            fault = self._fitting(self.proxy.next_fault())
            self.proxy.requests.append(f"{self.command} {self.path.partition('?')[0]}: {fault}")
            if fault:
                self.proxy.done[fault] += 1
        if fault is None:
            self._pass(*self._asked(body))
        elif fault in STATUSES:
            if fault.endswith("after"):
                self._asked(body)
            self._refuse(*STATUSES[fault])
        else:
            self._break(fault, body)

    do_PUT = do_HEAD = do_POST = do_DELETE = do_GET

    def _fitting(self, fault: str | None) -> str | None:
        """Some faults are none for some requests."""
        reads = self.command in ("GET", "HEAD")
        is_listing = "list-type" in self.path
        if (
            ("range" in (fault or "") and not self.headers.get("Range"))
            or (fault == "empty after" and not reads)  # that is how a written object is confirmed
            or (fault == "error in 200 after" and reads and not is_listing)  # an object may hold anything
            or (fault == "request timeout" and reads)  # it is the request that came too slowly
        ):
            return "502 after"
        return fault

    def _asked(self, body: bytes, **changed: str | None) -> tuple[HTTPResponse, bytes]:
        connection = HTTPConnection("127.0.0.1", self.proxy.upstream, timeout=30)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            value = changed.get(name.lower(), value)
            if value is not None and name.lower() not in ("connection", "expect", *self.proxy.without):
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer, data

    def _head(self, answer: HTTPResponse, size: int | None) -> None:
        """`size`: of the body, None if it is to come in chunks."""
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        if size is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(size))
        self.end_headers()

    def _pass(self, answer: HTTPResponse, data: bytes) -> None:
        is_head = self.command in NO_BODY
        self._head(answer, int(answer.getheader("Content-Length") or 0) if is_head else len(data))
        self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        body = (
            f"<Error><Code>{code}</Code><Message>later</Message></Error>".encode()
            if code
            else b"<html>no</html>"
        )
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command not in NO_BODY:
            self.wfile.write(body)

    def _break(self, fault: str, body: bytes) -> None:
        self.close_connection = True
        if fault == "no range":
            return self._pass(*self._asked(body, range=None))
        answer, data = self._asked(body) if "before" not in fault else (None, b"")
        if fault.startswith("stall "):
            time.sleep(self.proxy.stall_seconds)
        if answer is None or fault in ("stall after", "hang up after", "reset after"):
            return self._hang_up(rst=fault.startswith("reset"))
        if fault == "empty after":
            self.wfile.write(f"HTTP/1.1 {answer.status} OK\r\nContent-Length: 0\r\n\r\n".encode())
        elif fault == "noise after":
            self.wfile.write(b"\x00\x7f no HTTP at all\r\n\r\n")
        elif fault == "torn head after" or not data:
            self.wfile.write(f"HTTP/1.1 {answer.status} OK\r\nContent-Le".encode())
        elif fault == "other range":
            self._head(answer, len(data) - 1)
            self.wfile.write(data[:-1])
        else:
            self._tear(fault, answer, data)
        return self._hang_up()

    def _tear(self, fault: str, answer: HTTPResponse, data: bytes) -> None:
        half = data[: len(data) // 2]
        if fault == "torn chunks after":
            self._head(answer, None)
            self.wfile.write(f"{len(data):x}\r\n".encode() + half)
        else:
            self._head(answer, len(data))
            self.wfile.write(half)
        if fault == "stalled body after":
            self.wfile.flush()
            time.sleep(self.proxy.stall_seconds)

    def _hang_up(self, rst: bool = False) -> None:
        self.wfile.flush()
        if rst:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Quiet."""
