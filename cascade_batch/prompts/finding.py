"""Which files a prompt table has: one file, all Parquet files below a folder, or those a glob matches."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cascade_batch.errors import PromptTableError
from cascade_batch.prompts.own_runs import without_runs
from cascade_batch.storage import ObjectInfo, Storage
from cascade_batch.storage.urls import check_url, is_web, local_path, split_key, split_query

_WILDCARD = re.compile(r"[*?\[]")
_EVERY_PARQUET = re.compile(r".*\.(parquet|parq|pq)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Found:
    """The files of a table, in path order."""

    storage: Storage
    files: list[ObjectInfo]
    pattern: re.Pattern[str] | None = None
    """What keys below the root were looked for; None for one file that was named itself."""
    query: str = ""
    """Of a web URL: what its requests need, and nobody else may see."""

    def sees(self, key: str) -> bool:
        """Whether an object of this key, below the root, would be a file of the table."""
        return self.pattern is not None and bool(self.pattern.fullmatch(key)) and not _hidden(key)


def find_files(uri: str) -> Found:
    """The files of a table; hidden and `_` names below the root are skipped, and so are the files of runs.

    A file or folder of just this name goes before a glob. Raises PromptTableError if there are none, SpecError for a
    URL that is refused.
    """
    if not uri:
        raise PromptTableError(
            "no prompt table was named", next_step="give a Parquet file, a folder or a glob"
        )
    uri, query = split_query(uri)
    check_url(uri)
    uri = _plain(uri)
    single = _single_file(uri, query)
    if single is not None:
        return single
    if is_web(uri):
        raise _nothing(uri, [], "one Parquet file: folders of the web cannot be listed")
    wildcard = _WILDCARD.search(uri)
    return _folder(uri, must_be=wildcard is None) or _matched(uri)


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


def _plain(uri: str) -> str:
    """A local place without `file://` and `~`, its last slash kept; any other as it is."""
    path = local_path(uri)
    return uri if path is None else path + "/" * (uri.endswith("/") and path != "/")


def _single_file(uri: str, query: str) -> Found | None:
    """The table that is one file. Asked before globs, since a file's name may hold a `[`."""
    folder, name = split_key(uri)
    if not name.strip("/"):
        return None  # a folder, or a bare bucket
    storage = Storage(folder, query)
    info = storage.info(name)
    return None if info is None else Found(storage, [info], query=query)


def _folder(uri: str, must_be: bool) -> Found | None:
    """All Parquet files below a folder; None if `uri` names none, unless it must be one."""
    storage = Storage(uri)
    if not must_be and not (storage.is_local or storage.lists_by_prefix):
        return None  # what a name with wildcards lists elsewhere is each store's own affair
    seen = storage.list()
    return _chosen(uri, storage, seen, _EVERY_PARQUET) if seen or must_be else None


def _matched(uri: str) -> Found:
    """What a glob matches below the folder above its first wildcard."""
    first = _WILDCARD.search(uri)
    assert first is not None
    cut = uri.rfind("/", 0, first.start()) + 1
    glob = uri[cut:]
    storage = Storage(uri[:cut])
    seen = storage.list(glob[: first.start() - cut])
    return _chosen(uri, storage, seen, glob_pattern(glob))


def _chosen(uri: str, storage: Storage, seen: Sequence[ObjectInfo], pattern: re.Pattern[str]) -> Found:
    found = Found(storage, [], pattern)
    files = [info for info in seen if found.sees(info.key)]
    kept = without_runs(storage, seen, files)
    if not kept:
        got = [info.key for info in seen[:5]]
        raise _nothing(uri, got, "the files of runs are no prompts" if files else "")
    return Found(storage, kept, pattern)


def _nothing(uri: str, got: Sequence[str], why: str) -> PromptTableError:
    return PromptTableError(
        "no prompt files there",
        where=uri,
        got=", ".join(got) or "nothing",
        expected="a Parquet file, or *.parquet files below it" + (f"; {why}" if why else ""),
    )


def _hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in path.split("/"))
