"""What the pipeline asks of a runner."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from cascade_batch.plan.pools import Pool, Pools
from cascade_batch.settings import DtypeSpec, PoolsSpec
from cascade_batch.weights import Model
from cascade_batch.workers.setup import Setup
from cascade_batch.workers.shards import ShardData, Ticket


class Tables(Protocol):
    """Work on tables beyond what one process holds."""

    def mapped(self, make: Callable[[Any], pa.Table], items: Sequence[Any]) -> Iterator[pa.Table]:
        """The tables made of the items, in the items' order."""
        ...

    def are_among(
        self, values: pa.ChunkedArray, read: Callable[[Any], pa.Array], items: Sequence[Any]
    ) -> np.ndarray:
        """Whether any item's column has each value, (n,) bool; never for null."""
        ...


class Runner(Protocol):
    """Carries shards through the steps; knows nothing of plans, resume or limits."""

    def size_pools(self, pools: PoolsSpec, dtype: DtypeSpec, share_c: float) -> Pools:
        """Pools that fit; SpecError names what does not. `share_c` is Stage C's share of the cost; 0: no pool C."""
        ...

    def probe_create_only(self, uri: str) -> bool:
        """Whether the store, as the workers see it, honours create-only writes."""
        ...

    def device_kind(self, pool: Pool) -> str:
        """What a pool's workers call their device in manifests, asked where they are."""
        ...

    def weight_digests(self, model: Model, known: Mapping[str, str] | None = None) -> dict[str, str]:
        """sha256 of each part, read where the workers are, and checked unless the run has them as `known`."""
        ...

    def run(self, tickets: Iterable[Ticket], setup: Setup) -> Generator[ShardData]:
        """The shards in the order they end, each with its counts and seconds, without tables."""
        ...

    def tables(self) -> Tables | None:
        """Many machines for large tables; None if there are none but this one."""
        ...

    def close(self) -> None: ...
