"""Which files a prompt table has: one file, all `*.parquet` below a folder, or those a glob matches."""

import posixpath
import re

from cascade_batch.errors import PromptTableError
from cascade_batch.storage import ObjectInfo, Storage
from cascade_batch.storage.credentials import refuse_credentials

_WILDCARD = re.compile(r"[*?\[]")
_EVERY_PARQUET = "**.parquet"


def find_files(uri: str) -> tuple[Storage, list[ObjectInfo]]:
    """The root of a table and its files in path order; hidden and `_` names below the root are skipped.

    Raises PromptTableError if there are none, SpecError for a URL with credentials in it.
    """
    refuse_credentials(uri)
    if not uri:
        raise PromptTableError(
            "no prompt table was named", next_step="give a Parquet file, a folder or a glob"
        )
    single = _single_file(uri)
    if single is not None:
        return single
    root, glob = _split_glob(uri)
    storage = Storage(root)
    wildcard = _WILDCARD.search(glob)
    seen = storage.list(glob[: wildcard.start()] if wildcard else "")
    pattern = glob_pattern(glob)
    found = [info for info in seen if pattern.fullmatch(info.key) and not _hidden(info.key)]
    if not found:
        got = ", ".join(info.key for info in seen[:5]) or "nothing"
        raise PromptTableError(
            "no prompt files there",
            where=uri,
            got=got,
            expected="a Parquet file, or *.parquet files below it",
        )
    return storage, found


def glob_pattern(glob: str) -> re.Pattern[str]:
    """A glob as a regular expression: `**/` is any folders, `**` anything, `*` and `?` stay in one name."""
    simple = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", glob)
    return re.compile("".join(simple.get(part) or _class_or_literal(part) for part in parts))


def _class_or_literal(part: str) -> str:
    if not (len(part) > 2 and part[0] == "[" and part[-1] == "]"):
        return re.escape(part)
    negated, body = part[1] == "!", part[1:-1].lstrip("!")
    return f"[{'^' if negated else ''}{re.escape(body).replace(chr(92) + '-', '-')}]"


def _split_glob(uri: str) -> tuple[str, str]:
    """The folder above the first wildcard, and the glob below it."""
    wildcard = _WILDCARD.search(uri)
    if wildcard is None:
        return uri, _EVERY_PARQUET
    cut = uri.rfind("/", 0, wildcard.start()) + 1
    return uri[:cut] or ".", uri[cut:]


def _single_file(uri: str) -> tuple[Storage, list[ObjectInfo]] | None:
    """The table that is one file. Asked before globs, since a file's name may hold a `[`."""
    parent, name = posixpath.split(uri)
    if name in ("", ".", "..", "~") or parent.endswith(":/"):
        return None  # a folder, or a bare bucket
    storage = Storage(parent or ".")
    info = storage.info(name)
    return None if info is None else (storage, [info])


def _hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in path.split("/"))
