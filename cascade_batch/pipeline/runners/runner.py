"""What the pipeline asks of a runner, and what it tells one."""

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from cascade_batch.model.sampling import Sampling
from cascade_batch.model.texts import PUBLISHED, TextOptions
from cascade_batch.plan.pools import Pools
from cascade_batch.run.loads import SizeLoad
from cascade_batch.settings import DtypeSpec, PoolsSpec
from cascade_batch.weights import Model
from cascade_batch.workers.batch_sizes import Probe
from cascade_batch.workers.context import RunRef
from cascade_batch.workers.shards import ShardData, Ticket


@dataclass(frozen=True)
class Setup:
    """All that the workers of a sitting need to know; plain values, no credentials."""

    ref: RunRef
    model: Model
    """Located, with the parts that Stage C needs besides those of every run."""
    sampling: Sampling
    weights: Mapping[str, str]
    """sha256 of each part, as in `weights.json`."""
    pools: Pools
    embeddings_schema: pa.Schema
    attempts: int
    text: TextOptions = PUBLISHED
    loads: Mapping[str, tuple[SizeLoad, ...]] = field(default_factory=dict)
    """What each pool renders of which picture sizes, by "c" and "ba"."""

    def probe(self, pool: str) -> Probe:
        """How a worker of the pool, "c" or "ba", settles its batch sizes."""
        return Probe(self.ref, pool, self.loads.get(pool, ()))


class Runner(Protocol):
    """Carries shards through the steps; knows nothing of plans, resume or limits."""

    def size_pools(self, pools: PoolsSpec, dtype: DtypeSpec, share_c: float) -> Pools:
        """Pools that fit; SpecError names what does not. `share_c` is Stage C's share of the cost."""
        ...

    def probe_create_only(self, uri: str) -> bool:
        """Whether the store, as the workers see it, honours create-only writes."""
        ...

    def weight_digests(self, model: Model, known: Mapping[str, str] | None = None) -> dict[str, str]:
        """sha256 of each part, read where the workers are, and checked unless the run has them as `known`."""
        ...

    def run(self, tickets: Iterable[Ticket], setup: Setup) -> Generator[ShardData]:
        """The shards in the order they end, each with its counts and seconds, without tables."""
        ...

    def close(self) -> None: ...
