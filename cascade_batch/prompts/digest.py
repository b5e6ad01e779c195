"""A hash of rows that depends on their values alone, not on buffers, encodings or library versions."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as t


def rows_sha256(rows: pa.Table) -> str:
    """sha256 over names, kinds, nulls and values of all columns, in column order.

    Numbers are hashed at 64 bits and text whatever its offsets' width, so that widening a column or reading
    it along another path changes nothing. All NaNs are one; times are whole numbers of their unit.
    """
    sha = hashlib.sha256()
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        _add_bytes(sha, name.encode())
        _add(sha, pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type))
    return sha.hexdigest()


def _add(sha: Any, values: pa.Array) -> None:
    """One array: its kind, its length, which values are there, and those that are."""
    values = _decoded(values)
    kind = values.type
    _add_bytes(sha, _kind_name(kind).encode())
    _add_numbers(sha, np.asarray([len(values), values.null_count]))
    _add_numbers(sha, np.packbits(values.is_valid().to_numpy(zero_copy_only=False)))
    present = values.drop_null()
    if t.is_struct(kind):
        for field, child in zip(kind, present.flatten(), strict=True):
            _add_bytes(sha, field.name.encode())
            _add(sha, child)
    elif t.is_nested(kind):
        _add_lists(sha, present)
    elif t.is_null(kind):
        return
    elif _is_text(kind) or _is_bytes(kind):
        _add_texts(sha, present.cast(pa.large_binary()))
    elif t.is_decimal(kind):
        _add_texts(sha, present.cast(pa.string()).cast(pa.large_binary()))
    else:
        _add_numbers(sha, _numbers(present))


def _decoded(values: pa.Array) -> pa.Array:
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    kind = values.type
    if t.is_dictionary(kind):
        return values.cast(kind.value_type)
    if t.is_map(kind):  # a map is a list of its entries; drop_null cannot be asked of maps everywhere
        entries = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
        return values.cast(pa.list_(entries))
    return values


def _kind_name(kind: pa.DataType) -> str:
    """A name for the kind of values, the same for all widths and layouts of it."""
    names = {t.is_integer: "int", t.is_floating: "float", t.is_struct: "struct", t.is_nested: "list"}
    for check, name in names.items():
        if check(kind):
            return name
    if t.is_decimal(kind):
        return f"decimal {kind.scale}"
    if _is_text(kind) or _is_bytes(kind):
        return "text" if _is_text(kind) else "bytes"
    if t.is_time(kind) or t.is_date(kind) or t.is_duration(kind) or t.is_timestamp(kind):
        unit, zone = getattr(kind, "unit", kind.bit_width), getattr(kind, "tz", None)
        return f"{str(kind).partition('[')[0].rstrip('0123456789')} {unit} {zone}"
    return str(kind)


def _is_text(kind: pa.DataType) -> bool:
    return t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return any(
        is_(kind) for is_ in (t.is_binary, t.is_large_binary, t.is_binary_view, t.is_fixed_size_binary)
    )


def _numbers(present: pa.Array) -> np.ndarray:
    """Fixed-width values as 64-bit numbers; every NaN the same one."""
    if t.is_floating(present.type):
        values = present.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return np.where(np.isnan(values), np.nan, values)
    if t.is_boolean(present.type) or t.is_integer(present.type):
        values = present.to_numpy(zero_copy_only=False)
        return values if values.dtype == np.uint64 else values.astype(np.int64)
    width = pa.int32() if present.type.bit_width == 32 else pa.int64()
    return present.cast(width).to_numpy(zero_copy_only=False).astype(np.int64)


def _add_lists(sha: Any, present: pa.Array) -> None:
    if t.is_fixed_size_list(present.type):
        lengths = np.full(len(present), present.type.list_size)
    else:
        lengths = pc.call_function("list_value_length", [present]).to_numpy(zero_copy_only=False)
    _add_numbers(sha, lengths.astype(np.int64))
    _add(sha, present.flatten())


def _add_texts(sha: Any, present: pa.Array) -> None:
    _add_numbers(
        sha, pc.call_function("binary_length", [present]).to_numpy(zero_copy_only=False).astype(np.int64)
    )
    _add_bytes(sha, b"".join(present.to_pylist()))


def _add_numbers(sha: Any, values: np.ndarray) -> None:
    _add_bytes(sha, np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())


def _add_bytes(sha: Any, data: bytes) -> None:
    """With its length first, so that neighbours cannot trade bytes."""
    sha.update(len(data).to_bytes(8, "little"))
    sha.update(data)
