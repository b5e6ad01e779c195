"""A process at work on a collection: `python -m tests.collection.owner URI PERIOD_S WHAT...`, in the order given.

`hold` takes the lease; `wait FILE` waits until that local file exists; `check` asks the lease; `append ID` commits a
row at the version that was read first. Each step that is done is told on its standard output.
"""

import sys
import time
from pathlib import Path

import pyarrow as pa

from cascade_batch.collection.lease import holding
from cascade_batch.collection.place import open_collection
from cascade_batch.collection.schemas import KNOWN
from cascade_batch.errors import CascadeError
from tests.patience import wait_until


def row(name: str) -> pa.Table:
    """One row of `known`, told by its key."""
    nulls = {field.name: pa.nulls(1, field.type) for field in KNOWN}
    return pa.table({**nulls, "stage_ba_key": pa.array([name])}, schema=KNOWN)


def told(line: str) -> None:
    print(line, flush=True)


def work(uri: str, period_s: float, steps: list[str]) -> None:
    collection = open_collection(uri)
    with holding(collection.storage, "regenerate", tables=(collection.known,), period_s=period_s) as lease:
        version = collection.known.version()
        told("held")
        for step, value in zip(steps[::2], steps[1::2], strict=True):
            if step == "wait":
                wait_until(Path(value).exists)
            elif step == "check":
                lease.check()
            elif step == "append":
                version = collection.known.append(row(value), after=version, metadata={}, token=value)
            elif step == "sleep":
                time.sleep(float(value))
            told(step)


if __name__ == "__main__":
    try:
        work(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
    except CascadeError as error:
        told(f"{type(error).__name__}: {error.what}")
        sys.exit(1)
