"""How Arrow types of one column are brought together over many files.

Only changes that keep every value are made: dictionary and view encodings are undone (`encodings`), an all-null
column takes any type, and numbers widen within their kind. Text never becomes a number, nor the reverse.
"""

import pyarrow as pa
import pyarrow.types as t

_SHARED = (pa.FixedShapeTensorType, pa.UuidType, pa.JsonType, pa.OpaqueType, pa.Bool8Type)
_SIGNED = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}


def is_shared(kind: pa.DataType) -> bool:
    """Whether an extension type is Arrow's own, which every process knows; others only who registered them."""
    return isinstance(kind, _SHARED)


def plain(kind: pa.DataType) -> pa.DataType:
    """The type without encodings: dictionaries become their values, views the ordinary layout.

    Extension types that are not Arrow's own become what they are stored as.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_extension(kind)
    if t.is_dictionary(kind) or t.is_run_end_encoded(kind):
        return plain(kind.value_type)
    if t.is_string_view(kind):
        return pa.string()
    if t.is_binary_view(kind):
        return pa.binary()
    if t.is_fixed_size_list(kind):
        return pa.list_(plain(kind.value_type), kind.list_size)
    if t.is_list(kind) or t.is_list_view(kind):
        return pa.list_(plain(kind.value_type))
    if t.is_large_list(kind) or t.is_large_list_view(kind):
        return pa.large_list(plain(kind.value_type))
    if t.is_struct(kind):
        return pa.struct([(field.name, plain(field.type)) for field in kind])
    if t.is_map(kind):
        return pa.map_(plain(kind.key_type), plain(kind.item_type), kind.keys_sorted)
    return kind


def _plain_extension(kind: pa.BaseExtensionType) -> pa.DataType:
    storage = plain(kind.storage_type)
    if not is_shared(kind):
        return storage
    if storage == kind.storage_type:
        return kind
    if isinstance(kind, pa.JsonType):
        return pa.json_(storage)
    return pa.opaque(storage, kind.type_name, kind.vendor_name)


def unified(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The narrowest type that holds every value of two plain types, None if there is none."""
    if a == b or t.is_null(b):
        return a
    if t.is_null(a):
        return b
    if t.is_integer(a) and t.is_integer(b):
        return _wider_integer(a, b)
    if t.is_floating(a) and t.is_floating(b):
        return a if a.bit_width > b.bit_width else b
    for is_small, is_large, large in (
        (t.is_string, t.is_large_string, pa.large_string()),
        (t.is_binary, t.is_large_binary, pa.large_binary()),
    ):
        if all(is_small(kind) or is_large(kind) for kind in (a, b)):
            return large
    return _nested(a, b)


def _wider_integer(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if t.is_signed_integer(a) == t.is_signed_integer(b):
        return a if a.bit_width > b.bit_width else b
    signed, unsigned = (a, b) if t.is_signed_integer(a) else (b, a)
    return _SIGNED.get(max(signed.bit_width, 2 * unsigned.bit_width))


def _nested(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if t.is_struct(a) and t.is_struct(b) and a.names == b.names:
        fields = [(name, unified(a.field(name).type, b.field(name).type)) for name in a.names]
        return None if any(kind is None for _, kind in fields) else pa.struct(fields)
    if all(t.is_list(kind) or t.is_large_list(kind) for kind in (a, b)):
        value = unified(a.value_type, b.value_type)
        make = pa.list_ if t.is_list(a) and t.is_list(b) else pa.large_list
        return None if value is None else make(value)
    return None
