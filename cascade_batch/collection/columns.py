"""Columns of millions of values beside one another, by Arrow's own kernels: which are equal, and where they stand."""

from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as t

AT_ONCE = 2**14
"""Values of nested types that are compared as texts at once."""
FEW = 4
"""Values that are looked up among so many times as many are few."""
MANY = 2**23
"""Values that Arrow is given at once: an array of texts holds two gigabytes."""
_WIDE = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
Column: TypeAlias = pa.ChunkedArray | pa.Array


def valid(column: Column) -> np.ndarray:
    """Whether values are not null, (n,) bool."""
    return column.is_valid().to_numpy(zero_copy_only=False).astype(bool)


def true(column: Column) -> np.ndarray:
    """Whether values of a column of booleans are true, (n,) bool; nulls are not."""
    return column.fill_null(False).to_numpy(zero_copy_only=False).astype(bool)


def places(values: Column, among: Column) -> np.ndarray:
    """Where each value stands first in another column, -1 for null and for what it has not, (n,) int64."""
    if not _is_few(values, among):
        return _found(values, among)
    asked = values.unique()
    met = _found(among, asked)
    first = np.full(len(asked), -1, np.int64)
    there = np.flatnonzero(met >= 0)[::-1]  # of equal ones the first, which is written last
    first[met[there]] = there
    at = _found(values, asked)
    return np.where(at < 0, -1, first[at])


def is_among(values: Column, among: Column) -> np.ndarray:
    """Whether another column has each value, (n,) bool; never for null."""
    return places(values, among) >= 0


def _is_few(values: Column, among: Column) -> bool:
    """Whether it is these that a hash table is to be made of: one of a million texts takes a second."""
    return 0 < len(values) * FEW < len(among)


def _found(values: Column, among: Column) -> np.ndarray:
    at = np.full(len(values), -1, np.int64)
    for start in range(0, len(among), MANY):
        options = pc.SetLookupOptions(value_set=_joined(among.slice(start, MANY)), skip_nulls=True)
        found = pc.call_function("index_in", [values], options).fill_null(-1)
        here = found.to_numpy(zero_copy_only=False).astype(np.int64)
        new = (at < 0) & (here >= 0)
        at[new] = start + here[new]
    return at


def is_first(values: Column) -> np.ndarray:
    """Whether each value stands here for the first time, (n,) bool."""
    at = pc.call_function("index_in", [values], pc.SetLookupOptions(value_set=values.unique()))
    first = np.zeros(len(values), bool)
    first[np.unique(at.to_numpy(zero_copy_only=False), return_index=True)[1]] = True
    return first


def taken(column: Column, at: np.ndarray) -> Column:
    """The values at these places, null for -1."""
    if len(at) == len(column) and (at == np.arange(len(at))).all():
        return column
    wide = _WIDE.get(column.type) if len(column) > MANY else None
    if wide is not None:
        column, kind = _joined(column.cast(wide)), column.type
        pieces = (at[start : start + MANY] for start in range(0, len(at), MANY))
        return pa.chunked_array([column.take(pa.array(p, mask=p < 0)).cast(kind) for p in pieces], kind)
    return column.take(pa.array(at, mask=at < 0))


def chosen(mask: np.ndarray, if_true: Column | str | pa.Scalar, if_false: Column | str | pa.Scalar) -> Column:
    """One of two values, row by row."""
    return pc.call_function("if_else", [pa.array(mask), if_true, if_false])


def differing(a: Column, b: Column) -> np.ndarray:
    """Whether values differ, (n,) bool. Nulls are equal among themselves, and so are NaNs."""
    if a.type != b.type:
        try:
            a = a.cast(b.type)
        except pa.ArrowException:  # such as a text that has become a number
            return _differing_texts(a, b)
    if t.is_nested(b.type) or isinstance(b.type, pa.BaseExtensionType):
        return np.zeros(len(b), bool) if a.equals(b) else _differing_texts(a, b)
    differs = true(pc.call_function("not_equal", [a, b])) | (valid(a) != valid(b))
    if t.is_floating(b.type):
        differs &= ~(_is_nan(a) & _is_nan(b))
    return differs


def _is_nan(column: Column) -> np.ndarray:
    return true(pc.call_function("is_nan", [column]))


def _differing_texts(a: Column, b: Column) -> np.ndarray:
    """Of values that Arrow does not compare, as Python writes them."""
    parts = [np.zeros(0, bool)]
    for start in range(0, len(b), AT_ONCE):
        pairs = zip(a.slice(start, AT_ONCE).to_pylist(), b.slice(start, AT_ONCE).to_pylist(), strict=True)
        parts.append(np.array([repr(x) != repr(y) for x, y in pairs], bool))
    return np.concatenate(parts)


def _joined(column: Column) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
