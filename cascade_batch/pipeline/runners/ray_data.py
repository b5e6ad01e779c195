"""Two actor pools under Ray Data.

    read shard -> pool C -> commit embeddings -> read them -> pool BA -> commit images and manifest

Embeddings that are stored elsewhere are copied first; where no shard needs pool C, there is none.

GPU actors do GPU work; reading, PNG encoding, hashing and uploading are CPU steps beside them. A
dead actor is restarted without limit, and what it was doing is counted by a ledger that outlives it.
"""

import gc
import json
import logging
import math
import os
import secrets
import signal
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cascade_batch.errors import CascadeError
from cascade_batch.pipeline.runners.actors import PoolBA, PoolC
from cascade_batch.pipeline.runners.ray_errors import in_our_words
from cascade_batch.pipeline.runners.ray_tables import RayTables
from cascade_batch.pipeline.runners.shard_rows import from_row, to_row
from cascade_batch.plan.pools import Node, Pool, Pools, size_pools
from cascade_batch.run import paths
from cascade_batch.settings import DtypeSpec, PoolsSpec
from cascade_batch.storage import Storage
from cascade_batch.weights import Model
from cascade_batch.workers.committing import commit_embeddings, commit_images
from cascade_batch.workers.context import RunRef
from cascade_batch.workers.copying import copy_embeddings
from cascade_batch.workers.fit import device_kind_of, weight_digests
from cascade_batch.workers.ledger import Attempt, AttemptLedger
from cascade_batch.workers.reading import read_committed, read_shard
from cascade_batch.workers.setup import Setup
from cascade_batch.workers.shards import ShardData, Ticket, guarded

PATIENCE_S, ROOM_S = 30, 1800
"""Our own actors of the execution before leave within the first. After that others have the GPUs; waiting longer than
the second for them is an error."""
LEAVING_S = 20
"""Our actors are killed when an execution ends, however it does; so long is waited until the cluster has seen it."""
SHARDS_PER_EXECUTION = 1024
"""Ray Data keeps books of every block on the driver until an execution ends, about 13 KB a shard. This bounds
them, to 6.4 KB a shard over a run of 3,000 (`jobs/bench/driver.py`), at the price of loading the models again
every 65,000 images or so."""
GROW_AT = 1.0
"""Shards per slot of its actors at which a pool that may grow gets another actor; Ray's own 1.75 is never reached by
actors that are handed no more shards than they have slots for."""
STEPS = 3
"""Kinds of steps that run beside the pools, neighbours counted as one."""
IN_HAND: dict[str, Any] = {
    "max_tasks_in_flight_per_actor": 2,
    "max_concurrent_calls_per_actor": 2,
    "enable_true_multi_threading": True,
}
"""An actor has two shards: it renders one, and hands the one before on or has the next one ready."""
NO_PROGRESS_S = 4 * 3600
"""Ray Data gives up on a silent graph; one big shard on a slow card may take more than its 30 minutes."""

log = logging.getLogger(__name__)


