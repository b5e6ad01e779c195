"""Where a model's five parts are, and a local copy of them.

Weights come in the diffusers layout: one folder per part, each with its `config.json`, on a local
disk or any fsspec URL. Only safetensors are read. The two published repositories hold different
parts, so each part may come from a place of its own. Remote parts are downloaded once per node.

With a `variant`, the three networks must have it; the text encoder falls back to its plain file
with a warning, as diffusers' pipelines do. A sharded index wins over a single file, as in diffusers.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from cascade_batch.errors import WeightsError
from cascade_batch.spec import ModelSpec
from cascade_batch.storage import ObjectInfo, ObjectMissing, Storage

EMBEDDED = Path(__file__).parent / "embedded"
SUBFOLDERS = {
    "stage_c": "prior",
    "stage_b": "decoder",
    "stage_a": "vqgan",
    "text_encoder": "text_encoder",
    "tokenizer": "tokenizer",
}
PARTS = tuple(SUBFOLDERS)
TOKENIZER_FILES = (
    "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
HASH_SUFFIX = ".sha256"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One part's folder: `files` are its weights, `extras` its config or tokenizer files (names)."""

    name: str
    uri: str
    files: tuple[str, ...]
    extras: tuple[str, ...]


def locate(model: ModelSpec) -> dict[str, Part]:
    """Find every part. Lists folders and reads shard indexes, never weights.

    A part's key (`model.stage_c` ...) may be the part's folder, a repository that has it in its
    usual subfolder, or the bare name of another subfolder of `model.name`, such as `prior_lite`.
    Raises WeightsError naming the folder, what is there, and the key to set.
    """
    root = _root(model.name)
    parts = {}
    for name in PARTS:
        override = getattr(model, name)
        tried = _places(name, override, root)
        storage = next((s for s in map(Storage, tried) if _is_part(s, name)), None)
        if storage is None:
            raise _missing_part(name, override if override and "/" in override else root, tried)
        parts[name] = _part(name, storage, model.variant)
    return parts


def read_config(part: Part) -> dict:
    """The part's `config.json`. Raises WeightsError if it is not a JSON object."""
    return _read_json(Storage(part.uri), "config.json")


def fetch(part: Part) -> Path:
    """A local folder with the part's files: its own if it is local, else this node's cached copy.

    The copy's name hashes URL, sizes and ETags, so changed weights are fetched anew (where a store
    has no ETag, only if a size changes). One process per node downloads, the others wait for it.
    Raises WeightsError if a file has gone or the cache cannot be written.
    """
    storage = Storage(part.uri)
    if storage.is_local:
        return Path(storage.uri)
    found = {info.key: info for info in storage.list()}
    wanted = [found[name] for name in (*part.files, *part.extras) if name in found]
    if len(wanted) < len(part.files) + len(part.extras):
        raise WeightsError(f"files of {part.name} have gone", where=part.uri, got=sorted(found))
    folder = _cache() / _fingerprint(part.uri, wanted)
    with _locked(folder):
        if not _is_complete(folder, wanted):
            _download(storage, wanted, folder)
    return folder


def digest(part: Part, folder: Path) -> str:
    """sha256 over name and content hash of the part's files in `folder`, the shard index excepted.

    A cached download is hashed once per node; a local folder every time, for it may change.
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


def _root(name: str) -> str:
    if "/" not in name and (EMBEDDED / name).is_dir():
        return str(EMBEDDED / name)
    if "://" in name or Path(name).expanduser().is_dir():
        return name
    embedded = sorted(path.name for path in EMBEDDED.glob("*/")) if EMBEDDED.is_dir() else []
    raise WeightsError(
        "no such model",
        where="model.name",
        got=name,
        expected=f"an embedded model ({', '.join(embedded)}), a folder, or a URL",
        next_step="a model on a hub must be downloaded to a folder first",
    )


def _places(name: str, override: str | None, root: str) -> list[str]:
    """Where a part may be, in the order of trying."""
    root = root.rstrip("/")
    if not override:
        return [f"{root}/{SUBFOLDERS[name]}"]
    given = override.rstrip("/")
    relative = [] if "/" in given else [f"{root}/{given}"]
    return [*relative, given, f"{given}/{SUBFOLDERS[name]}"]


def _is_part(storage: Storage, name: str) -> bool:
    markers = ("tokenizer.json", "vocab.json") if name == "tokenizer" else ("config.json",)
    return any(storage.exists(marker) for marker in markers)


def _part(name: str, storage: Storage, variant: str | None) -> Part:
    names = {info.key for info in storage.list()}
    if name == "tokenizer":
        return Part(name, storage.uri, (), tuple(f for f in TOKENIZER_FILES if f in names))
    stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
    weights = _weight_files(storage, names, stem, variant)
    if weights is None and variant and name == "text_encoder":
        weights = _weight_files(storage, names, stem, None)
        log.warning("%s has no variant %s, its plain file is used", storage.uri, variant)
    if weights is None:
        raise WeightsError(
            f"{name} has no weights" + (f" of variant {variant}" if variant else ""),
            where=storage.uri,
            got=sorted(names - {"config.json"}),
            expected=_single_file(stem, variant),
            next_step=f"set model.variant, or model.{name} to another folder; only safetensors are read",
        )
    files, index = weights
    return Part(name, storage.uri, files, ("config.json", *index))


def _weight_files(
    storage: Storage, names: set[str], stem: str, variant: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """(weight files, index file if sharded), None if there are none of this variant."""
    index = f"{stem}.safetensors.index.{variant}.json" if variant else f"{stem}.safetensors.index.json"
    if index in names:
        return _shard_files(storage, names, index), (index,)
    single = _single_file(stem, variant)
    return ((single,), ()) if single in names else None


def _single_file(stem: str, variant: str | None) -> str:
    return f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"


def _shard_files(storage: Storage, names: set[str], index: str) -> tuple[str, ...]:
    content = _read_json(storage, index).get("weight_map")
    files = set(content.values()) if isinstance(content, dict) else set()
    strange = sorted(str(f) for f in files if f not in names or not str(f).endswith(".safetensors"))
    if strange or not files:
        raise WeightsError(
            "the shard index does not fit its folder",
            where=storage.url(index),
            got=strange or content,
            expected=f"safetensors files among {sorted(names)}",
            next_step="copy the missing files, or the whole folder again",
        )
    return tuple(sorted(files))


def _read_json(storage: Storage, key: str) -> dict:
    try:
        content = json.loads(storage.read(key))
    except (ValueError, ObjectMissing) as error:
        raise WeightsError("cannot read a part's JSON file", where=storage.url(key), got=error) from None
    if not isinstance(content, dict):
        raise WeightsError("a part's JSON file holds no object", where=storage.url(key), got=content)
    return content


def _missing_part(name: str, root: str, tried: list[str]) -> WeightsError:
    there = sorted({info.key.split("/")[0] for info in Storage(root).list()})
    return WeightsError(
        f"the model has no {name}",
        where=" or ".join(tried),
        got=", ".join(there[:20]) or "nothing there",
        expected=f"a folder {SUBFOLDERS[name]}/ in the diffusers layout",
        next_step=f"set model.{name} to the folder, URL or repository that has it",
    )


def _digest(part: Part, folder: Path) -> str:
    total = hashlib.sha256()
    for name in sorted((*part.files, *part.extras)):
        if ".safetensors.index." not in name:
            with open(folder / name, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()


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
    for info in infos:
        storage.download(info.key, partial / info.key)
    if not _is_complete(partial, infos):
        raise WeightsError("the weights changed while they were fetched", where=storage.uri)
    partial.rename(folder)
