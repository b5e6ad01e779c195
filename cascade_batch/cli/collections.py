"""The `collection` command: what there is, what changed, going back, cleaning up, checking and repairing.

Needs neither torch nor ray, but for `verify --repair`.
"""

import shlex
from argparse import Namespace
from collections.abc import Callable

from cascade_batch.cli.collection_arguments import UNITS
from cascade_batch.cli.comparing import print_diff, print_diff_json
from cascade_batch.cli.editions import print_edition, print_history
from cascade_batch.cli.exit_codes import DIFFERENT, FINISHED
from cascade_batch.cli.lines import TimedLines
from cascade_batch.cli.showing import make_observer
from cascade_batch.collection.care.diffing import diff
from cascade_batch.collection.care.garbage import Collected, collect, fates, survey
from cascade_batch.collection.care.marks import SWEPT
from cascade_batch.collection.care.repairing import Repair, repair
from cascade_batch.collection.care.restoring import edition_of, history_of, restore
from cascade_batch.collection.care.verifying import EditionCheck, Verifier
from cascade_batch.collection.editions import Edition
from cascade_batch.collection.lease import holding
from cascade_batch.collection.place import Collection, open_collection
from cascade_batch.errors import IntegrityError, SpecError
from cascade_batch.pipeline.runners.runner import Runner
from cascade_batch.run.verify.differences import Difference

SHOWN = 20
RunnerMaker = Callable[[], Runner]


def collection_command(arguments: Namespace, make_runner: RunnerMaker) -> int:
    """Run one action. Returns the exit code."""
    collection = open_collection(arguments.collection)
    actions = {
        "history": _history,
        "show": _show,
        "diff": _diff,
        "restore": _restore,
        "gc": _gc,
        "verify": lambda collection, arguments: _verify(collection, arguments, make_runner),
    }
    return actions[arguments.action](collection, arguments)


def _history(collection: Collection, _arguments: Namespace) -> int:
    print_history(history_of(collection), fates(collection))
    return FINISHED


def _show(collection: Collection, arguments: Namespace) -> int:
    edition = _chosen(collection, arguments.edition)
    print_edition(edition, collection, fates(collection).get(edition.number))
    return FINISHED


def _chosen(collection: Collection, number: int | None) -> Edition:
    history = history_of(collection)
    return history[0] if number is None else edition_of(history, number)


def _diff(collection: Collection, arguments: Namespace) -> int:
    history = history_of(collection)
    # One number alone is the later edition: what it changed.
    after = arguments.before if arguments.after is None else arguments.after
    later = history[0] if after is None else edition_of(history, after)
    older = [edition for edition in history if edition.number < later.number]
    if arguments.after is not None:
        earlier = edition_of(history, arguments.before)
    elif older:
        earlier = older[0]
    else:
        raise SpecError("there is no edition before this one", got=later.number)
    found = diff(collection.table, earlier, later)
    if arguments.json:
        print_diff_json(found)
    else:
        print_diff(found, collection.table)
    return FINISHED


def _restore(collection: Collection, arguments: Namespace) -> int:
    with _holding(collection, "restore", arguments) as lease:
        edition = restore(collection, arguments.edition, lease)
    if edition is None:
        print(f"nothing to do: the newest edition is edition {arguments.edition}, or shows it already")
        return FINISHED
    counts = edition.counts
    print(f"edition {edition.number} shows what edition {edition.of} did: {counts.images:,} images")
    print(f"changes   {counts.new:,} new, {counts.changed:,} changed, {counts.withdrawn:,} withdrawn")
    print(
        "the next regeneration begins from here: with the newer prompts it renders nothing that is still known"
    )
    return FINISHED


def _holding(collection: Collection, what: str, arguments: Namespace):
    tables = (collection.table, collection.known)
    return holding(collection.storage, what, if_busy=arguments.if_busy, tables=tables)


