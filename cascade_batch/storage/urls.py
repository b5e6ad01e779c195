"""How places are written: local paths, `file://` URLs, URLs of object stores, and URLs of the web with a query.

What is nearly a URL is refused with the right one, because as a path it would name a local folder. A query of an
`http(s)://` URL may be a signature: it goes where the object is read, and is written nowhere.
"""

import os
import re
from urllib.parse import unquote

from cascade_batch.errors import SpecError, StorageError
from cascade_batch.storage.credentials import refuse_credentials

LOCAL = ("file", "local")
WEB = ("http", "https")
STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "hf")
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
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return os.path.abspath(os.path.expanduser(uri))
    if scheme[1] not in LOCAL:
        return None
    path = os.path.abspath(os.path.expanduser(re.sub(r"^localhost(?=/)", "", uri[scheme.end() :])))
    return path if os.path.exists(path) else unquote(path)


def is_web(uri: str) -> bool:
    return uri.startswith(tuple(f"{protocol}://" for protocol in WEB))


def split_query(uri: str) -> tuple[str, str]:
    """A web URL without its query and fragment, and the query; any other place as it is."""
    if not is_web(uri):
        return uri, ""
    plain, _, query = uri.partition("#")[0].partition("?")
    return plain, query


def split_key(uri: str) -> tuple[str, str]:
    """A folder, and the key of a file in it; "" where none is named. Object stores may have empty names between."""
    start = uri.index("://") + 3 if "://" in uri else 0
    folder, slash, name = uri[start:].rpartition("/")
    if start and not slash:
        return uri, ""  # a bucket, or a host
    plain = folder.rstrip("/")
    return uri[:start] + (plain or ("" if start else "/")), folder[len(plain) :] + name if start else name


def without_queries(text: str) -> str:
    """A text whose web URLs have lost what may be signatures."""
    return re.sub(r"(https?://[^\s?#]+)[?#][^\s'\"]*", r"\1?...", text)


def key_below(root: str, uri: str) -> str | None:
    """What a place is called below another one, "" if both are one place, None if it does not lie there.

    Local ones are compared as the disk has them: through links, and by whatever case it tells apart. Elsewhere empty
    names count for nothing, since some stores leave them out.
    """
    outer, inner = local_path(root), local_path(uri)
    if outer is not None and inner is not None:
        return _local_key_below(os.path.realpath(outer), os.path.realpath(inner))
    if outer is not None or inner is not None:
        return None
    above, names = _names(root), _names(uri)
    return "/".join(names[len(above) :]) if names[: len(above)] == above else None


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


def _names(uri: str) -> list[str]:
    protocol, _, path = uri.partition("://")
    return [SAME.get(protocol, protocol), *(name for name in path.split("/") if name)]
