"""A web server on loopback that hands out files as real ones do, by presigned URLs too."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

SIGNATURE = "X-Amz-Credential=AKIAEXAMPLE%2F20260101&X-Amz-Signature=5ec7e7a1"
ANOTHER = "X-Amz-Credential=AKIAEXAMPLE%2F20260101&X-Amz-Signature=5ec7e7b2"


class WebServer:
    """`files` by path. Signed ones answer to GET with one of `signatures` alone, HEAD is refused as S3 does."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.files: dict[str, bytes] = {}
        self.signatures: set[str] = set()
        self.ranges = True
        self.etags = True
        self.redirect: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.address = f"http://127.0.0.1:{server.server_address[1]}"

    def answer(self, method: str, target: str, wanted: str | None) -> tuple[int, bytes, dict[str, str]]:
        path, query = unquote(urlsplit(target).path), urlsplit(target).query
        self.requests.append((method, target))
        if target in self.redirect:
            return 302, b"", {"Location": self.redirect[target]}
        if method == "HEAD" or (self.signatures and query not in self.signatures):
            return 403, b"<Error><Code>AccessDenied</Code></Error>", {}
        if path not in self.files:
            return 404, b"", {}
        data = self.files[path]
        headers = {"ETag": f'"{hash(data) & 0xFFFF:x}"'} if self.etags else {}
        if wanted is None or not self.ranges:
            return 200, data, headers
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        if not data:
            return 416, b"", headers | {"Content-Range": "bytes */0"}
        start = int(first) if first else max(0, len(data) - int(last))
        end = min(int(last) + 1, len(data)) if first and last else len(data)
        return 206, data[start:end], headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}


@contextmanager
def web_server() -> Iterator[WebServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, body, headers = web.answer(self.command, self.path, self.headers.get("Range"))
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web = WebServer(server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
