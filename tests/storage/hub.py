"""A small hub on loopback: the requests that reading a repository makes, answered as the real one answers them."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "loopback" * 4


class Hub:
    """Repositories by `owner/name`, then by revision, then files. Set the other fields to make it misbehave."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.gated: dict[str, int] = {}
        """Repository -> status that its files are refused with."""
        self.damaged: set[str] = set()
        """Paths of files that are sent with a flipped bit."""
        self.cut: dict[str, int] = {}
        """Path -> how many more times it is sent without its last byte."""
        self.requests: list[str] = []
        self.authorized: list[str] = []
        """Paths that were asked for with a token."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.hub = self  # type: ignore[attr-defined]
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(path)
        if "Authorization" in self.headers:
            self.hub.authorized.append(path)
        if path.startswith("/api/models/"):
            self._model_info(*path.removeprefix("/api/models/").partition("/revision/")[::2])
        elif path.startswith("/lfs/"):
            self._large_file(path.removeprefix("/lfs/"))
        else:
            self._resolve(*path.strip("/").split("/resolve/"))

    def _model_info(self, repository: str, revision: str) -> None:
        if repository not in self.hub.repositories:
            return self._refuse(401, "RepoNotFound", "Repository not found")
        files = self.hub.repositories[repository].get(revision or "main")
        if files is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        siblings = [_sibling(name, data) for name, data in files.items()]
        content = {"id": repository, "sha": _commit(files), "siblings": siblings}
        return self._answer(200, json.dumps(content).encode())

    def _resolve(self, repository: str, place: str) -> None:
        """Large files are on another host, as those of the real hub."""
        if status := self.hub.gated.get(repository):
            return self._refuse(status, "GatedRepo", f"Access to model {repository} is restricted")
        commit, _, name = place.partition("/")
        files = next(f for f in self.hub.repositories[repository].values() if _commit(f) == commit)
        headers = {"X-Repo-Commit": commit}
        if name.endswith(".safetensors"):
            digest = hashlib.sha256(files[name]).hexdigest()
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(files[name]))}
            elsewhere = self.hub.endpoint.replace("127.0.0.1", "localhost")
            location = f"{elsewhere}/lfs/{repository}/{commit}/{name}"
            return self._answer(302, b"", headers | {"Location": location})
        return self._send_range(name, files[name], headers)

    def _large_file(self, place: str) -> None:
        owner, repository, commit, name = place.split("/", 3)
        revisions = self.hub.repositories[f"{owner}/{repository}"].values()
        self._send_range(name, next(f for f in revisions if _commit(f) == commit)[name], {})

    def _send_range(self, name: str, data: bytes, headers: dict[str, str]) -> None:
        if name in self.hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        piece = data[int(first) : int(last) + 1]
        if self.hub.cut.get(name, 0) > 0:
            self.hub.cut[name] -= 1
            piece = piece[:-1]
        self._answer(206, piece, headers)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._answer(status, b"", {"X-Error-Code": code, "X-Error-Message": message})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def _commit(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    found: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob}
    if name.endswith(".safetensors"):
        digest = hashlib.sha256(data).hexdigest()
        found["lfs"] = {"size": len(data), "sha256": digest, "pointerSize": 134}
    return found