class RayLedger:
    """The attempt ledger, seen from a worker: an actor on the driver's node."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def take(self, stage: str, shard: int) -> Attempt:
        return ray.get(self._handle.take.remote(stage, shard))

    def begin(self, stage: str, shard: int) -> None:
        self._handle.begin.remote(stage, shard)  # not waited for: the device would stand still meanwhile

    def announce(self, stage: str, shard: int, prompt: int) -> None:
        ray.get(self._handle.announce.remote(stage, shard, prompt))

    def finish(self, stage: str, shard: int) -> None:
        self._handle.finish.remote(stage, shard)  # not waited for: one caller's calls arrive in order


class ActorNames:
    """What the actors of one sitting are called in the cluster, by which every one of them can be found and ended.

    Ray Data lets go of its actors instead of ending them: one that renders, or still loads, stays for as long as that
    takes, and for ever where anything, such as a traceback that somebody keeps, holds on to it.
    """

    def __init__(self) -> None:
        self._sitting = f"cascade-batch-{secrets.token_hex(6)}"

    def next(self, kind: str) -> str:
        return f"{self._sitting}-{kind}-{secrets.token_hex(4)}"  # no counting: Ray Data may copy this object

    @contextmanager
    def ended(self, kind: str = "") -> Iterator[None]:
        """Leave no actor of this kind, or of any, alive, however what is inside ends."""
        try:
            yield
        finally:
            gc.collect()  # an executor in a circle of references would start new actors for those that are killed
            deadline = time.monotonic() + LEAVING_S
            while (alive := self._alive(kind)) and time.monotonic() < deadline:
                for name in alive:
                    with suppress(ValueError, RayError):  # gone meanwhile
                        ray.kill(ray.get_actor(name))
                time.sleep(0.1)
            if alive:
                log.warning("%d actors of this run did not end: %s", len(alive), ", ".join(alive[:5]))

    def _alive(self, kind: str) -> list[str]:
        if not ray.is_initialized():
            return []
        return [name for name in ray.util.list_named_actors() if name.startswith(f"{self._sitting}-{kind}")]


def _step(row: pa.Table, step: Callable[..., ShardData], ref: RunRef) -> pa.Table:
    return to_row(guarded(partial(step, ref=ref), from_row(row)))


class RayRunner:
    """Connects to RAY_ADDRESS if it is set, else starts Ray on this machine."""

    def __init__(self, verbose: bool = False) -> None:
        """`verbose` shows the workers' own output on the driver as well."""
        self._owns_cluster = not ray.is_initialized() and not os.environ.get("RAY_ADDRESS")
        if not ray.is_initialized():
            self._connect(verbose)

    def _connect(self, verbose: bool) -> None:
        options: dict[str, Any] = {"logging_level": "error", "log_to_driver": verbose}
        if self._owns_cluster:
            cpus = max(2, os.cpu_count() or 1)
            options |= {"address": "local", "include_dashboard": False, "num_cpus": cpus}
        on_sigterm = signal.getsignal(signal.SIGTERM)
        ray.init(**options)
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler would end the process on the spot

    def size_pools(self, pools: PoolsSpec, dtype: DtypeSpec, share_c: float) -> Pools:
        return size_pools(pools, dtype, _nodes(), share_c)

    def probe_create_only(self, uri: str) -> bool:
        """Asked from every node, because that is where the writers are."""
        return all(self._on_every_node(_probe, uri))

    def device_kind(self, pool: Pool) -> str:
        return self._on_a_worker(device_kind_of, pool.settings.device, num_gpus=pool.gpus)

    def weight_digests(self, model: Model, known: Mapping[str, str] | None = None) -> dict[str, str]:
        """Read on a node of the workers: one with GPUs, where there are any; no GPU is taken for it."""
        return self._on_a_worker(weight_digests, model, known)

    def _on_a_worker(self, function: Callable, *args: Any, num_gpus: float = 0.0) -> Any:
        alive = [n for n in ray.nodes() if n["Alive"]]
        node = max(alive, key=lambda n: n["Resources"].get("GPU", 0))
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        options = {"num_cpus": 0, "num_gpus": num_gpus, "scheduling_strategy": strategy}
        remote: Any = ray.remote(function).options(**options)
        return _unwrapped(lambda: ray.get(remote.remote(*args)))

    def run(self, tickets: Iterable[Ticket], setup: Setup) -> Generator[ShardData]:
        """Shards in the order they end, one execution after another (`SHARDS_PER_EXECUTION`)."""
        _configure(DataContext.get_current())
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        names, left = ActorNames(), iter(tickets)
        with names.ended():
            options = {"num_cpus": 0, "scheduling_strategy": here, "name": names.next("ledger")}
            ledger = RayLedger(ray.remote(AttemptLedger).options(**options).remote(setup.attempts))
            while some := list(islice(left, SHARDS_PER_EXECUTION)):
                _wait_for_room(setup.pools)
                with names.ended("pool"):
                    yield from _execute(_graph(some, setup, ledger, names))

    def tables(self) -> RayTables:
        return RayTables()

    def close(self) -> None:
        """Stop a cluster of our own; leave one we only connected to."""
        if self._owns_cluster and ray.is_initialized():
            ray.shutdown()

    def _on_every_node(self, function: Callable, *args: Any) -> list[Any]:
        remote = ray.remote(function)
        nodes = [n["NodeID"] for n in ray.nodes() if n["Alive"]]
        strategies = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
        return _unwrapped(
            lambda: ray.get(
                [remote.options(num_cpus=0, scheduling_strategy=s).remote(*args) for s in strategies]
            )
        )


