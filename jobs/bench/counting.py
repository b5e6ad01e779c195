"""A relay before an S3 server that counts requests by kind, whichever client sends them."""

import re
import socket
import threading
from collections import Counter
from contextlib import suppress

_REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1\.1\r\n")
_LONGEST = 4096
"""Bytes of a request's first line, at most."""


class CountingRelay:
    """Listens on loopback for one server's clients; bytes go through as they are, so signatures hold."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self._start(self._accept)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def taken(self) -> dict[str, int]:
        """Requests since the last time: GET, HEAD, PUT, POST, DELETE, and LIST."""
        with self._lock:
            found = dict(self.counts)
            self.counts.clear()
        return found

    def close(self) -> None:
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:  # closed
                return
            server = socket.create_connection(("127.0.0.1", self._upstream))
            self._start(self._pump, client, server, True)
            self._start(self._pump, server, client, False)

    def _start(self, work, *arguments) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, count: bool) -> None:
        tail = b""
        with suppress(OSError):
            while data := source.recv(2**18):
                if count:
                    tail = self._count(tail + data)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _count(self, data: bytes) -> bytes:
        """Count the requests that begin in these bytes; what is left may be the beginning of one."""
        end = 0
        for match in _REQUEST.finditer(data):
            method, path = match[1].decode(), match[2]
            is_list = method == "GET" and b"list-type=" in path
            with self._lock:
                self.counts["LIST" if is_list else method] += 1
            end = match.end()
        return data[end:][-_LONGEST:]
