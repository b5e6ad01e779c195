"""What is to be rendered, as a prompt table of its own: one row for each image, sorted so that batches are full.

One percent of a table, spread over all its files, would be shards of one image and batches of padding; written together
it is as compact as any table. A row's `id` is the image's id in the edition, and everything that decides its picture
stands in it, so that the run has no defaults to go by.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cascade_batch.collection.columns import is_among, is_first
from cascade_batch.collection.regenerating.comparing import State
from cascade_batch.collection.regenerating.spool import Spool
from cascade_batch.model.conditions import CONDITIONS, PICTURES
from cascade_batch.model.sampling import guides
from cascade_batch.prompts import PromptTable, read_rows
from cascade_batch.run.schemas import ASKED
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import is_absolute

ROWS_PER_FILE = 100_000
_ASKED = tuple(name for name, _ in ASKED if name != "conditions")
_GROUPED = tuple(name for name in _ASKED if name not in ("prompt", "negative_prompt", "seed"))
"""What decides which images share a batch."""


@dataclass(frozen=True)
class Missing:
    """Images to render, each key once, in the order of rendering."""

    rows: np.ndarray
    """Their places in the spool."""
    image_ids: list[str]
    keys: list[str]
    """`stage_ba_key` of each."""
    decoded: int
    """How many of them, the first ones, have an embedding."""

    def __len__(self) -> int:
        return len(self.rows)


def missing(spool: Spool, states: np.ndarray, failed: set[str]) -> Missing:
    """The images without a picture, one for each picture, and one for each embedding that is to be made.

    Args:
        failed: keys of pictures that are not to be tried again.
    """
    wanted = np.flatnonzero(np.isin(states, (State.EMBEDDING, State.NOTHING)))
    table = spool.columns(["image_id", "stage_c_key", "stage_ba_key", *_GROUPED]).take(pa.array(wanted))
    state = states[wanted]
    chosen = np.flatnonzero(
        is_first(table["stage_ba_key"])
        & ~is_among(table["stage_ba_key"], pa.array(sorted(failed), pa.string()))
    )
    # A second picture from an embedding that is not there yet waits until it is: nothing is denoised twice.
    first = is_first(table["stage_c_key"].take(pa.array(chosen))) | (state[chosen] == State.EMBEDDING)
    chosen = chosen[first]
    order = chosen[_order(table.take(pa.array(chosen)), state[chosen])]
    taken = table.take(pa.array(order))
    return Missing(
        wanted[order],
        taken["image_id"].to_pylist(),
        taken["stage_ba_key"].to_pylist(),
        int((state[order] == State.EMBEDDING).sum()),
    )


def write_missing(todo: Missing, spool: Spool, table: PromptTable, storage: Storage, folder: str) -> None:
    """Write the prompt table of these images into a folder, "" or with a slash; again the same is fine.

    Images whose embeddings are known have files of their own, as shards end with files.
    """
    cuts = [range(todo.decoded), range(todo.decoded, len(todo))]
    for number, (name, places) in enumerate(zip(("decode", "render"), cuts, strict=True)):
        for part, piece in enumerate(_pieces(todo.rows[places.start : places.stop], spool, table)):
            sink = io.BytesIO()
            pq.write_table(piece, sink, compression="zstd")
            storage.create(f"{folder}{number}-{name}-{part:05d}.parquet", sink.getvalue())


def _pieces(rows: np.ndarray, spool: Spool, table: PromptTable) -> Iterator[pa.Table]:
    """Prompt tables of these images, in order; a new one where the columns' types change."""
    for start in range(0, len(rows), ROWS_PER_FILE):
        some = rows[start : start + ROWS_PER_FILE]
        order = np.argsort(some)
        images = spool.take(some[order]).take(pa.array(np.argsort(order)))
        prompts = images.select(["image_id", *_ASKED]).rename_columns(["id", *_ASKED])
        if not table.conditions:
            yield prompts
            continue
        yield from _with_conditions(prompts, images, table)


def _with_conditions(prompts: pa.Table, images: pa.Table, table: PromptTable) -> Iterator[pa.Table]:
    """The same with the rows' conditions, as the prompt table has them, whose files may differ in types."""
    places = zip(images["file"].to_pylist(), images["row"].to_pylist(), strict=True)
    given = [_conditions_of(table, file, row) for file, row in places]
    start = 0
    for end in range(1, len(given) + 1):
        if end == len(given) or given[end].schema != given[start].schema:
            piece, columns = prompts.slice(start, end - start), pa.concat_tables(given[start:end])
            for field in columns.schema:
                piece = piece.append_column(field, columns[field.name])
            yield piece
            start = end


def _conditions_of(table: PromptTable, file: int, row: int) -> pa.Table:
    """The condition columns of one row, pictures by absolute places."""
    stored = read_rows(table, file, row, 1).select(list(table.conditions))
    for place, field in enumerate(stored.schema):
        if CONDITIONS[field.name].kind in PICTURES:
            value = _absolute(stored[field.name][0].as_py(), table.root)
            stored = stored.set_column(place, field, pa.array([value], field.type))
    return stored


def _absolute(cell: Any, root: str) -> Any:
    """A picture's cell whose path does not depend on where the table lies."""
    if isinstance(cell, list):
        return [_absolute(one, root) for one in cell]
    if isinstance(cell, Mapping):
        return {**cell, "path": cell["path"] if cell["bytes"] is not None else _absolute(cell["path"], root)}
    return f"{root}/{cell}" if isinstance(cell, str) and not is_absolute(cell) else cell


def _order(table: pa.Table, state: np.ndarray) -> np.ndarray:
    """Images with an embedding first, then what fills batches: equal size, steps and guidance side by side."""
    guided = [guides(table[f"{stage}_guidance_scale"].to_numpy()) for stage in ("prior", "decoder")]
    sizes = [table[name].to_numpy() for name in ("width", "height", "prior_steps", "decoder_steps")]
    return np.lexsort([*reversed([state, *sizes, *guided])])
