"""Whether the table's own columns can be carried to the end of a run: tried at plan time, on one row of each layout.

The row goes through the code that a run sends it through, where types that Arrow can read but not join, write or read
back would otherwise be met after the pictures were paid for.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from cascade_batch.errors import CascadeError, PromptTableError
from cascade_batch.prompts.digest import rows_sha256
from cascade_batch.prompts.rows import first_carried
from cascade_batch.run import parquet
from cascade_batch.run.manifest import parts, with_carried
from cascade_batch.run.prompt_table import PromptTable
from cascade_batch.run.schemas import MANIFEST, manifest_schema

THREADS = 8
_ROW = (0, 0, 1)
"""The images of the trial: two of the table's row, one of a row of nulls."""
_REFUSED = (CascadeError, pa.ArrowException, NotImplementedError, ValueError, TypeError, KeyError, OSError)
"""What Arrow raises about types that it does not support somewhere."""


def check_carried(table: PromptTable) -> None:
    """Raise PromptTableError for the first carried column that could not be written or read back."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda file: _check_file(table, file), table.layouts))


def _check_file(table: PromptTable, file: int) -> None:
    """All columns at once; only where that fails, each by itself, to name the one."""
    try:
        return _try(table, file, table.carried.names)
    except _REFUSED:
        for field in table.carried:
            try:
                _try(table, file, [field.name])
            except _REFUSED as error:
                raise _refused(table, file, field, error) from None
        raise


def _try(table: PromptTable, file: int, names: Sequence[str]) -> None:
    """All that a run does with carried columns."""
    carried = pa.schema([table.carried.field(name) for name in names])
    schema = manifest_schema(carried)
    given = first_carried(table, file, names)
    nulls = pa.table([pa.nulls(2 - given.num_rows, field.type) for field in carried], schema=carried)
    rows = pa.concat_tables([given, nulls])
    ours = pa.table([pa.nulls(len(_ROW), field.type) for field in MANIFEST], schema=MANIFEST)
    made = with_carried(ours, rows, pa.chunked_array([_ROW]), carried)
    stored = parquet.from_bytes(parquet.to_bytes(made), "manifest")
    retried = parquet.replaced(stored, made, [3, 1, 5])
    (part,) = parts([(0, stored), (1, retried)], schema)
    read = parquet.from_bytes(parquet.to_bytes(part), "table")
    if not read.schema.equals(schema):
        raise ValueError(f"it comes back as {', '.join(str(read.schema.field(name).type) for name in names)}")
    wanted = pa.concat_tables([rows.take(pa.array(_ROW))] * 2)
    if rows_sha256(read.select(names)) != rows_sha256(wanted):
        raise ValueError("its values do not come back as they were")


def _refused(table: PromptTable, file: int, field: pa.Field, error: Exception) -> PromptTableError:
    told = error.got if isinstance(error, CascadeError) and error.got else error
    reason = str(told).splitlines() or [type(error).__name__]
    return PromptTableError(
        f"the column {field.name!r} cannot be carried to the manifest",
        where=table.where(table.files[file]),
        got=f"{field.type}: {reason[0]}",
        expected="a type that Arrow writes to Parquet and reads back as it was",
        next_step="cast the column, or write the table without it",
    )
