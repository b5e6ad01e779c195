"""Model repositories of the Hugging Face hub, below `hf://owner/name[@revision][/folder]`, to be read only.

One request tells a repository's commit, its files, their sizes and digests. It is made once per process, so that all
parts of a model are of one commit. Of the hub's library, the file system is not used: it retries inside for half a
minute and lists without any time limit, while here `failures.retried` is the only retry and its bound holds. Nor are
its headers, which ask the hub for a list of programs first and then tell it which of them calls.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, final
from urllib.parse import quote

from cascade_batch.storage.objects import ObjectInfo
from cascade_batch.storage.read_only import ReadOnly

ENDPOINT = "https://huggingface.co"
TIMEOUT = 30.0
"""Seconds of silence after which a request has failed."""


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit."""

    commit: str
    files: Mapping[str, ObjectInfo]
    """By their paths in it. ETags are git's ids of the blobs; the hub keeps large files under their sha256."""


@final
class HubFiles(ReadOnly):
    """The folder of a repository that `uri` names. Whatever the hub refuses is raised as its library does."""

    KIND = "a model repository of the hub"

    def __init__(self, uri: str) -> None:
        from huggingface_hub.utils import parse_hf_uri  # imported late: only who names the hub pays for it

        parsed = parse_hf_uri(uri)
        self.uri, self.repository, self.revision = uri, parsed.id, parsed.revision
        self.root = f"{parsed.path_in_repo}/".lstrip("/")
        # the library reads this variable once, when it is imported
        self.endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or ENDPOINT

    def read(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """Bytes [start, end) of an object; a negative `start` counts from its end. Raises FileNotFoundError."""
        from huggingface_hub import hf_hub_url

        found = self._snapshot().files.get(self.root + key)
        if found is None:
            raise FileNotFoundError(key)
        first, last, _ = slice(start, end).indices(found.size)
        if first >= last:  # HTTP has no empty ranges
            return b""
        url = hf_hub_url(
            self.repository, self.root + key, revision=self._snapshot().commit, endpoint=self.endpoint
        )
        data = _get(url, {"Range": f"bytes={first}-{last - 1}", "Accept-Encoding": "identity"}).content
        if len(data) != last - first:
            raise ConnectionError(f"asked for {last - first} bytes, got {len(data)}")
        return data

    def info(self, key: str) -> ObjectInfo | None:
        found = self._snapshot().files.get(self.root + key)
        return None if found is None else replace(found, key=key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for path, found in self._snapshot().files.items():
            if path.startswith(self.root + prefix):
                yield replace(found, key=path.removeprefix(self.root))

    def _snapshot(self) -> Snapshot:
        return snapshot(self.endpoint, self.repository, self.revision)


@lru_cache(maxsize=32)
def snapshot(endpoint: str, repository: str, revision: str | None) -> Snapshot:
    """A revision as it was when this process first asked. Raises what the hub's library raises."""
    at = f"/revision/{quote(revision, safe='')}" if revision else ""
    found = _get(f"{endpoint}/api/models/{repository}{at}?blobs=true", {}).json()
    files = [_info(file) for file in found["siblings"]]
    return Snapshot(found["sha"], {info.key: info for info in files})


def _info(file: dict[str, Any]) -> ObjectInfo:
    sha256 = (file.get("lfs") or {}).get("sha256")
    return ObjectInfo(file["rfilename"], int(file["size"]), file.get("blobId"), sha256)


def _get(url: str, headers: dict[str, str]) -> Any:
    """One request, sent once; the session follows redirects, without the token where they lead elsewhere."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import get_session, hf_raise_for_status

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    own = {"User-Agent": "cascade-batch"} | ({"Authorization": f"Bearer {token}"} if token else {})
    response = get_session().get(url, headers=own | headers, timeout=TIMEOUT)
    hf_raise_for_status(response)
    return response
