"""All that workers and steps are told: plain values that travel to them, no credentials."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from cascade_batch.model.sampling import Sampling
from cascade_batch.model.stages import PerPool, Stage
from cascade_batch.model.texts import PUBLISHED, TextOptions
from cascade_batch.plan.pools import Pools
from cascade_batch.run.loads import SizeLoad
from cascade_batch.weights import Model
from cascade_batch.workers.batch_sizes import Probe
from cascade_batch.workers.context import RunRef


@dataclass(frozen=True, kw_only=True)
class WorkerSetup:
    """All that makes the workers of both pools."""

    model: Model
    """Located, with the parts that Stage C needs besides those of every run."""
    sampling: Sampling
    pools: Pools
    embeddings_schema: pa.Schema
    attempts: int
    ref: RunRef | None
    """The run that they work for, if any: it fixes their batch sizes."""
    weights: Mapping[str, str] | None = None
    """sha256 of each part, as in `weights.json`; None: whatever is there is right."""
    text: TextOptions = PUBLISHED
    loads: PerPool[tuple[SizeLoad, ...]] = field(default_factory=lambda: PerPool((), ()))
    """What each pool renders of which picture sizes."""

    def probe(self, stage: Stage) -> Probe:
        """How a worker of the stage's pool settles its batch sizes."""
        return Probe(self.ref, stage.key, self.loads[stage])


@dataclass(frozen=True, kw_only=True)
class Setup(WorkerSetup):
    """All that the steps of a sitting need to know."""

    ref: RunRef
