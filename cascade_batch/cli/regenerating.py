"""The commands that bring a collection to what a table asks for: `regenerate`, `plan --into`, `import`."""

import shlex
import time
from argparse import Namespace
from collections.abc import Callable

from cascade_batch.cli.exit_codes import DONE_WITH_FAILED_ROWS, FAILED, FINISHED, INTERRUPTED, TOO_MANY_FAILED
from cascade_batch.cli.showing import make_observer, padding_remedy
from cascade_batch.collection.delta.table import Conflict
from cascade_batch.collection.editions import Counts
from cascade_batch.collection.lease import Busy, LostLease
from cascade_batch.collection.place import create_or_open
from cascade_batch.collection.regenerating.assessing import Options
from cascade_batch.collection.regenerating.importing import import_run
from cascade_batch.collection.regenerating.outcomes import write_failure, write_outcome
from cascade_batch.collection.regenerating.regenerate import DONE as COMMITTED
from cascade_batch.collection.regenerating.regenerate import DONE_WITH_FAILED_ROWS as WITH_FAILED_ROWS
from cascade_batch.collection.regenerating.regenerate import NOTHING_TO_DO, Result, regenerate
from cascade_batch.errors import CascadeError
from cascade_batch.pipeline.runners.runner import Runner
from cascade_batch.run import records
from cascade_batch.run.run import open_existing
from cascade_batch.settings import Spec

FULL = 64
"""Pictures of a run that could fill its batches."""
_EXIT_OF_STATE = {
    NOTHING_TO_DO: FINISHED,
    COMMITTED: FINISHED,
    WITH_FAILED_ROWS: DONE_WITH_FAILED_ROWS,
    records.INCOMPLETE: FAILED,
    records.TOO_MANY_FAILED: TOO_MANY_FAILED,
    records.INTERRUPTED: INTERRUPTED,
}


def options_of(arguments: Namespace) -> Options:
    """What the flags say of how to go about it."""
    return Options(
        name=arguments.edition,
        bits=arguments.reuse == "bits",
        retry_failed=arguments.retry_failed == "always",
        keep_stale=arguments.keep_stale,
        allow_empty=arguments.allow_empty,
    )


def regenerate_command(arguments: Namespace, spec: Spec, make_runner: Callable[[], Runner]) -> int:
    observer, began, if_busy = make_observer(), time.monotonic(), arguments.if_busy
    try:
        result = regenerate(
            spec,
            arguments.into,
            make_runner,
            observer,
            options_of(arguments),
            if_busy="fail" if if_busy == "skip" else if_busy,
        )
    except Busy as busy:
        if if_busy != "skip":
            raise
        print(f"skipped: {busy}")
        return FINISHED
    except (LostLease, Conflict):
        raise  # how it ended is the other process's to tell
    except CascadeError as error:
        write_failure(arguments.into, error, arguments.edition, time.monotonic() - began)
        raise
    finally:
        observer.close()
    write_outcome(arguments.into, result, arguments.edition, time.monotonic() - began)
    print(summary(result, arguments.into))
    return _EXIT_OF_STATE[result.state]


def import_command(arguments: Namespace) -> int:
    open_existing(arguments.run)  # what is no run leaves no collection behind
    collection = create_or_open(arguments.into)
    added = import_run(collection, arguments.run, arguments.if_busy)
    print(f"{added:,} pictures and embeddings of {arguments.run} are known to {arguments.into} now")
    return FINISHED


def summary(result: Result, into: str) -> str:
    """The closing lines: what the edition is, and what to try next."""
    edition, outcome = result.edition, result.outcome
    if edition is None or result.state not in (NOTHING_TO_DO, COMMITTED, WITH_FAILED_ROWS):
        assert outcome is not None
        lines = [
            f"{result.state}: no edition; {outcome.images_done:,} of {outcome.images:,} missing images done"
        ]
        lines += [f"error: {error}" for error in outcome.errors[:3]]
        return "\n".join([*lines, "next:", "  the same command, which goes on from there"])
    name = f"edition {edition.number}" + (f" ({edition.name})" if edition.name else "")
    counts = edition.counts
    failed = f"; {counts.failed:,} of them failed" if counts.failed else ""
    if result.was_named:
        return f"nothing to do: {name} is there already, {counts.images:,} images{failed}; the table was not looked at"
    if not result.is_new:
        tried = f"; {result.run} changed nothing" if outcome is not None else ""
        return f"nothing to do: {name} is what the table asks for, {counts.images:,} images{failed}{tried}"
    lines = [
        f"{name}: {counts.images:,} images, {_made(counts)}",
        f"beside the one before: {_differs(counts)}",
    ]
    if outcome is not None:
        padded = outcome.padded
        lines.append(f"rendered in {result.run}, padded C {padded.c:.1%} BA {padded.ba:.1%}")
        if outcome.images >= FULL:  # a few pictures are padded whatever is done
            lines += padding_remedy(padded)
    return "\n".join([*lines, "next:", *(f"  {step}" for step in _next_steps(edition.number, counts, into))])


def _made(counts: Counts) -> str:
    """How the images came to be, failures by what they show."""
    made = f"{counts.reused:,} reused, {counts.decoded:,} decoded, {counts.rendered:,} rendered"
    stale = f" ({counts.stale:,} show their last good picture)" if counts.stale else ""
    return f"{made}, {counts.failed:,} failed{stale}"


def _differs(counts: Counts) -> str:
    return (
        f"{counts.new:,} new, {counts.changed:,} changed, {counts.withdrawn:,} withdrawn, "
        f"{counts.carried:,} with other columns alone"
    )


def _next_steps(number: int, counts: Counts, into: str) -> list[str]:
    quoted = shlex.quote(into)
    steps = [f"cascade-batch collection show {quoted} {number}", f"cascade-batch collection verify {quoted}"]
    if counts.withdrawn or counts.changed:
        steps.insert(0, f"cascade-batch collection diff {quoted}")
    return steps
