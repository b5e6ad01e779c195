"""Values that decide identity and cost, checked for a whole table before anything is spent."""

import numpy as np
import pyarrow as pa

from cascade_batch.errors import PromptTableError
from cascade_batch.model.geometry import SIDE_STEP, check_side
from cascade_batch.run.prompt_table import PromptFile, PromptTable
from cascade_batch.settings.values import RANGES, limits_of


def check_values(table: PromptTable, file: PromptFile, first_row: int, rows: pa.Table) -> None:
    """Raise PromptTableError naming file, row and value of the first bad one; `id` must not be null."""
    for name in rows.column_names:
        column = rows[name]
        bad = _bad_ids(column) if name == "id" else _out_of_range(name, column)
        if len(bad):
            row = int(bad[0])
            raise _bad_value(name, column, row, table.where(file, first_row + row))


def _bad_ids(column: pa.ChunkedArray) -> np.ndarray:
    """Rows whose id is null, or text that is not UTF-8."""
    if column.null_count:
        return np.flatnonzero(column.is_null().to_numpy())
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return np.flatnonzero([_is_broken(value) for value in column.cast(pa.large_binary()).to_pylist()])
    return np.empty(0, np.int64)


def _is_broken(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return True
    return False


def _out_of_range(name: str, column: pa.ChunkedArray) -> np.ndarray:
    low, high = RANGES[name]
    whole = not name.endswith("_guidance_scale")
    # unsafe: a uint64 beyond int64 turns negative, which no range allows
    values = column.cast(pa.int64() if whole else pa.float64(), safe=False)
    numbers = values.fill_null(int(low) if whole else low).to_numpy()
    bad = ~((numbers >= low) & (numbers <= high))
    if name in ("width", "height"):
        bad |= numbers % SIDE_STEP != 0
    return np.flatnonzero(bad)


def _bad_value(name: str, column: pa.ChunkedArray, row: int, where: str) -> PromptTableError:
    if name == "id":
        got = "null" if column.null_count else "bytes that are not UTF-8"
        return PromptTableError(
            "a prompt has no usable id", where=where, got=got, expected="text or a whole number"
        )
    value = column[row].as_py()
    if name in ("width", "height"):
        check_side(name, value, where)
    return PromptTableError(
        f"a prompt's {name} is out of range", where=where, got=value, expected=limits_of(name)
    )
