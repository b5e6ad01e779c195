"""Reading a committed table that may be damaged in any way: a fault is an answer here, not an exception."""

from collections.abc import Collection

import pyarrow as pa

from cascade_batch.errors import IntegrityError
from cascade_batch.run import parquet
from cascade_batch.storage import ObjectMissing, Storage

Fault = tuple[str, str, object, object]
"""Kind, what, got, expected of a `Difference`."""


def read_table(
    storage: Storage, key: str, carried: Collection[str] = ()
) -> tuple[pa.Table | None, Fault | None]:
    """The table, or why it cannot be read. Its texts are valid UTF-8, which Parquet readers do not check.

    Args:
        carried: columns that hold what the prompt table holds, valid or not.
    """
    try:
        table = parquet.from_bytes(storage.read(key), key)
        table.select([i for i, n in enumerate(table.column_names) if n not in carried]).validate(full=True)
    except ObjectMissing:
        return None, ("missing", "no such object", None, None)
    except IntegrityError as error:
        return None, ("damaged", error.what, error.got, None)
    except ValueError as error:  # Arrow's own, and of column names that are no text
        return None, ("damaged", "its values cannot be read", str(error).splitlines()[0], None)
    return table, None


def schema_fault(got: pa.Schema, expected: pa.Schema) -> Fault | None:
    """Columns that are not the run's. Names found are not repeated: damaged ones may not even be text."""
    if got.equals(expected):
        return None
    wrong = [f.name for i, f in enumerate(expected) if i >= len(got) or not got.field(i).equals(f)]
    return "inconsistent", "other columns than the run's", f"{len(got)} columns", ", ".join(wrong[:5])
