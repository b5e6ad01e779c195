"""A collection that knows every image of a table, though none was rendered."""

import uuid
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from cascade_batch.cli.showing import PlainObserver
from cascade_batch.collection.place import Collection, create_or_open
from cascade_batch.collection.regenerating import asking
from cascade_batch.collection.regenerating.assessing import Options
from cascade_batch.collection.regenerating.in_process import InProcess
from cascade_batch.collection.regenerating.keying import key_table, row_ranges
from cascade_batch.collection.regenerating.learning import ROWS_PER_COMMIT
from cascade_batch.collection.regenerating.regenerate import Result, regenerate
from cascade_batch.collection.regenerating.spool import Spool
from cascade_batch.collection.schemas import KNOWN
from cascade_batch.model.stages import PerPool
from cascade_batch.run import paths
from cascade_batch.settings import Spec
from cascade_batch.weights.local import digests
from cascade_batch.workers.committing import versions
from cascade_batch.workers.keying import Keying
from jobs.bench.null_stages import PNG_BYTES, NullRunner

RUN = "runs/000000-known"
SHARD = 64


def make_collection(spec: Spec, uri: str) -> Result:
    """A collection whose first edition is the spec's table, every image of it reused."""
    collection = create_or_open(uri)
    asked = asking.asked(spec, uri)
    dtypes = PerPool(*spec.model.dtype)
    with Spool() as spool:
        keying = Keying.of(asked.spec, asked.table, asked.model, digests(asked.model), dtypes)
        key_table(keying, row_ranges(asked.table, None), spool, InProcess())
        _know(collection, spool)
    collection.storage.create(f"{RUN}/{paths.RUN}", b"{}")
    return regenerate(spec, uri, NullRunner, PlainObserver(), Options())


def _know(collection: Collection, spool: Spool) -> None:
    names = ["image_id", "stage_c_key", "stage_ba_key"]
    keyed = spool.columns(names)
    for start in range(0, spool.rows, ROWS_PER_COMMIT):
        rows = pa.concat_tables(_known_rows(keyed.slice(start, ROWS_PER_COMMIT), start))
        version = collection.known.version()
        collection.known.append(rows, after=version, metadata={}, token=uuid.uuid4().hex)


def _known_rows(keyed: pa.Table, first: int) -> Iterator[pa.Table]:
    rng = np.random.default_rng(first)
    for start in range(0, keyed.num_rows, SHARD * 512):
        some = keyed.slice(start, SHARD * 512)
        numbers = first + start + np.arange(some.num_rows)
        names = [paths.shard_name(shard) for shard in (numbers // SHARD).tolist()]
        images = zip(names, some["image_id"].to_pylist(), strict=True)
        columns = {
            "stage_c_key": some["stage_c_key"],
            "stage_ba_key": some["stage_ba_key"],
            "image_uri": [f"{RUN}/images/{name}/{image}.png" for name, image in images],
            "image_bytes": rng.integers(PNG_BYTES // 2, PNG_BYTES * 3 // 2, some.num_rows),
            **{
                name: _hex(rng, some.num_rows)
                for name in ("image_sha256", "pixel_sha256", "embedding_sha256")
            },
            "embedding_uri": [f"{RUN}/embeddings/{name}.parquet" for name in names],
            "embedding_row": numbers % SHARD,
            **_same(some.num_rows),
        }
        yield pa.table(
            {
                f.name: pa.array(columns[f.name]).cast(f.type)
                if not isinstance(columns[f.name], pa.ChunkedArray)
                else columns[f.name].cast(f.type)
                for f in KNOWN
            },
            schema=KNOWN,
        )


def _same(rows: int) -> dict[str, list]:
    same = {"run": RUN, "versions": versions(), "encoder": "none", "rendered_in": None}
    for stage in ("c", "ba"):
        same |= {f"stage_{stage}_device": "cpu", f"stage_{stage}_batch": 4, f"stage_{stage}_threads": 1}
    return {name: [value] * rows for name, value in same.items()}


def _hex(rng: np.random.Generator, rows: int) -> pa.Array:
    digits = pa.py_buffer(rng.bytes(32 * rows).hex().encode())
    return pa.Array.from_buffers(pa.binary(64), rows, [None, digits]).cast(pa.binary()).cast(pa.string())
