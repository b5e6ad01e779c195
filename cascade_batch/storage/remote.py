"""Objects below an fsspec URL: S3 through s3fs, and whatever else fsspec knows.

s3fs and botocore retry inside, each in its own way; both are switched off, so that `failures.retried`
is the only retry and its bound holds (aiohttp sends once more where a kept connection was closed).
Listings are never cached. Commit records are one PUT each, because some stores ignore `If-None-Match`
on multipart uploads. What S3 always says of an object is looked for in its answers, because a proxy
may give an empty one in its name.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import fsspec
from fsspec.asyn import sync

from cascade_batch.storage.answers import answer_of, is_lost_condition, is_not_implemented, is_transient
from cascade_batch.storage.failures import retried, sanitise
from cascade_batch.storage.objects import ObjectInfo
from cascade_batch.storage.store import Store
from cascade_batch.storage.urls import needs, split_url

S3_PROTOCOLS = {"s3", "s3a"}
# File systems whose `pipe_file(mode="create")` is one conditional request. Elsewhere fsspec only
# looks first and then writes, and its FileExistsError proves nothing.
CREATE_ONLY_PROTOCOLS = S3_PROTOCOLS | {"gs", "gcs", "abfs", "abfss", "az"}
CONNECT_SECONDS, READ_SECONDS = 10, 30
"""Until a connection stands, and of silence on one; both are tried again."""
PAGE = 1000  # objects per listing request; S3's own limit
SINGLE_PUT = 5 * 2**30  # bytes; S3's own limit for one PUT


@final
class RemoteObjects(Store):
    """The prefix that `uri` names. Made once per process: s3fs instances do not survive a fork."""

    def __init__(self, uri: str) -> None:
        protocol = split_url(uri).scheme
        self.is_s3 = self.replaces_by_condition = self.lists_by_prefix = protocol in S3_PROTOCOLS
        self.create_only = protocol in CREATE_ONLY_PROTOCOLS
        files = _s3_files(os.getpid(), aws_environment()) if self.is_s3 else None
        self.files: Any = files or _files_of(uri, protocol)
        self.root = str(self.files._strip_protocol(uri)).rstrip("/")
        self._bucket_is_there = False

    def read(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """Bytes [start, end) of an object; a negative `start` counts from its end."""
        if start is not None and start == end:  # HTTP has no empty ranges
            return b""
        try:
            if self.is_s3:
                return sync(self.files.loop, self._get, key, start, end) or b""
            return _part_of(self.files.cat_file(self._path(key), start=start, end=end), start, end)
        except Exception as error:
            answer = answer_of(error)
            if answer and answer.status == 416:  # any range of an empty object
                return b""
            raise

    async def _get(self, key: str, start: int | None, end: int | None) -> bytes:
        """One request: s3fs itself asks for the size first and may join two versions."""
        bucket, name, _ = self.files.split_path(self._path(key))
        wanted = {} if start is None else {"Range": f"bytes={_range(start, end)}"}
        answer = await self.files._call_s3("get_object", Bucket=bucket, Key=name, **wanted)
        try:
            data = await answer["Body"].read()
        finally:
            answer["Body"].close()
        if not data and "ETag" not in answer:
            raise ConnectionError("an empty answer that tells of no object")
        _check_range(answer.get("ContentRange"), len(data), start, end)
        return _part_of(data, start, end)

    def local_file(self, _key: str) -> Path | None:
        return None

    def info(self, key: str) -> ObjectInfo | None:
        if self.is_s3:
            return self._head(key)
        try:
            found = self.files.info(self._path(key))
        except FileNotFoundError as error:
            if is_transient(error):  # how fsspec words whatever happened on HTTP
                raise
            return None
        return (
            ObjectInfo(key, int(found["size"]), _etag(found), modified=_modified(found))
            if found["type"] == "file"
            else None
        )

    def _head(self, key: str) -> ObjectInfo | None:
        bucket, name, _ = self.files.split_path(self._path(key))
        try:
            found = self.files.call_s3("head_object", Bucket=bucket, Key=name)
        except FileNotFoundError:
            self._check_bucket()
            return None
        if not found.get("ContentLength") and not found.get("ETag"):
            raise ConnectionError("an empty answer that tells of no object")
        return ObjectInfo(key, int(found["ContentLength"]), _etag(found), modified=_modified(found))

    def _check_bucket(self) -> None:
        """Once, because the answer to a HEAD does not say what is missing."""
        if not self._bucket_is_there:
            with suppress(FileNotFoundError):
                retried(lambda: self._page(Prefix=self._prefix("run.json"), MaxKeys=1), self._url(""))
            self._bucket_is_there = True

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`; elsewhere than on S3, all of its folder."""
        if self.is_s3:
            yield from self._pages(prefix)
            return
        folder = self._path(prefix.rpartition("/")[0]).rstrip("/")
        for name, found in self.files.find(folder, detail=True).items():
            key = name.removeprefix(self.root).lstrip("/")
            if found.get("type") == "file" and key and not key.endswith("/"):
                yield ObjectInfo(key, int(found["size"]), _etag(found), modified=_modified(found))

    def _pages(self, prefix: str) -> Iterator[ObjectInfo]:
        """A listing by S3's own request. `find` of s3fs asks for whole folders and takes half as long again.

        Each page is tried again by itself, else a long listing would hardly ever come to its end.
        """
        root, page = self._prefix(""), {}
        while page is not None:
            wanted = {"Prefix": root + prefix, "MaxKeys": PAGE, **page}
            found = retried(lambda wanted=wanted: self._page(**wanted), self._url(prefix))
            for entry in found.get("Contents", ()):
                key = entry["Key"].removeprefix(root)
                if key and not key.endswith("/"):
                    yield ObjectInfo(key, int(entry["Size"]), _etag(entry), modified=_modified(entry))
            token = found.get("NextContinuationToken")
            page = {"ContinuationToken": token} if token else None

    def _page(self, **wanted: Any) -> dict[str, Any]:
        bucket, _, _ = self.files.split_path(self._path(""))
        found = self.files.call_s3("list_objects_v2", Bucket=bucket, **wanted)
        if not {"Name", "IsTruncated", "KeyCount", "Contents"} & found.keys():
            raise ConnectionError("an answer that is no listing")
        return found

    def _prefix(self, key: str) -> str:
        """The key within the bucket."""
        return self.files.split_path(self._path(key))[1]

    def create(self, key: str, data: bytes) -> None:
        """Raises FileExistsError, or NotImplementedError on a server without conditional writes."""
        self._pipe(key, data, mode="create")

    def put(self, key: str, data: bytes) -> None:
        self._pipe(key, data)

    def replace(self, key: str, data: bytes, _expected: bytes, etag: str | None) -> None:
        """By S3's `If-Match`. Raises FileExistsError if the object no longer has this ETag."""
        self._pipe(key, data, IfMatch=f'"{etag}"')

    def delete(self, key: str) -> None:
        self.files.rm_file(self._path(key))

    def check_writable(self) -> None:
        """One first contact; on S3 the right to write too, by an upload begun and given up."""
        self.info("run.json")
        if self.is_s3:
            bucket, key, _ = self.files.split_path(self._path("run.json"))
            at = {"Bucket": bucket, "Key": key}
            upload = self._sent("create_multipart_upload", **at)["UploadId"]
            with suppress(FileNotFoundError):  # given up already: only the answer was lost
                self._sent("abort_multipart_upload", **at, UploadId=upload)

    def _sent(self, request: str, **wanted: Any) -> dict[str, Any]:
        """The answer to one request of several, tried again by itself: together they would hardly ever pass."""
        return retried(lambda: self.files.call_s3(request, **wanted), self._url(""))

    def _pipe(self, key: str, data: bytes, **options: Any) -> None:
        if self.is_s3:
            options["chunksize"] = SINGLE_PUT
        try:
            self.files.pipe_file(self._path(key), data, **options)
        except FileExistsError:
            raise
        except Exception as error:
            if is_lost_condition(error):
                raise FileExistsError(key) from error
            if is_not_implemented(error):
                raise NotImplementedError("this store has no conditional writes") from error
            raise

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}"

    def _url(self, key: str) -> str:
        return f"s3://{self._path(key)}"