def _probe(uri: str) -> bool:
    return Storage(uri).probe_create_only(paths.RUN)


def _nodes() -> list[Node]:
    alive = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    return [Node(cpus=r.get("CPU", 0.0), gpus=r.get("GPU", 0.0)) for r in alive]


def _configure(context: DataContext) -> None:
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.target_max_block_size = None  # never split a row's block
    context.wait_for_min_actors_s = 0  # else pool BA would load its weights only once pool C has
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    context.autoscaling_config.actor_pool_util_upscaling_threshold = GROW_AT
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors reach us as exceptions


def _wait_for_room(pools: Pools) -> None:
    """Ray Data would wait without a word for GPUs that other jobs of the cluster have. Raises CascadeError."""
    began, told = time.monotonic(), False
    while (free := ray.available_resources().get("GPU", 0.0)) < pools.gpus - 1e-6:
        waited = time.monotonic() - began
        if waited > PATIENCE_S and not told:
            log.warning("waiting for other jobs: %g GPUs needed, %g free", pools.gpus, free)
            told = True
        if waited > ROOM_S:
            raise CascadeError(
                "other jobs keep the cluster's GPUs",
                where="ray",
                got=f"{free:g} GPUs free for {ROOM_S // 60} minutes",
                expected=f"{pools.gpus:g}",
                next_step="wait for them, or lower pools.c.actors and pools.ba.actors",
            )
        time.sleep(1.0)


def _execute(graph: Dataset) -> Generator[ShardData]:
    try:
        for row in graph.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
            yield from_row(row)
    except Exception as error:
        raise in_our_words(error) from error


def _graph(tickets: list[Ticket], setup: Setup, ledger: RayLedger, names: ActorNames) -> Dataset:
    rows = [{"ticket": json.dumps(ticket.to_json())} for ticket in tickets]
    cpus, ref = _step_cpus(setup.pools, sum(node.cpus for node in _nodes())), setup.ref
    graph = ray.data.from_items(rows, override_num_blocks=len(rows))
    graph = _map_step(graph, _open_ticket, cpus)
    if any(t.is_stored and not t.has_embeddings for t in tickets):
        graph = _map_step(graph, partial(_step, step=copy_embeddings, ref=ref), cpus)
    if any(t.needs_stage_c for t in tickets):
        graph = _map_step(graph, partial(_step, step=read_shard, ref=ref), cpus)
        graph = _map_pool(graph, PoolC, setup.pools.c, setup, ledger, names)
        graph = _map_step(graph, partial(_step, step=commit_embeddings, ref=ref), cpus)
    graph = _map_step(graph, partial(_step, step=read_committed, ref=ref), cpus)
    graph = _map_pool(graph, PoolBA, setup.pools.ba, setup, ledger, names)
    return _map_step(graph, partial(_step, step=commit_images, ref=ref), cpus)


def _step_cpus(pools: Pools, cpus: float) -> float:
    """CPUs of one step, so small that one of each kind fits beside the pools.

    Ray Data reserves for upstream operators first: a step that it cannot reserve for waits until those before it have
    ended, and pictures pile up uncommitted.
    """
    return min(pools.step_cpus, math.floor(1000 * (cpus - pools.cpus) / STEPS) / 1000)


def _open_ticket(row: pa.Table) -> pa.Table:
    return to_row(ShardData(Ticket.from_json(json.loads(row["ticket"][0].as_py()))))


def _map_step(graph: Dataset, step: Callable, cpus: float) -> Dataset:
    return graph.map_batches(step, batch_size=1, batch_format="pyarrow", num_cpus=cpus)


def _map_pool(
    graph: Dataset, actor: type, pool: Pool, setup: Setup, ledger: RayLedger, names: ActorNames
) -> Dataset:
    with warnings.catch_warnings():
        # The only public way to name the actors of a pool, until Ray 2.64, which our requirements leave out.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return graph.map_batches(
            actor,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_kwargs={"setup": setup, "ledger": ledger},
            compute=ActorPoolStrategy(min_size=pool.actors, max_size=pool.most, **IN_HAND),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            ray_remote_args_fn=lambda: {"name": names.next("pool")},
        )


def _unwrapped(call: Callable[[], Any]) -> Any:
    """Run a remote call; our own errors come back as themselves."""
    try:
        return call()
    except RayError as error:
        raise in_our_words(error) from error
