"""How many actors, GPU shares and threads each pool gets, and whether they fit. Plain arithmetic.

Ray Data waits forever, without a word, for a pool that does not fit; so a run that cannot fit is
refused here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cascade_batch.errors import SpecError
from cascade_batch.model.dtypes import settled_dtype
from cascade_batch.model.stages import STAGES, PerPool
from cascade_batch.settings import DtypeSpec, PoolSpec, PoolsSpec

CPU_ACTOR_SHARE = 0.75
"""Of a CPU actor's part of the cores, what it reserves; the rest is left for reading, encoding and uploading."""
OVERLAP = 2
"""Threads of a CPU actor per core that is its part: whenever one pool is through or waits, the other has its cores
(`jobs/BENCHMARKS.md`)."""
LEAST_CORES = 0.5
"""The least that a CPU actor's part of the cores is taken for: with more actors than that, they do not fit."""
MAX_GPU_ACTOR_THREADS = 4
"""A GPU actor's CPU threads only tokenise and draw noise."""


@dataclass(frozen=True)
class WorkerSettings:
    """What an actor of a pool is told: the numerics it must hold to."""

    batch: int | str
    """A number, or how the worker finds one: auto, probe."""
    threads: int
    dtype: str
    """A torch dtype's name."""
    device: str = "auto"
    """auto, or cpu for an actor that was given no GPU on a machine that has some."""
    share: float = 1.0
    """Of the device's memory that is this actor's."""


@dataclass(frozen=True)
class Node:
    """What one machine offers."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Pool:
    actors: int
    gpus: float
    """Of one actor."""
    cpus: float
    """Of one actor."""
    settings: WorkerSettings
    max_actors: int | None = None
    """What the pool may grow to; None: it does not."""

    @property
    def most(self) -> int:
        return self.max_actors or self.actors


@dataclass(frozen=True)
class Pools(PerPool[Pool]):
    step_cpus: float
    """Of one reading or committing step."""

    @property
    def gpus(self) -> float:
        """Of all actors, growing pools at their least."""
        return sum(pool.actors * pool.gpus for pool in self)

    @property
    def cpus(self) -> float:
        """Of all actors, growing pools at their least; steps take theirs besides."""
        return sum(pool.actors * pool.cpus for pool in self)


def size_pools(spec: PoolsSpec, dtype: DtypeSpec, nodes: Sequence[Node], share_c: float) -> Pools:
    """Fill in what the spec leaves open, and check that everything, growing pools at their least, fits at once.

    Args:
        share_c: Stage C's share of what an image costs, in seconds or FLOPs, which splits the GPUs of a cluster; 0:
            nothing is left for pool C, which gets no actor.

    Raises:
        SpecError: the pools ask for more than the nodes have.
    """
    gpus, cpus = sum(n.gpus for n in nodes), sum(n.cpus for n in nodes)
    largest = max(n.cpus for n in nodes)
    share = spec.map(lambda pool: _gpu_share(pool, gpus, alone=not share_c))
    actors = _actors(spec, share, gpus, share_c)
    cores = min(largest, cpus / sum(spec[s].max_actors or actors[s] for s in STAGES if actors[s]))
    pools = PerPool.of(
        lambda stage: _pool(spec[stage], actors[stage], share[stage], cores, largest, dtype[stage])
    )
    sized = Pools(*pools, step_cpus=1.0 if gpus else 1.0 - CPU_ACTOR_SHARE)
    _check_fit(sized, nodes)
    return sized


def _gpu_share(pool: PoolSpec, gpus: float, alone: bool) -> float:
    if pool.gpus is not None:
        return pool.gpus
    return 0.0 if gpus == 0 else 0.5 if gpus == 1 and not alone else 1.0


def _actors(spec: PoolsSpec, share: PerPool[float], gpus: float, share_c: float) -> PerPool[int]:
    c, ba = spec.map(lambda pool: pool.actors or (1 if pool.max_actors else None))
    if not share_c:
        return PerPool(0, ba or _rest(gpus, share.ba, gpus))
    if c is None and ba is None and all(share) and gpus > 1:
        c = best_split(int(gpus / max(share)), share_c)
    if c is None:
        c = _rest(gpus - (spec.ba.max_actors or ba or 1) * share.ba, share.c, gpus)
    if ba is None:
        ba = _rest(gpus - (spec.c.max_actors or c) * share.c, share.ba, gpus)
    return PerPool(c, ba)


def _rest(left: float, share: float, gpus: float) -> int:
    """Actors of a pool left open that what the other one leaves, at its most, is enough for."""
    return max(1, int(left / share)) if share and gpus > 1 else 1


def best_split(actors: int, share_c: float) -> int:
    """How many of so many actors pool C should have: the slower pool is then as fast as it can be.

    Args:
        share_c: Stage C's share of an image's seconds.
    """
    return max(range(1, max(2, actors)), key=lambda c: min(c / share_c, (actors - c) / (1 - share_c)))


def _pool(spec: PoolSpec, actors: int, gpus: float, cores: float, largest: float, dtype: str) -> Pool:
    """`cores`: one actor's part of them; `largest`: of the largest node."""
    most = min(cores, MAX_GPU_ACTOR_THREADS) if gpus else min(largest, OVERLAP * cores)
    threads = spec.threads or max(1, int(most))
    cpus = 0.0 if gpus else CPU_ACTOR_SHARE * min(threads, max(LEAST_CORES, cores))
    dtype = settled_dtype(dtype, on_cpu=not gpus)
    device, share = ("auto", min(1.0, gpus)) if gpus else ("cpu", 1.0)
    settings = WorkerSettings(spec.batch, threads, dtype, device, share)
    return Pool(actors, gpus, cpus, settings, spec.max_actors if actors else None)


def _check_fit(pools: Pools, nodes: Sequence[Node]) -> None:
    need_gpus, need_cpus = pools.gpus, pools.cpus + pools.step_cpus
    have_gpus, have_cpus = sum(n.gpus for n in nodes), sum(n.cpus for n in nodes)
    if need_gpus > have_gpus + 1e-6:
        raise _too_much(pools, "GPUs", need_gpus, have_gpus)
    if need_cpus > have_cpus + 1e-6:
        raise _too_much(pools, "CPUs", need_cpus, have_cpus)
    free = [[n.gpus, n.cpus] for n in nodes]
    wanted = [(p.gpus, p.cpus) for p in pools for _ in range(p.actors)]
    for gpus, cpus in sorted(wanted, reverse=True):
        node = next((f for f in free if f[0] + 1e-6 >= gpus and f[1] + 1e-6 >= cpus), None)
        if node is None:
            raise _too_much(pools, "room on one node", f"{gpus:g} GPUs and {cpus:g} CPUs", free)
        node[0] -= gpus
        node[1] -= cpus


def _size(label: str, pool: Pool) -> str:
    return f"pool {label} {pool.actors} x ({pool.gpus:g} GPU, {pool.cpus:g} CPU)"


def _too_much(pools: Pools, what: str, need: object, have: object) -> SpecError:
    sizes = [_size(stage.label, pools[stage]) for stage in STAGES]
    return SpecError(
        f"the pools do not fit the cluster: not enough {what}",
        where=f"{', '.join(sizes)}, steps {pools.step_cpus:g} CPU",
        got=need,
        expected=f"at most {have}",
        next_step="lower pools.c.actors, pools.ba.actors, pools.*.gpus or pools.*.threads, or add nodes",
    )
