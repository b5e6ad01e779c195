"""The run, top to bottom: open it, see what is left, let a runner do that, and say how it ended.

State lives on storage only. What is done is what `manifest/` lists; everything else is left to do.
"""

import json
from collections.abc import Callable, Collection, Generator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Protocol

from cascade_batch import weights
from cascade_batch.errors import CascadeError, SpecError, StorageError
from cascade_batch.model.stages import STAGES
from cascade_batch.pipeline.creating import open_or_create
from cascade_batch.pipeline.finding import Finder
from cascade_batch.pipeline.pinning import fixed_weights, numerics_of, settled
from cascade_batch.pipeline.progress import Progress
from cascade_batch.pipeline.rates import measured_in
from cascade_batch.pipeline.runners.late import LateRunner
from cascade_batch.pipeline.runners.runner import Runner, Setup
from cascade_batch.pipeline.tickets import failed_images, retries, undone
from cascade_batch.plan import worlds
from cascade_batch.plan.pools import Pool
from cascade_batch.run import paths
from cascade_batch.run.heartbeat import Heartbeat
from cascade_batch.run.manifest import committed_shards, write_table
from cascade_batch.run.records import (
    FINISHED,
    INCOMPLETE,
    INTERRUPTED,
    TOO_MANY_FAILED,
    Outcome,
    read_json,
    read_outcome,
    write_outcome,
)
from cascade_batch.run.run import Run
from cascade_batch.run.stored import StoredEmbeddings
from cascade_batch.settings import PoolsSpec, Spec
from cascade_batch.storage import Storage
from cascade_batch.storage.failures import take_retries
from cascade_batch.workers.context import RunRef
from cascade_batch.workers.shards import ShardData

SHARE_C = 0.72
"""Stage C's share of a published image's FLOPs (163 of 227 TF at 1024 px); splits a cluster's GPUs if no run does."""
ForConditions = Callable[[Collection[str]], weights.Model]
"""The model with the parts that a table with these conditions needs."""
ERRORS_IN_A_ROW = 3
"""Undone shards in a row after which a sitting stops instead of spending on."""


class Observer(Protocol):
    """Is told what a person may want to see."""

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def progress(self, progress: Progress) -> None: ...


def render(
    spec: Spec,
    make_runner: Callable[[], Runner],
    observer: Observer,
    *,
    retry_failed: bool = False,
    take_over: bool = False,
    stored: StoredEmbeddings | None = None,
) -> Outcome:
    """Render what is left of the run at `spec.output.uri`, which is planned first if it is new.

    Args:
        make_runner: called only if something is left, so that a finished run starts neither Ray nor torch.
        stored: what is at `spec.prompts.embeddings_from`; asked only while it is not known what the run takes from it.

    Raises:
        CascadeError: bad input, weights or storage, before anything is spent.
    """
    storage = Storage(spec.output.uri)
    storage.check_writable()
    located = weights.Model.locate(spec.model)
    for_conditions = cache(located.for_conditions)  # asked before anything is written, and once all the same
    with closing(LateRunner(make_runner)) as late:
        find_sources = _finder(spec, storage, for_conditions, late, stored)
        run = open_or_create(spec, storage, lambda table: for_conditions(table.conditions), find_sources)
        return _go_on(spec, run, for_conditions, late, observer, find_sources, retry_failed, take_over)


def _finder(
    spec: Spec, storage: Storage, model: ForConditions, late: LateRunner, stored: StoredEmbeddings | None
) -> Finder | None:
    if (stored is None) == (spec.prompts.embeddings_from is None):
        return None if stored is None else Finder(spec, storage, model, late, stored)
    raise SpecError(
        "stored embeddings and the spec do not go together",
        where="prompts.embeddings_from",
        got=spec.prompts.embeddings_from,
        expected="a run or a collection, together with who knows its embeddings",
    )


