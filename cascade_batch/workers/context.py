"""What a CPU step knows about its run, read from `run.json` once per process."""

from dataclasses import dataclass, field
from functools import lru_cache

from cascade_batch.engine.pictures import MOST_PIXELS
from cascade_batch.errors import IntegrityError
from cascade_batch.run import paths
from cascade_batch.run.run import Run, read_run_record
from cascade_batch.storage import Storage
from cascade_batch.storage.failures import reached


@dataclass(frozen=True)
class RunRef:
    """How a step finds its run: no data, a few hundred bytes, and no credentials but a signed query; never stored."""

    uri: str
    create_only: bool
    numerics_text: str
    """JSON of what `numerics/<device kind>.json` must say."""
    table_root: str = ""
    """Where the prompt table lies now, if it has moved since the run was planned."""
    table_query: str = field(default="", repr=False)
    """What requests for it need, where a web server has it; see `PromptTable.query`."""
    picture_pixels: int = MOST_PIXELS
    """The sitting's `limits.picture_pixels`."""
    picture_side: int | None = None
    """What the image encoder looks at, in pixels; None for a table without pictures for it."""


@lru_cache(maxsize=4)
def open_run(ref: RunRef) -> Run:
    """The run, as a step sees it; IntegrityError if it has no `run.json` or `weights.json` yet."""
    storage = Storage(ref.uri)
    storage.create_only = ref.create_only
    for uri in (ref.uri, ref.table_root):
        reached(uri)  # by the driver
    record = read_run_record(storage)
    if record is None:
        raise IntegrityError("not a run", where=ref.uri, expected=paths.RUN)
    run = Run(storage, record, record.table.at(ref.table_root, ref.table_query))
    _ = run.weights  # told here, not by a commit after the rendering
    return run
