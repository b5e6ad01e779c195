"""How Delta Lake holds the Arrow types that prompt tables bring: its types are fewer.

| Arrow | Delta (as Arrow) |
|---|---|
| bool, int8 to int64, float32, float64, date32 | as they are |
| uint8, uint16, uint32; uint64 | the next wider signed integer; decimal128(20, 0) |
| float16 | float32 |
| decimals of up to 38 digits | decimal128; wider ones are refused |
| strings of any layout; JSON; null | string |
| binaries of any layout; UUIDs | binary |
| date64 | date32 |
| timestamps | microseconds: without a zone as they are, with one the same instant in UTC; finer values are refused |
| times of day | string, `HH:MM:SS` and the fraction of their unit |
| durations | int64, microseconds; finer values are refused |
| lists of any layout, tensors | list; a tensor's values in the order that they are stored in |
| structs, maps | the same of what they hold; a struct without fields is refused |
| dictionary, run-end encoded | what they encode |

Everything may be null. Months-and-days intervals and unions are refused. No value is lost; widths, layouts, units,
zones' names and shapes are.
"""

from collections import Counter

import pyarrow as pa
import pyarrow.types as t

from cascade_batch.errors import PromptTableError
from cascade_batch.prompts.encodings import decoded
from cascade_batch.prompts.types import plain

DIGITS = 38
"""Of the widest decimal that Delta knows."""
_SIGNED = {8: pa.int16(), 16: pa.int32(), 32: pa.int64(), 64: pa.decimal128(20, 0)}


def held_by_delta(schema: pa.Schema, where: str = "") -> pa.Schema:
    """What a table of this schema is in Delta, as Delta tells it back.

    Raises PromptTableError for a column that cannot be held, and for names that differ in case alone.
    """
    names = Counter(name.lower() for name in schema.names)
    twice = [name for name in schema.names if names[name.lower()] > 1]
    if twice:
        raise PromptTableError(
            "two columns whose names Delta Lake does not tell apart",
            where=where,
            got=", ".join(map(repr, twice)),
            expected="names that differ in more than upper and lower case, from ours too",
            next_step="rename the column",
        )
    return pa.schema([pa.field(field.name, _held_column(field, where)) for field in schema])


def cast_for_delta(table: pa.Table, schema: pa.Schema, where: str = "") -> pa.Table:
    """The columns of `table` that `schema` names, which `held_by_delta` made of theirs.

    Raises PromptTableError for values finer than a microsecond, or else too wide for their column.
    """
    columns = [_cast(table[field.name], field, where) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _cast(column: pa.ChunkedArray, field: pa.Field, where: str) -> pa.ChunkedArray:
    try:
        column = decoded(column)
        if pa.types.is_duration(column.type) or column.type != field.type:
            column = column.cast(_on_the_way(column.type)).cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _refused(field.name, f"{column.type}: {str(error).splitlines()[0]}", where) from None
    return column


def _held_column(field: pa.Field, where: str) -> pa.DataType:
    held = _held(plain(field.type))
    if held is None:
        raise _refused(field.name, str(field.type), where)
    return held


def _refused(name: str, got: str, where: str) -> PromptTableError:
    return PromptTableError(
        f"the column {name!r} cannot be kept in a collection",
        where=where,
        got=got,
        expected="a type of which Delta Lake loses no value",
        next_step="cast the column, or write the table without it",
    )


def _held(kind: pa.DataType) -> pa.DataType | None:
    """Of a plain type; None if there is nothing that holds it."""
    if isinstance(kind, pa.BaseExtensionType):
        return _held(plain(kind.storage_type))
    if t.is_nested(kind):
        return _held_nested(kind)
    if t.is_unsigned_integer(kind):
        return _SIGNED[kind.bit_width]
    if t.is_decimal(kind):
        return _held_decimal(kind)
    if t.is_timestamp(kind):
        return pa.timestamp("us", None if kind.tz is None else "UTC")
    for is_kind, held in _FLAT:
        if is_kind(kind):
            return held
    return kind if t.is_boolean(kind) or t.is_signed_integer(kind) or t.is_floating(kind) else None


_FLAT = (
    (t.is_float16, pa.float32()),
    (t.is_null, pa.string()),
    (t.is_string, pa.string()),
    (t.is_large_string, pa.string()),
    (t.is_binary, pa.binary()),
    (t.is_large_binary, pa.binary()),
    (t.is_fixed_size_binary, pa.binary()),
    (t.is_date, pa.date32()),
    (t.is_time, pa.string()),
    (t.is_duration, pa.int64()),
)


def _held_decimal(kind: pa.DataType) -> pa.DataType | None:
    digits, scale = kind.precision, kind.scale
    if scale < 0:
        digits, scale = digits - scale, 0
    digits = max(digits, scale)
    return pa.decimal128(digits, scale) if digits <= DIGITS else None


def _held_nested(kind: pa.DataType) -> pa.DataType | None:
    if t.is_struct(kind):
        fields = [(field.name, _held(field.type)) for field in kind]
        whole = fields and all(held is not None for _, held in fields)
        return pa.struct(fields) if whole else None
    if t.is_map(kind):
        key, item = _held(kind.key_type), _held(kind.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        value = _held(kind.value_type)
        return None if value is None else pa.list_(pa.field("element", value))
    return None


def _on_the_way(kind: pa.DataType) -> pa.DataType:
    """The type between: of durations in microseconds, since Arrow casts them to integers in their own unit."""
    if t.is_duration(kind):
        return pa.duration("us")
    if t.is_struct(kind):
        return pa.struct([pa.field(f.name, _on_the_way(f.type)) for f in kind])
    if t.is_map(kind):
        return pa.map_(_on_the_way(kind.key_type), _on_the_way(kind.item_type))
    if t.is_fixed_size_list(kind):
        return pa.list_(_on_the_way(kind.value_type), kind.list_size)
    if t.is_list(kind):
        return pa.list_(_on_the_way(kind.value_type))
    if t.is_large_list(kind):
        return pa.large_list(_on_the_way(kind.value_type))
    return kind