def _go_on(
    spec: Spec,
    run: Run,
    for_conditions: ForConditions,
    late: LateRunner,
    observer: Observer,
    find_sources: Finder | None,
    retry_failed: bool,
    take_over: bool,
) -> Outcome:
    storage = run.storage
    done = committed_shards(storage, run.planned) & run.planned
    # Rows are read only where they decide something: a read per shard is hours where a listing is seconds.
    failed = failed_images(run, done) if retry_failed or spec.limits.failed_rows is not None else {}
    tickets = retries(run, failed) if retry_failed else undone(run, done, find_sources)
    progress = Progress(
        total_images=run.images,
        done_images=run.images_of(done),
        failed_rows=sum(len(ids) for ids in failed.values()),
        to_retry=sum(len(ticket.retry) for ticket in tickets),
    )
    if not tickets or _over_limit(spec, progress):
        return _finish(run, progress, done, (), _early_state(spec, progress))
    share_c = _share_c(spec.pools, observer) if any(t.needs_stage_c for t in tickets) else 0.0
    located = for_conditions(run.table.conditions)
    observer.note(
        f"{len(tickets)} shards to do, {len(done)} done before; parts {', '.join(sorted(located.parts))}"
    )
    if copied := sum(t.is_stored and not t.has_embeddings for t in tickets):
        observer.note(f"{copied} of them take their embeddings from {spec.prompts.embeddings_from}")
    if not done and (warning := worlds.warning(located.parts["stage_c"], run.table, spec)):
        observer.warn(warning)  # once a run: a sitting that goes on has nothing new to say
    with _alive(late.made, storage, observer, take_over):
        # A sitting that dies must not leave an older one's "finished": the analysts' table would stay as it was.
        storage.delete(paths.OUTCOME)
        try:
            setup = _setup(spec, run, located, late, observer, share_c)
        except KeyboardInterrupt:
            return _finish(run, progress, done, (), INTERRUPTED)
        progress.actors = setup.pools.map(
            lambda pool: max(1, pool.most)
        )  # one that never works is never busy
        # Closed after the outcome stands: stopping the pools may outlast the grace a stopped job is given.
        with closing(late.made.run(tickets, setup)) as shards:
            return _drive(spec, run, shards, progress, done, observer)


def _alive(runner: Runner, storage: Storage, observer: Observer, take_over: bool) -> Heartbeat:
    """Learn what the store can do, and only then say that this driver is alive."""
    storage.create_only = runner.probe_create_only(storage.uri)
    if not storage.create_only:
        observer.note("this store has no create-only writes: safe for one driver at a time")
    heartbeat = Heartbeat(storage)
    heartbeat.check_alone(take_over)
    return heartbeat


def _over_limit(spec: Spec, progress: Progress) -> bool:
    limit = spec.limits.failed_rows
    return limit is not None and progress.failed_rows - progress.to_retry > limit


def _early_state(spec: Spec, progress: Progress) -> str:
    if _over_limit(spec, progress):
        return TOO_MANY_FAILED
    return FINISHED if progress.done_images == progress.total_images else INCOMPLETE


def _share_c(pools: PoolsSpec, observer: Observer) -> float:
    """Stage C's share of an image's cost. Raises SpecError or StorageError for a run that tells nothing."""
    if not pools.rates_from:
        return SHARE_C
    rates = measured_in(pools.rates_from).rates()
    observer.note(f"an image took pool C {rates.c.seconds:.3g} s, pool BA {rates.ba.seconds:.3g} s before")
    return rates.share_c


