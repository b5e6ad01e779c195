"""Arrow arrays without encodings: the same values, in the layout that `types.plain` names.

Arrow's own casts undo most encodings, but not all and not inside every nested type (pyarrow 26), and views are made
into lists that cannot be read.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as t

from cascade_batch.prompts.types import is_shared, plain


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of the type `plain(column.type)`."""
    kind = plain(column.type)
    if kind == column.type:
        return column
    return pa.chunked_array([_decoded(chunk) for chunk in column.chunks], kind)


def _decoded(array: pa.Array) -> pa.Array:
    kind = array.type
    wanted = plain(kind)
    if kind == wanted:
        return array
    if isinstance(array, pa.ExtensionArray):
        storage = _decoded(array.storage)
        return pa.ExtensionArray.from_storage(wanted, storage) if is_shared(kind) else storage
    if t.is_dictionary(kind):
        return _decoded(array.dictionary_decode())
    if t.is_run_end_encoded(kind):
        return _decoded(pc.call_function("run_end_decode", [array]))
    if t.is_struct(kind):
        children = [_decoded(array.field(i)) for i in range(kind.num_fields)]
        return pa.StructArray.from_arrays(children, fields=list(wanted), mask=array.is_null())
    if t.is_map(kind):
        return _decoded_map(array, wanted)
    if t.is_fixed_size_list(kind):
        size = kind.list_size
        values = array.values.slice(array.offset * size, len(array) * size)
        return pa.FixedSizeListArray.from_arrays(_decoded(values), type=wanted, mask=array.is_null())
    if t.is_nested(kind):
        return _decoded_list(array, wanted)
    return array.cast(wanted)


def _decoded_list(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """A list or list-view of any width, as a list: what `flatten` gives, and where each one ends in it."""
    lengths = pc.fill_null(pc.call_function("list_value_length", [array]), 0).to_numpy()
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    make, width = (pa.LargeListArray, pa.int64()) if t.is_large_list(wanted) else (pa.ListArray, pa.int32())
    values = _decoded(array.flatten())
    return make.from_arrays(pa.array(ends).cast(width), values, type=wanted, mask=array.is_null())


def _decoded_map(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    offsets = array.offsets.to_numpy()
    entries = slice(int(offsets[0]), int(offsets[-1]))
    keys, items = (_decoded(part[entries]) for part in (array.keys, array.items))
    ends = pa.array(offsets - offsets[0])
    return pa.MapArray.from_arrays(ends, keys, items, type=wanted, mask=array.is_null())
