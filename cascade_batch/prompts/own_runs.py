"""Runs and prompt folders: what runs of ours write is never read as prompts, and no run is begun where it would be."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from cascade_batch.errors import CascadeError, SpecError
from cascade_batch.run import paths
from cascade_batch.run.records import read_json
from cascade_batch.storage import ObjectInfo, Storage
from cascade_batch.storage.urls import key_below

THREADS = 16


def without_runs(
    storage: Storage, seen: Sequence[ObjectInfo], files: Sequence[ObjectInfo]
) -> list[ObjectInfo]:
    """Those of the files that no run below the root has written; costs a request per run, none per file.

    Args:
        seen: all objects below the root, as far as they were listed.
    """
    folders = {i.key.removesuffix(paths.RUN) for i in seen if i.key.rpartition("/")[2] == paths.RUN}
    suspects = {info.key: _run_of(info.key, folders) for info in files} if folders else {}
    asked = sorted({folder for folder in suspects.values() if folder is not None})
    with ThreadPoolExecutor(THREADS) as pool:
        ours = list(pool.map(lambda folder: _is_ours(storage, folder), asked))
    runs = {folder for folder, is_ours in zip(asked, ours, strict=True) if is_ours}
    return [info for info in files if suspects.get(info.key) not in runs]


def _run_of(key: str, folders: set[str]) -> str | None:
    """The folder with a `run.json` that would write this key."""
    parts = key.split("/")
    above = ("".join(f"{part}/" for part in parts[:depth]) for depth in range(len(parts)))
    return next((f for f in above if f in folders and paths.is_written_by_runs(key[len(f) :])), None)


def _is_ours(storage: Storage, folder: str) -> bool:
    """Whether a `run.json` is one that this program wrote."""
    try:
        record = read_json(storage, f"{folder}{paths.RUN}")
    except CascadeError:
        return False
    return isinstance(record, dict) and {"format", "spec", "table", "plan"} <= record.keys()


def check_apart(table_root: str, keys: Sequence[str], sees: Callable[[str], bool], out: str) -> None:
    """Raise SpecError for a run whose files would be read as prompts by the next sitting, or are the prompts now.

    Args:
        keys: of the table's files below its root.
        sees: whether a key below the root would be a file of the table.
    """
    inside = key_below(table_root, out)
    if inside is not None and any(sees(f"{inside}/{key}".lstrip("/")) for key in paths.TABLES_OF_A_RUN):
        raise _inside(
            out, "the run would lie inside the folder of the prompt table", f"a place outside {table_root}"
        )
    above = key_below(out, table_root)
    if above is None:
        return
    for key in keys:
        if paths.is_written_by_runs(f"{above}/{key}".lstrip("/")):
            raise _inside(
                out,
                "the prompt table lies where the run would write",
                f"another place: {key} is a file of the table",
            )


def _inside(out: str, what: str, expected: str) -> SpecError:
    return SpecError(what, where="output.uri", got=out, expected=expected)
