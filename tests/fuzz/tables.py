"""Prompt tables of random types and values, whole and damaged, opened, planned and read as a run does.

    python -m tests.fuzz.tables INPUTS SECONDS SEED FOLDER

As many inputs as are asked for, fewer if the seconds are over. Run as a process of its own, so that one that Arrow ends
is seen; the input in hand then lies in FOLDER. Prints one line of counts. Ends with 1 for an error that is not ours, or
for values that are not those written.
"""

import random
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cascade_batch.errors import CascadeError
from cascade_batch.plan.planning import make_plan
from cascade_batch.prompts import (
    PromptTable,
    check_carried,
    first_prompts,
    image_requests,
    open_table,
    read_rows,
    rows_sha256,
)
from cascade_batch.run.schemas import MANIFEST_COLUMNS
from cascade_batch.run.shards import Shard
from cascade_batch.settings import PromptsSpec, RenderSpec, Spec
from tests.fuzz.arrow_values import random_table

DAMAGES_PER_TABLE = 12
MANY_ROWS = 10_000
"""A damaged footer may claim more rows than anyone wants to plan in a test."""


@dataclass
class Counts:
    inputs: int = 0
    refused: int = 0
    read: int = 0
    wrong: int = 0
    foreign: int = 0


def main(inputs: int, seconds: float, seed: int, folder: Path) -> int:
    draw, counts, deadline = random.Random(seed), Counts(), time.monotonic() + seconds
    while counts.inputs < inputs and time.monotonic() < deadline:
        path = folder / "whole.parquet"
        table = written(draw, path)
        if table is None:
            continue
        whole = path.read_bytes()
        if not tried(counts, path, table):
            continue
        for _ in range(DAMAGES_PER_TABLE):
            damaged_path = folder / "damaged.parquet"
            damaged_path.write_bytes(damaged(draw, whole))
            tried(counts, damaged_path, None)
    print(
        f"{counts.inputs} inputs ({counts.refused} refused, {counts.read} read), {counts.foreign} crashes, "
        f"{counts.wrong} silent wrong values"
    )
    return 1 if counts.foreign or counts.wrong else 0


def tried(counts: Counts, path: Path, table: pa.Table | None) -> bool:
    """Whether one input could be planned and read; `table` is what must come back, None for anything or an error."""
    counts.inputs += 1
    try:
        opened, rows = through(path)
        counts.read += 1
        if table is not None and (difference := differing(opened, rows, table)):
            counts.wrong += 1
            print(f"wrong {difference}: {table.schema}", file=sys.stderr)
        return True
    except CascadeError:
        counts.refused += 1
    except Exception:  # noqa: BLE001
        counts.foreign += 1
        print(f"input {counts.inputs}, {table.schema if table else ''}", file=sys.stderr)
        traceback.print_exc()
    return False


def through(path: Path) -> tuple[PromptTable, pa.Table]:
    """What `plan` and the reading step do."""
    spec = Spec(prompts=PromptsSpec(uri=str(path), limit=MANY_ROWS))
    table = open_table(spec.prompts, reserved=MANIFEST_COLUMNS)
    check_carried(table)
    plan = make_plan(table, spec)
    first_prompts(table, 5, 1)
    pieces = []
    for shard in (Shard(**row) for row in plan.shards.to_pylist()):
        rows = read_rows(table, 0, shard.first_row, shard.rows)
        rows_sha256(rows)
        if shard.images <= MANY_ROWS:
            image_requests(rows, shard, RenderSpec(), run_seed=0)
        if shard.first_image == 0:
            pieces.append(rows)
    return table, pa.concat_tables(pieces) if pieces else pa.table({})


def differing(opened: PromptTable, rows: pa.Table, table: pa.Table) -> str | None:
    """The first column that is not as it was written."""
    if rows.num_rows != table.num_rows:
        return f"{rows.num_rows} rows of {table.num_rows}"
    for name in table.column_names if table.num_rows else ():
        read = rows["prompt_id" if name == "id" else name]
        # as Python values where that says the same: NaN is no NaN to `equals`, and not every type is cast
        if repr(read.to_pylist()) != repr(table[name].to_pylist()) and not read.equals(
            table[name].cast(read.type)
        ):
            return name
    return None


def written(draw: random.Random, path: Path) -> pa.Table | None:
    """A table written in some layout; None for a type that Arrow does not make or write."""
    try:
        table = random_table(draw)
        pq.write_table(
            table,
            path,
            row_group_size=draw.choice([1, 3, 7, 1000]),
            compression=draw.choice(["none", "snappy", "gzip", "brotli", "lz4", "zstd"]),
            use_dictionary=draw.random() < 0.5,
            write_statistics=draw.random() < 0.8,
            write_page_checksum=draw.random() < 0.5,
            write_page_index=draw.random() < 0.3,
            store_schema=draw.random() < 0.8,
            data_page_version=draw.choice(["1.0", "2.0"]),
            data_page_size=draw.choice([16, 1024, 2**20]),
            version=draw.choice(["1.0", "2.4", "2.6"]),
        )
    except (pa.ArrowException, ValueError):
        return None
    return table


def damaged(draw: random.Random, whole: bytes) -> bytes:
    """Bits flipped, bytes cut, doubled or written over: in the footer, in its length, or anywhere."""
    data, footer = bytearray(whole), int.from_bytes(whole[-8:-4], "little") + 8
    where = draw.choice(["footer", "footer", "length", "pages", "pages", "pages", "anywhere"])
    low, high = {
        "footer": (len(data) - footer, len(data) - 8),
        "length": (len(data) - 8, len(data)),
        "pages": (0, len(data) - footer),
        "anywhere": (0, len(data)),
    }[where]
    if high <= low:
        low, high = 0, len(data)
    what = draw.choice(["flip", "flip", "flip", "write", "cut", "double", "swap"])
    at = draw.randrange(low, high)
    if what == "flip":
        for _ in range(draw.choice([1, 1, 2, 5])):
            data[draw.randrange(low, high)] ^= 1 << draw.randrange(8)
    elif what == "write":
        data[at : at + 8] = draw.choice([b"\xff" * 8, b"\0" * 8, draw.randbytes(8)])
    elif what == "cut":
        del data[at : at + draw.choice([1, 4, 100])]
    elif what == "double":
        data[at:at] = data[at : at + draw.choice([1, 8, 64])]
    else:
        other = draw.randrange(low, high)
        data[at : at + 4], data[other : other + 4] = data[other : other + 4], data[at : at + 4]
    return bytes(data)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])))
