"""A local copy of a part's files, made once per node, and what they hash to."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from cascade_batch.errors import WeightsError
from cascade_batch.storage import ObjectInfo, Storage
from cascade_batch.weights.fetch_progress import progress_of
from cascade_batch.weights.part import SUMS, Part

HASH_SUFFIX = ".sha256"


def fetch(part: Part) -> Path:
    """A local folder with the part's files: its own if it is local, else this node's cached copy.

    The copy's name hashes URL, sizes and ETags, so changed weights are fetched anew (where a store
    has no ETag, only if a size changes). One process per node downloads, the others wait for it.
    Raises WeightsError if a file has gone, is not what the store says it is, or the cache cannot be written.
    """
    storage = Storage(part.uri)
    if storage.is_local:
        return Path(storage.uri)
    found = {name: storage.info(name) for name in (*part.files, *part.extras)}  # a web server has no listing
    wanted = [info for info in found.values() if info is not None]
    if len(wanted) < len(found):
        gone = [name for name, info in found.items() if info is None]
        raise WeightsError(f"files of {part.name} have gone", where=part.uri, got=gone)
    folder = _cache() / _fingerprint(part.uri, wanted)
    with _locked(folder):
        if not _is_complete(folder, wanted):
            _download(storage, wanted, folder)
    return folder


def digest(part: Part, folder: Path) -> str:
    """sha256 over name and content hash of the part's files in `folder`, the shard index excepted.

    A cached download is hashed once per node; a local folder every time, for it may change. Raises WeightsError if a
    file is not what a `SHA256SUMS` beside it promises.
    """
    if folder.parent != _cache():
        return _digest(part, folder)
    note = folder.with_name(folder.name + HASH_SUFFIX)
    with _locked(folder):
        if not note.exists():
            partial = note.with_name(note.name + ".partial")
            partial.write_text(_digest(part, folder))
            os.replace(partial, note)
        return note.read_text()


def _digest(part: Part, folder: Path) -> str:
    total, promised = hashlib.sha256(), _promised(folder)
    for name in sorted((*part.files, *part.extras)):
        if name == SUMS or ".safetensors.index." in name:
            continue
        content = _sha256(folder / name)
        if promised.get(name, content) != content:
            raise WeightsError(
                f"the weights of {part.name} are not what their {SUMS} promises",
                where=str(folder / name),
                got=content,
                expected=promised[name],
                next_step="fetch the file again; it was damaged, or changed without its checksum",
            )
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError("the weights cannot be read", where=str(path), got=error) from error


def _promised(folder: Path) -> dict[str, str]:
    """File name -> sha256, as `sha256sum` writes it; empty if the folder has no such list."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(
            "cannot read the checksums of weights", where=str(folder / SUMS), got=error
        ) from None
    return {name.lstrip(" *"): content for content, _, name in (line.partition(" ") for line in lines)}


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "cascade-batch" / "weights"


def _fingerprint(uri: str, infos: list[ObjectInfo]) -> str:
    fields = [uri, *([info.key, info.size, info.etag] for info in infos)]
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:32]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):
            yield
    except OSError as error:
        raise WeightsError(
            "cannot write the weights cache",
            where=str(folder.parent),
            got=error,
            next_step="free some space, or set XDG_CACHE_HOME to a larger disk",
        ) from error


def _is_complete(folder: Path, infos: list[ObjectInfo]) -> bool:
    files = [(folder / info.key, info.size) for info in infos]
    return all(path.is_file() and path.stat().st_size == size for path, size in files)


def _download(storage: Storage, infos: list[ObjectInfo], folder: Path) -> None:
    """Into a folder beside the final one, which gets its name when all sizes are right."""
    partial, note = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + HASH_SUFFIX)
    for leftover in (partial, folder):  # of a process that died here, or damaged since
        shutil.rmtree(leftover, ignore_errors=True)
    note.unlink(missing_ok=True)
    partial.mkdir()
    try:
        for info in infos:
            _download_file(storage, info, partial / info.key)
        if not _is_complete(partial, infos):
            raise WeightsError("the weights changed while they were fetched", where=storage.uri)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _download_file(storage: Storage, info: ObjectInfo, path: Path) -> None:
    """Held to the digest where the store tells one, as the hub does of weights."""
    url = storage.url(info.key)
    with progress_of(url, info.size) as advance:
        storage.download(info.key, path, advance)
    if info.sha256 is not None and (found := _sha256(path)) != info.sha256:
        raise WeightsError(
            "a downloaded file is not the one that the store promises",
            where=url,
            got=found,
            expected=info.sha256,
            next_step="repeat the command; if it fails again, ask who maintains the repository",
        )