def _setup(
    spec: Spec, run: Run, model: weights.Model, late: LateRunner, observer: Observer, share_c: float
) -> Setup:
    wanted, dtype = settled(spec.pools, spec.model.dtype, run.storage)
    pools = late.made.size_pools(wanted, dtype, share_c)
    known = read_json(run.storage, paths.WEIGHTS)
    digests = fixed_weights(run.storage, late.weight_digests(model, known), known)
    for stage in STAGES:
        observer.note(_described(stage.label, pools[stage]))
        if spec.pools[stage].max_actors and pools[stage].actors and not pools[stage].max_actors:
            observer.note(f"pool {stage.label} does not grow: this runner has one worker for it")
    return Setup(
        ref=RunRef(
            run.storage.uri,
            run.storage.create_only,
            numerics_text=json.dumps(numerics_of(pools).to_json(), sort_keys=True),
            table_root=run.table.root,
            table_query=run.table.query,
            picture_pixels=spec.limits.picture_pixels,
            picture_side=model.picture_side(),
        ),
        model=model,
        sampling=run.sampling,
        weights=digests,
        pools=pools,
        embeddings_schema=run.embeddings_schema,
        attempts=spec.limits.attempts,
        text=run.text,
        loads=run.record.plan.loads,
    )


def _described(name: str, pool: Pool) -> str:
    growth = f" to {pool.max_actors}" if pool.max_actors else ""
    threads, batch = pool.settings.threads, pool.settings.batch
    return f"pool {name}: {pool.actors}{growth} x {pool.gpus:g} GPU, {threads} CPU threads, batch {batch}"


def _drive(
    spec: Spec,
    run: Run,
    shards: Generator[ShardData],
    progress: Progress,
    done: set[int],
    observer: Observer,
) -> Outcome:
    errors: list[str] = []
    in_a_row = 0
    state = INCOMPLETE
    try:
        for data in shards:
            progress.retries += data.retries
            if data.error:
                errors.append(data.error)
                in_a_row += 1
                if data.error_is_permanent or in_a_row >= ERRORS_IN_A_ROW:
                    break
                continue
            in_a_row = 0
            done.add(data.ticket.shard)
            progress.add(data)
            observer.progress(progress)
            if _over_limit(spec, progress):
                state = TOO_MANY_FAILED
                break
        else:
            state = FINISHED if not errors and progress.done_images == progress.total_images else INCOMPLETE
    except KeyboardInterrupt:
        state = INTERRUPTED
    except CascadeError as error:  # the runner itself failed; what is committed stands
        errors.append(str(error))
    try:
        return _finish(run, progress, done, tuple(errors), state)
    except KeyboardInterrupt:  # the table may be half written; the next sitting writes it anew
        return _finish(run, progress, done, tuple(errors), INTERRUPTED)
    except CascadeError as error:
        error.spent = True
        raise


def _finish(run: Run, progress: Progress, done: set[int], errors: tuple[str, ...], state: str) -> Outcome:
    """Derive the analysts' table if the run is whole, and write down how the sitting ended."""
    failed_rows = progress.failed_rows
    if state == FINISHED:
        last = read_outcome(run.storage)
        unchanged = last and last.state == FINISHED and not progress.images_now
        if last and unchanged and run.storage.list(paths.TABLE):
            failed_rows = last.failed_rows
        else:
            failed_rows = write_table(run.storage, done, run.manifest_schema)
    outcome = Outcome(
        state=state,
        images=progress.total_images,
        images_done=progress.done_images,
        images_now=progress.images_now,
        failed_rows=failed_rows,
        shards_undone=run.shards.num_rows - len(done),
        errors=errors,
        seconds=progress.seconds,
        images_per_second=progress.images_per_second,
        busy_share=progress.busy_share,
        padded=run.record.plan.padded,
        ended=datetime.now(UTC).isoformat(),
        retries=progress.retries + take_retries(),
    )
    return _written_down(outcome, run.storage)


def _written_down(outcome: Outcome, storage: Storage) -> Outcome:
    """The outcome, with the error of a store that would not take it: what is committed stands all the same."""
    try:
        write_outcome(storage, outcome)
    except StorageError as error:
        state = INCOMPLETE if outcome.state == FINISHED else outcome.state
        return replace(outcome, state=state, errors=(*outcome.errors, str(error)))
    return outcome
