"""What a CPU step knows about its run, read from `run.json` once per process."""

from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version

from cascade_batch import __version__
from cascade_batch.engine.pictures import MOST_PIXELS
from cascade_batch.errors import IntegrityError
from cascade_batch.model.sampling import Sampling
from cascade_batch.model.texts import TextOptions
from cascade_batch.prompts import PromptTable
from cascade_batch.run import paths
from cascade_batch.run.records import read_json
from cascade_batch.settings import Spec, sampling_of, spec_from_dict, text_options_of
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


@dataclass(frozen=True)
class RunContext:
    storage: Storage
    spec: Spec
    sampling: Sampling
    text: TextOptions
    table: PromptTable
    weights: dict[str, str]
    versions: str


@lru_cache(maxsize=4)
def open_run(ref: RunRef) -> RunContext:
    """The context of a run; IntegrityError if it has no `run.json` or `weights.json` yet."""
    storage = Storage(ref.uri)
    storage.create_only = ref.create_only
    for uri in (ref.uri, ref.table_root):
        reached(uri)  # by the driver
    record, weights = read_json(storage, paths.RUN), read_json(storage, paths.WEIGHTS)
    if record is None or weights is None:
        raise IntegrityError("not a run", where=ref.uri, expected=f"{paths.RUN} and {paths.WEIGHTS}")
    spec = spec_from_dict(record["spec"])
    table = PromptTable.from_json(record["table"], root=ref.table_root, query=ref.table_query)
    return RunContext(
        storage=storage,
        spec=spec,
        sampling=sampling_of(spec.sampler),
        text=text_options_of(spec.text),
        table=table,
        weights=weights,
        versions=_versions(),
    )


def _versions() -> str:
    return f"cascade-batch {__version__} torch {version('torch')} transformers {version('transformers')}"
