"""Score a finished run of the evaluation's prompt table from its manifest and its pictures, wherever they lie."""

import io
import json
import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from cascade_batch.errors import PromptTableError
from cascade_batch.run.manifest import read_table
from cascade_batch.storage import Storage
from jobs.evaluate.checker import Seen, look
from jobs.evaluate.judging import Verdict, judge

SCORES = "scores.json"
CARRIED = ["task", "held_out", "expects"]
COLUMNS = ["image_id", "prompt_id", "prompt", "image_uri", "status", "error_code", *CARRIED]
DETAILS = pa.schema(
    [
        *((name, pa.string()) for name in ("image_id", "prompt_id", "prompt", "image_uri", "task")),
        ("held_out", pa.bool_()),
        *((name, pa.bool_()) for name in ("right", "ground_right", "size_right", "place_right")),
        *((name, pa.string()) for name in ("why", "seen")),
    ]
)
"""One row per picture; `why` is the first thing wrong, or the error code of a failed row."""
Row = dict[str, Any]


def score(uri: str) -> tuple[dict[str, Any], pa.Table]:
    """Scores of a run by task, and the judged pictures as `DETAILS`.

    Raises:
        StorageError: the run is not finished.
        PromptTableError: its prompt table was not the evaluation's.
    """
    storage = Storage(uri)
    rows = _manifest(storage).to_pylist()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        judged = list(threads.map(lambda row: _judged(storage, row), rows))
    return summary(judged), pa.Table.from_pylist(judged, DETAILS)


def summary(judged: Iterable[Row]) -> dict[str, Any]:
    """Per task: pictures, share right, the same of held-out prompts, and what was wrong how often.

    `overall` is the mean of the tasks' shares, as GenEval has it. `stated` holds what the tasks do not count.
    """
    rows = list(judged)
    tasks = {task: _scores(row for row in rows if row["task"] == task) for task in _in_order(rows, "task")}
    return {
        "overall": _mean([task["right"] for task in tasks.values()]),
        "tasks": tasks,
        "stated": {name: _of_stated(rows, f"{name}_right") for name in ("ground", "size", "place")},
    }


def as_text(scores: dict[str, Any]) -> str:
    """The scores as a table for people."""
    lines = [f"{'task':<18} {'pictures':>8} {'right %':>8} {'held-out':>8} {'right %':>8}  wrong"]
    for name, task in scores["tasks"].items():
        held_out, wrong = task["held_out"], ", ".join(f"{why} {n}" for why, n in task["wrong"].items())
        lines.append(
            f"{name:<18} {task['pictures']:>8} {_percent(task['right'])} "
            f"{held_out['pictures']:>8} {_percent(held_out['right'])}  {wrong}".rstrip()
        )
    stated = [f"{k} {_percent(v['right']).strip()} of {v['pictures']}" for k, v in scores["stated"].items()]
    return "\n".join(
        [
            *lines,
            f"{'overall':<18} {'':>8} {_percent(scores['overall'])}",
            f"where stated: {', '.join(stated)}",
        ]
    )


def _manifest(storage: Storage) -> pa.Table:
    manifest = pa.concat_tables(read_table(storage))
    missing = [name for name in CARRIED if name not in manifest.column_names]
    if missing:
        raise PromptTableError(
            "this run cannot be scored: its prompt table did not say what it expects",
            where=storage.uri,
            expected=f"columns {', '.join(missing)}",
            next_step="render jobs/evaluate/prompts.parquet",
        )
    return manifest.select(COLUMNS)


def _judged(storage: Storage, row: Row) -> Row:
    judged = {name: row[name] for name in DETAILS.names if name in row}
    if row["status"] != "ok":
        return judged | asdict(Verdict(False, row["error_code"], None, None, None)) | {"seen": ""}
    with Image.open(io.BytesIO(storage.read(row["image_uri"]))) as image:
        seen = look(np.asarray(image.convert("RGB")))
    return judged | asdict(judge(seen, json.loads(row["expects"]))) | {"seen": _in_words(seen)}


def _in_words(seen: Seen) -> str:
    """Such as "red star (0.50, 0.27) 0.020, blue thing (0.51, 0.72) 0.071 on white": centre and wobble of each."""
    things = (
        f"{t.colour} {t.shape or 'thing'} ({t.centre[0]:.2f}, {t.centre[1]:.2f}) {t.wobble:.3f}"
        for t in seen.things
    )
    return f"{', '.join(things) or 'nothing'} on {seen.ground}"


def _scores(rows: Iterable[Row]) -> dict[str, Any]:
    rows = list(rows)
    held_out = [row for row in rows if row["held_out"]]
    return {
        "pictures": len(rows),
        "right": _mean([row["right"] for row in rows]),
        "held_out": {"pictures": len(held_out), "right": _mean([row["right"] for row in held_out])},
        "wrong": dict(Counter(row["why"] for row in rows if not row["right"]).most_common()),
    }


def _of_stated(rows: Iterable[Row], column: str) -> dict[str, Any]:
    stated = [row[column] for row in rows if row[column] is not None]
    return {"pictures": len(stated), "right": _mean(stated)}


def _in_order(rows: Iterable[Row], column: str) -> list[str]:
    return list(dict.fromkeys(row[column] for row in rows))


def _mean(values: list) -> float | None:
    return sum(values) / len(values) if values else None


def _percent(share: float | None) -> str:
    return f"{100 * share:8.1f}" if share is not None else f"{'-':>8}"
