"""Carried types that common readers of our outputs refuse, or read as something else: what `plan` says of them.

Tried with DuckDB, Polars, pandas, `datasets` and Lance; Spark by the types that its ParquetSchemaConverter takes.
"""

import zoneinfo
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.types as t

_MAX_DIGITS = 38
"""Of a decimal in Polars, Spark and, as a decimal, DuckDB."""


def reader_notes(carried: pa.Schema) -> list[str]:
    """One line for each column that not every reader takes, naming column, type and readers."""
    notes = []
    for field in carried:
        troubles = "; ".join(dict.fromkeys(_troubles(field.type)))
        if troubles:
            notes.append(f"the column {field.name!r} is carried as {field.type}: {troubles}")
    return notes + _case_notes(carried.names)


def _case_notes(names: list[str]) -> list[str]:
    by_lower: dict[str, list[str]] = {}
    for name in names:
        by_lower.setdefault(name.lower(), []).append(name)
    return [
        f"the columns {' and '.join(map(repr, same))} differ in case alone: DuckDB renames all but the first, Spark "
        "cannot tell them apart"
        for same in by_lower.values()
        if len(same) > 1
    ]


def _troubles(kind: pa.DataType) -> Iterator[str]:
    """What readers do to values of a plain type, those inside others included."""
    if isinstance(kind, pa.BaseExtensionType):
        yield from _of_extension(kind)
    elif t.is_decimal(kind):
        yield from _of_decimal(kind)
    elif t.is_time(kind) or t.is_timestamp(kind):
        yield from _of_time(kind)
    elif t.is_duration(kind):
        yield "DuckDB and Spark read whole numbers"
    elif t.is_float16(kind):
        yield "Spark refuses it"
    elif t.is_map(kind):
        yield "datasets refuses it"
    for child in range(kind.num_fields):
        yield from _troubles(kind.field(child).type)


def _of_extension(kind: pa.BaseExtensionType) -> Iterator[str]:
    if isinstance(kind, pa.UuidType):
        yield "datasets and Spark refuse it, Polars reads bytes"
    elif not isinstance(kind, pa.JsonType):
        yield "datasets refuses it"


def _of_decimal(kind: pa.DataType) -> Iterator[str]:
    if kind.precision > _MAX_DIGITS:
        yield "Polars and Spark refuse it, DuckDB reads doubles"
    if kind.bit_width < 128:
        yield "datasets and Lance refuse it"


def _of_time(kind: pa.DataType) -> Iterator[str]:
    if t.is_time(kind):
        yield "Spark refuses it"
    elif kind.unit == "ns":
        yield "Spark refuses it by default"
    if t.is_time(kind) and kind.unit == "ns":
        yield "pandas refuses values with nanoseconds"
    zone = None if t.is_time(kind) else kind.tz
    if zone and zone[0] in "+-":
        yield "Polars refuses zones that are an offset"
    elif zone and zone not in zoneinfo.available_timezones():
        yield "no reader knows its time zone"
