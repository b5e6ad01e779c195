"""How places are written: local paths, `file://` URLs, URLs of object stores, and URLs of the web with a query.

Here alone they are taken apart. What is nearly a URL is refused with the right one, because as a path it would name a
local folder. A query of an `http(s)://` URL may be a signature: it goes where the object is read, and is written
nowhere.
"""

import os
import re
from typing import NamedTuple
from urllib.parse import unquote

from cascade_batch.errors import SpecError, StorageError
from cascade_batch.storage.credentials import refuse_credentials

LOCAL = ("file", "local")
WEB = ("http", "https")
HUB = "hf"
NO_MODELS = ("datasets", "spaces", "buckets", "kernels")
"""First words of `hf://` URLs that name no model; fsspec serves them."""
STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", HUB)
WRAPPERS = (
    "simplecache",
    "filecache",
    "blockcache",
    "cached",
    "zip",
    "tar",
    "dir",
    "libarchive",
    "reference",
)
EXTRAS = {"gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}
"""Protocol -> the extra of this package that brings it."""
SAME = {"s3a": "s3", "gcs": "gs", "abfss": "abfs", "az": "abfs"}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_ALMOST = re.compile(rf"({'|'.join(('file', *WEB, *STORES))}):(?!//[^/])/*", re.IGNORECASE)
_CHAIN = re.compile(rf"({'|'.join(WRAPPERS)})(://.*?)?::|.*::[a-z][a-z0-9]*://")


def check_url(uri: str) -> None:
    """Raises SpecError for credentials in a URL, a chain of URLs, and what only looks like a URL."""
    refuse_credentials(uri)
    if _CHAIN.match(uri):
        raise SpecError(
            "URLs that wrap others are not read",
            where=uri.partition("::")[0] + "::",
            expected="the file or folder itself; archives unpacked",
        )
    scheme = _SCHEME.match(uri)
    if scheme and scheme[1] != scheme[1].lower():
        raise _mistaken(uri, scheme[1].lower() + uri[len(scheme[1]) :])
    almost = _ALMOST.match(uri)
    if almost and not almost[0].startswith("file:///"):
        protocol = almost[1].lower()
        place = uri[almost.end() :] or "bucket/folder"
        raise _mistaken(uri, f"{protocol}://{'/' if protocol in LOCAL else ''}{place}")


def local_path(uri: str) -> str | None:
    """The absolute path of a local place, None for a place elsewhere.

    `file://` URLs may be percent-encoded, as programs write them; a file that bears the very name goes first.
    """
    url = split_url(uri)
    if not url.scheme:
        return os.path.abspath(os.path.expanduser(uri))
    if url.scheme not in LOCAL:
        return None
    path = os.path.abspath(os.path.expanduser(re.sub(r"^localhost(?=/)", "", url.path)))
    return path if os.path.exists(path) else unquote(path)


class Url(NamedTuple):
    """`scheme://host/path`. A local path has neither scheme nor host, a `file://` URL no host."""

    scheme: str
    host: str
    """A bucket, container, server or owner."""
    path: str


def split_url(uri: str) -> Url:
    """What a place consists of, as it is written."""
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return Url("", "", uri)
    if scheme[1] in LOCAL:
        return Url(scheme[1], "", uri[scheme.end() :])
    host, _, path = uri[scheme.end() :].partition("/")
    return Url(scheme[1], host, path)


def is_absolute(uri: str) -> bool:
    """Whether a place stands by itself: a URL, or a path from the root of the disk."""
    return is_url(uri) or os.path.isabs(uri)


def is_url(uri: str) -> bool:
    """Whether a place is a URL, and no path."""
    return bool(split_url(uri).scheme)


def is_web(uri: str) -> bool:
    """Whether a place is a URL of the web."""
    return split_url(uri).scheme in WEB


def is_model_url(uri: str) -> bool:
    """Whether a place is a model repository of the hub, or something in one."""
    url = split_url(uri)
    return url.scheme == HUB and url.host not in NO_MODELS


def split_query(uri: str) -> tuple[str, str]:
    """A web URL without its query and fragment, and the query; any other place as it is."""
    if not is_web(uri):
        return uri, ""
    plain, _, query = uri.partition("#")[0].partition("?")
    return plain, query


def split_key(uri: str) -> tuple[str, str]:
    """A folder, and the key of a file in it; "" where none is named. Object stores may have empty names between."""
    scheme = split_url(uri).scheme
    start = len(f"{scheme}://") if scheme else 0
    folder, slash, name = uri[start:].rpartition("/")
    plain = folder.rstrip("/")
    if scheme in ("", *LOCAL):
        return uri[:start] + (plain or slash or "."), name
    if not slash:
        return uri, ""  # a bucket, or a host
    return uri[:start] + plain, folder[len(plain) :] + name


def split_name(uri: str) -> tuple[str, str]:
    """A folder, and the last name of a place in it, "" where none is named; empty names between count for nothing."""
    folder, key = split_key(uri)
    return folder, key.lstrip("/")


def names_of(uri: str) -> list[str]:
    """The names that lead to a place, a URL's host first, without empty ones, since some stores leave them out."""
    url = split_url(uri)
    return [name for name in (url.host, *url.path.split("/")) if name]


def without_queries(text: str) -> str:
    """A text whose web URLs have lost what may be signatures."""
    return re.sub(r"(https?://[^\s?#]+)[?#][^\s'\"]*", r"\1?...", text)


def key_below(root: str, uri: str) -> str | None:
    """What a place is called below another one, "" if both are one place, None if it does not lie there.

    Local ones are compared as the disk has them: through links, and by whatever case it tells apart.
    """
    outer, inner = local_path(root), local_path(uri)
    if outer is not None and inner is not None:
        return _local_key_below(os.path.realpath(outer), os.path.realpath(inner))
    if outer is not None or inner is not None:
        return None
    above, names = names_of(root), names_of(uri)
    is_below = _store_of(root) == _store_of(uri) and names[: len(above)] == above
    return "/".join(names[len(above) :]) if is_below else None


def needs(protocol: str, got: object) -> StorageError:
    """The error for a protocol that nothing here speaks."""
    extra = EXTRAS.get(protocol)
    return StorageError(
        f"storage: {protocol}:// is refused, nothing installed here speaks it",
        got=got,
        expected="a local path, s3://, gs://, abfs://, https://, hf://, or what an installed fsspec package brings",
        next_step=f"pip install 'cascade-batch[{extra}]' on every node" if extra else "",
    )


def _mistaken(uri: str, meant: str) -> SpecError:
    return SpecError(
        "almost a URL", where=uri, next_step=f"did you mean {meant}? A local folder of that name is ./{uri}"
    )


def _local_key_below(outer: str, inner: str) -> str | None:
    above = inner
    while not _is_same(above, outer):
        if above == os.path.dirname(above):
            return None
        above = os.path.dirname(above)
    return os.path.relpath(inner, above) if inner != above else ""


def _is_same(a: str, b: str) -> bool:
    try:
        return a == b or os.path.samefile(a, b)
    except OSError:
        return False


def _store_of(uri: str) -> str:
    scheme = split_url(uri).scheme
    return SAME.get(scheme, scheme)
