"""What the pipeline asks of a runner, and what it tells one."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from cascade_batch.model.sampling import Sampling
from cascade_batch.model.stages import PerPool, Stage
from cascade_batch.model.texts import PUBLISHED, TextOptions
from cascade_batch.plan.pools import Pools
from cascade_batch.run.loads import SizeLoad
from cascade_batch.settings import DtypeSpec, ModelSpec, PoolsSpec
from cascade_batch.workers.batch_sizes import Probe
from cascade_batch.workers.context import RunRef
from cascade_batch.workers.shards import ShardData, Ticket


@dataclass(frozen=True, kw_only=True)
class WorkerSetup:
    """All that makes the workers of both pools; plain values, no credentials."""

    model: ModelSpec
    sampling: Sampling
    pools: Pools
    embeddings_schema: pa.Schema
    attempts: int
    ref: RunRef | None
    """The run that they work for, if any: it fixes their batch sizes."""
    weights: Mapping[str, str] | None = None
    """sha256 of each part, as in `weights.json`; None: whatever is there is right."""
    extra_parts: tuple[str, ...] = ()
    """Parts that Stage C needs besides those of every run."""
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


class Runner(Protocol):
    """Carries shards through the steps; knows nothing of plans, resume or limits."""

    def size_pools(self, pools: PoolsSpec, dtype: DtypeSpec, share_c: float) -> Pools:
        """Pools that fit; SpecError names what does not. `share_c` is Stage C's share of the cost."""
        ...

    def probe_create_only(self, uri: str) -> bool:
        """Whether the store, as the workers see it, honours create-only writes."""
        ...

    def weight_digests(self, model: ModelSpec, extra_parts: Sequence[str] = ()) -> dict[str, str]:
        """sha256 of each part, and of the optional ones named, read where the workers are."""
        ...

    def run(self, tickets: Iterable[Ticket], setup: Setup) -> Generator[ShardData]:
        """The shards in the order they end, each with its counts and seconds, without tables."""
        ...

    def close(self) -> None: ...