def _gc(collection: Collection, arguments: Namespace) -> int:
    if not arguments.delete:
        _print_gc(survey(collection, arguments.keep, arguments.grace), arguments.grace)
        words = ["cascade-batch", "collection", "gc", arguments.collection, "--keep", str(arguments.keep)]
        words += [] if arguments.grace == UNITS["d"] else ["--grace", f"{arguments.grace:g}s"]
        print(f"nothing was changed. To do it: {shlex.join([*words, '--delete'])}")
        return FINISHED
    with _holding(collection, "gc", arguments) as lease:
        done = collect(collection, arguments.keep, arguments.grace, lease)
    _print_gc(done, arguments.grace)
    return FINISHED


def _print_gc(done: Collected, grace_s: float) -> None:
    print(f"kept      editions {_numbers(done.kept)}")
    print(f"given up  {f'editions {_numbers(done.given_up)}' if done.given_up else 'no more editions'}")
    print(f"forgotten {done.forgotten:,} known pictures and embeddings, for later regenerations")
    whole = f", {len(done.whole_runs):,} whole runs among all that is marked" if done.whole_runs else ""
    print(f"marked    {done.marked:,} objects, {_bytes(done.marked_bytes)}{whole}")
    print(
        f"swept     {done.swept:,} objects, {_bytes(done.swept_bytes)}, that were marked {_time(grace_s)} ago"
    )
    if done.waiting:
        print(f"waiting   {done.waiting:,} objects: a gc after their {_time(grace_s)} sweeps them")
    if done.waiting_runs:
        print(
            f"left      {len(done.waiting_runs):,} runs of unfinished regenerations: {done.waiting_runs[0]}, ..."
        )


def _numbers(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers[:10])) + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.2f} GB"


def _time(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds % 60 == 0 else f"{seconds:g} s"


def _verify(collection: Collection, arguments: Namespace, make_runner: RunnerMaker) -> int:
    if not arguments.repair:
        return DIFFERENT if _print_checks(_checks(collection, arguments), arguments) else FINISHED
    with _holding(collection, "verify --repair", arguments) as lease:
        checks = _checks(collection, arguments)
        different = _print_checks(checks, arguments)
        if not different:
            return FINISHED
        newest, observer = history_of(collection)[0], make_observer()
        try:
            done = repair(collection, newest, checks, lease, make_runner, observer)
        finally:
            observer.close()
    _print_repair(done)
    return DIFFERENT


def _checks(collection: Collection, arguments: Namespace) -> list[EditionCheck]:
    editions = [_chosen(collection, arguments.edition)]
    if arguments.all:
        swept = {number for number, fate in fates(collection).items() if fate == SWEPT}
        editions = [edition for edition in history_of(collection) if edition.number not in swept]
    lines = TimedLines()
    verifier = Verifier(collection, lambda done, all_: lines.say(f"checked {done:,} of {all_:,} images"))
    return [_check(verifier, edition) for edition in editions]


def _check(verifier: Verifier, edition: Edition) -> EditionCheck:
    try:
        return verifier.check(edition)
    except IntegrityError as error:  # its own rows: the difference that hides all others
        found = EditionCheck(edition)
        found.add([Difference("damaged", error.where, error.what, None, error.got)])
        return found


def _print_checks(checks: list[EditionCheck], arguments: Namespace) -> bool:
    """Print what was found. Returns whether anything was."""
    for check in checks:
        for difference in check.differences[:SHOWN]:
            print(difference)
        if check.counts.total() > SHOWN:
            print(f"... and {check.counts.total() - SHOWN:,} more")
        print(
            f"edition {check.edition.number}: checked {check.images:,} images, {check.pictures:,} pictures, "
            f"{check.embedding_shards:,} embedding shards"
        )
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(check.counts.items()))
        print(
            f"differences: {kinds}" if kinds else "no differences: all that it refers to is there and right"
        )
    different = any(not check.is_clean for check in checks)
    if different and not arguments.repair:
        print(f"next: cascade-batch collection verify {shlex.quote(arguments.collection)} --repair")
    return different


def _print_repair(done: Repair) -> None:
    for run, shards in done.rendered.items():
        print(f"rendered  {shards:,} shards of {run} again")
    for run, rows in done.forgotten.items():
        print(f"forgotten {rows:,} pictures of {run}, which is gone: the next regeneration renders them")
    if done.edition is not None:
        print(f"edition {done.edition.number}: {done.corrected:,} images of other bytes than before")
    for line in done.left[:SHOWN]:
        print(f"left      {line}")
