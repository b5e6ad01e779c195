"""Files behind `http(s)://` URLs, to be read only: tables and pictures that someone hands over, presigned or not.

A presigned URL is signed for GET alone, so nothing here asks by HEAD: the first byte is asked for, and the answer tells
the size. A server that knows no ranges sends the whole file, which is kept for the reads that follow.
"""

import os
import re
from functools import lru_cache
from typing import Any, NoReturn, final
from urllib.parse import quote

import fsspec
from fsspec.asyn import sync

from cascade_batch.errors import StorageError
from cascade_batch.storage import remote
from cascade_batch.storage.objects import ObjectInfo
from cascade_batch.storage.read_only import ReadOnly

_SAFE = "%/:=&?~#+!$,;'@()*[]"
_RANGE = re.compile(r"bytes (?:\d+-\d+|\*)/(\d+)")


@final
class WebFiles(ReadOnly):
    """The folder that `uri` names; `query` goes with every request and into no message."""

    KIND = "a URL of the web"

    def __init__(self, uri: str, query: str = "") -> None:
        self.uri, self._query = uri, f"?{query}" if query else ""
        self._whole: tuple[str, bytes] | None = None

    def read(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """Bytes [start, end) of a file; a negative `start` counts from its end. Raises FileNotFoundError."""
        if self._whole and self._whole[0] == key:
            return self._whole[1][start:end]
        if start is None:
            return self._get(key, None)[0]
        data, headers = self._get(key, f"bytes={start}" if start < 0 else f"bytes={start}-{_last(end)}")
        if headers is None:  # all of it, to the server that knows no ranges
            self._whole = (key, data)
            return data[start:end]
        return data

    def info(self, key: str) -> ObjectInfo | None:
        if not key.strip("/"):
            return None
        try:
            data, headers = self._get(key, "bytes=0-0")
        except FileNotFoundError:
            return None
        if headers is None:
            self._whole = (key, data)
            return ObjectInfo(key, len(data), None)
        told = _RANGE.fullmatch(headers.get("Content-Range", ""))
        if told is None:
            raise ConnectionError("a part of a file, without a word on its size")
        etag = headers.get("ETag")
        return ObjectInfo(key, int(told[1]), etag.removeprefix("W/").strip('"') if etag else None)

    def list(self, _prefix: str) -> NoReturn:
        raise StorageError(
            "storage: a folder of the web cannot be listed", where=self.uri, next_step="name one file of it"
        )

    def _get(self, key: str, wanted: str | None) -> tuple[bytes, Any | None]:
        """The body, and the headers if it is the part that was wanted."""
        files = _web_files(os.getpid(), remote.CONNECT_SECONDS, remote.READ_SECONDS)
        url = quote(f"{self.uri}/{key}", safe=_SAFE) + quote(self._query, safe=_SAFE)
        found: Any = sync(files.loop, _fetched, files, url, wanted)
        return found


async def _fetched(files: Any, url: str, wanted: str | None) -> tuple[bytes, Any | None]:
    session = await files.set_session()
    headers = {"Accept-Encoding": "identity"} | ({"Range": wanted} if wanted else {})
    answer = await session.get(files.encode_url(url), headers=headers)
    try:
        if answer.status in (404, 410):
            raise FileNotFoundError(url)
        if answer.status == 416:  # any range of an empty file
            return b"", answer.headers
        answer.raise_for_status()
        return await answer.read(), answer.headers if answer.status == 206 else None
    finally:
        answer.release()


def _last(end: int | None) -> str:
    return "" if end is None else str(end - 1)


@lru_cache(maxsize=4)
def _web_files(_process: int, connecting_s: float, silence_s: float) -> Any:
    """One session per process; URLs go out as they are written, because a signature covers their spelling."""
    import aiohttp

    limits = aiohttp.ClientTimeout(total=None, sock_connect=connecting_s, sock_read=silence_s)
    options = {"timeout": limits, "requote_redirect_url": False}
    return fsspec.filesystem("http", skip_instance_cache=True, encoded=True, client_kwargs=options)