def _files_of(uri: str, protocol: str) -> Any:
    """Raises StorageError for a protocol that nothing installed speaks, or that a URL alone does not tell enough."""
    try:
        return fsspec.core.url_to_fs(uri)[0]
    except (ImportError, ValueError, TypeError) as error:
        raise needs(protocol, sanitise(str(error))) from None


@lru_cache(maxsize=4)
def _s3_files(_process: int, _environment: tuple[tuple[str, str], ...]) -> Any:
    """One s3fs instance per process and environment: each costs 0.1 s and its own connections.

    Credentials, region and endpoint come from the standard AWS environment, never from here.
    """
    once = {"retries": {"total_max_attempts": 1, "mode": "standard"}}
    files = fsspec.filesystem(
        "s3",
        use_listings_cache=False,
        skip_instance_cache=True,  # fsspec's cache would outlive a changed environment
        config_kwargs=once | {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS},
    )
    files.retries = 1
    return files


def _range(start: int, end: int | None) -> str:
    """As HTTP writes it: inclusive, and without a first byte where counted from the end."""
    if start < 0:
        return str(start)
    return f"{start}-{'' if end is None else end - 1}"


def _check_range(told: str | None, size: int, start: int | None, end: int | None) -> None:
    """Raises ConnectionError where `Content-Range` tells of other bytes than those asked for."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", told or "")
    if found:
        first, last, total = map(int, found.groups())
        wanted = slice(start, end).indices(total)[:2]
        if wanted != (first, last + 1) or size != last + 1 - first:
            raise ConnectionError(f"asked for bytes {start} to {end}, got {told} and {size} bytes")


def _part_of(data: bytes, start: int | None, end: int | None) -> bytes:
    """What was asked for: a server that does not know ranges sends everything."""
    if start is None or len(data) <= (-start if start < 0 else (end or len(data)) - start):
        return data
    return data[start:end]


def aws_environment() -> tuple[tuple[str, str], ...]:
    """All that a connection to S3 is made by, but for config files."""
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))


def _modified(found: Mapping[str, Any]) -> float | None:
    time = found.get("LastModified")
    return time.timestamp() if isinstance(time, datetime) else None


def _etag(found: dict[str, Any]) -> str | None:
    etag = found.get("ETag") or found.get("etag")
    return str(etag).strip('"') if etag else None
