"""A prompt table as a nightly job meets it, as it was yesterday and with one percent of it changed."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROWS_PER_FILE = 65_536
CHANGED = 100
"""One row in so many."""
_WORDS = re.findall(
    r"\w+",
    "a an the of in on under beside behind before old small large red blue green golden silver wooden quiet busy city "
    "harbour street forest mountain river garden market kitchen library station bridge window lantern bicycle child "
    "fisherman painter woman sailor horse owl fox cat ship train kite umbrella teapot clock chair morning evening "
    "winter autumn rain snow fog sunlight moonlight watercolour photograph engraving poster sketch portrait",
)
_CATEGORIES = ("animals", "people", "places", "objects", "vehicles", "abstract")
Change = Callable[[pa.Table, int], pa.Table]
"""A file's rows and its number -> its rows now."""


def write_table(
    folder: Path, rows: int, change: Change | None = None, group_rows: int = ROWS_PER_FILE
) -> None:
    """A table of `rows` prompts in files of about equal size; the same rows each time, but for `change`."""
    folder.mkdir(parents=True)
    bounds = np.linspace(0, rows, -(-rows // ROWS_PER_FILE) + 1).astype(np.int64)
    for number, (first, stop) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        table = _rows(first, stop)
        if change is not None:
            table = change(table, number)
        pq.write_table(
            table, folder / f"part-{number:05}.parquet", row_group_size=group_rows, compression="zstd"
        )


def spread(table: pa.Table, _number: int) -> pa.Table:
    """Every hundredth row of every file has another text."""
    return _with_texts(table, np.arange(table.num_rows) % CHANGED == 0)


def clustered(rows: int) -> Change:
    """As many rows have another text, all of them in the first file."""
    return lambda table, number: _with_texts(
        table, np.arange(table.num_rows) < (rows // CHANGED if number == 0 else 0)
    )


def carried(table: pa.Table, _number: int) -> pa.Table:
    """Every hundredth row has another score, which decides no picture."""
    score = table["score"].to_numpy().copy()
    score[::CHANGED] += 1
    return table.set_column(table.schema.get_field_index("score"), "score", pa.array(score))


def _with_texts(table: pa.Table, where: np.ndarray) -> pa.Table:
    other = _joined(table["prompt"], pa.scalar("at night"), pa.scalar(", "))
    texts = pc.call_function("if_else", [pa.array(where), other, table["prompt"]])
    return table.set_column(table.schema.get_field_index("prompt"), "prompt", texts)


def _rows(first: int, stop: int) -> pa.Table:
    rng, rows = np.random.default_rng(first), stop - first
    numbers = pa.array([f"{number:012}" for number in range(first, stop)])
    return pa.table(
        {
            "id": _joined(pa.scalar("prompt"), numbers, pa.scalar("-")),
            "prompt": _texts(rng, rows),
            "category": pa.array(_CATEGORIES).take(pa.array(rng.integers(0, len(_CATEGORIES), rows))),
            "score": pa.array(rng.random(rows)),
        }
    )


def _texts(rng: np.random.Generator, rows: int) -> pa.Array:
    """Of 11 to 20 words, 70 to 130 characters for the most part."""
    words = pa.array(_WORDS)
    lengths = rng.integers(11, 21, rows)
    columns = [
        words.take(pa.array(rng.integers(0, len(_WORDS), rows), mask=lengths <= place)) for place in range(20)
    ]
    return _joined(*columns, pa.scalar(" "))


def _joined(*columns_and_separator: Any) -> Any:
    options = pc.JoinOptions(null_handling="skip")
    return pc.call_function("binary_join_element_wise", list(columns_and_separator), options)
