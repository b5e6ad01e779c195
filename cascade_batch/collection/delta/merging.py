"""A change of some rows of a table: files that hold none of them stay, the others are written anew in their order."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cascade_batch.collection.delta.data_files import DataFile, DataFileWriter, read_batches
from cascade_batch.storage import Storage


def merged(
    storage: Storage, folder: str, files: Iterable[DataFile], upserts: "Upserts"
) -> tuple[list[DataFile], list[DataFile]]:
    """The files that were written in `folder`, and those of `files` whose rows went into them or are no more."""
    writer = DataFileWriter(storage, folder, upserts.schema)
    gone = [file for file in files if _rewrite(storage, folder, file, upserts, writer)]
    writer.write(upserts.unmet)
    return writer.close(), gone


def _rewrite(
    storage: Storage, folder: str, file: DataFile, upserts: "Upserts", writer: DataFileWriter
) -> bool:
    """Write what is left of a file to `writer`; False if nothing in it changes."""
    found = list(read_batches(storage, folder, file, pa.schema([upserts.schema.field(upserts.on)])))
    if not found:
        return False
    places = upserts.places(pa.concat_tables(found)[upserts.on])
    if (places < 0).all():
        return False
    start = 0
    for rows in read_batches(storage, folder, file, upserts.schema):
        writer.write(upserts.applied(rows, places[start : start + len(rows)]))
        start += len(rows)
    return True


class Upserts:
    """Rows that replace those of the same name or are new, and names whose rows go."""

    def __init__(self, changed: pa.Table, withdrawn: pa.Array | pa.ChunkedArray, on: str) -> None:
        """Raises ValueError if two of the changed rows bear one name."""
        self.schema, self.on = changed.schema, on
        self._rows = changed.combine_chunks()
        names = pa.concat_arrays(changed[on].chunks) if changed.num_rows else pa.array([], changed[on].type)
        if len(names.unique()) != len(names):
            raise ValueError(f"two changed rows of one {on}")
        gone = pa.chunked_array(withdrawn if isinstance(withdrawn, pa.ChunkedArray) else [withdrawn])
        gone = gone.combine_chunks().cast(names.type)
        is_both = pc.call_function("is_in", [gone], pc.SetLookupOptions(names))
        self._names = pa.concat_arrays([names, gone.filter(pc.call_function("invert", [is_both]))])
        self._found = np.zeros(len(names), bool)

    def places(self, names: pa.ChunkedArray) -> np.ndarray:
        """Of each name: which changed row replaces its row, -1 if it stays, at least their number if it goes."""
        found = pc.call_function("index_in", [names], pc.SetLookupOptions(self._names))
        return pc.fill_null(found, -1).to_numpy()

    def applied(self, rows: pa.Table, places: np.ndarray) -> pa.Table:
        """The rows that are left, in their order, the changed ones as they are now."""
        kept = np.flatnonzero(places < len(self._found))
        new = places[kept]
        is_new = new >= 0
        self._found[new[is_new]] = True
        order = kept.copy()
        order[is_new] = rows.num_rows + np.arange(is_new.sum())
        return pa.concat_tables([rows, self._rows.take(pa.array(new[is_new]))]).take(pa.array(order))

    @property
    def unmet(self) -> pa.Table:
        """The changed rows that replaced none so far: new ones."""
        return self._rows.take(pa.array(np.flatnonzero(~self._found)))
