"""The `verify` command: what was checked, what differs, what was re-opened. Needs neither torch nor ray."""

import shlex
import sys

from cascade_batch.cli.exit_codes import DIFFERENT, FINISHED
from cascade_batch.cli.lines import TimedLines
from cascade_batch.errors import IntegrityError
from cascade_batch.run.run import open_existing
from cascade_batch.run.verify import Verification, refuse_while_rendering, reopen, verify

SHOWN = 20


def verify_command(uri: str, reopen_damaged: bool) -> int:
    """Print the differences, re-open if asked.

    Returns 0 if there were no differences, else 4, re-opened or not.
    """
    try:
        run = open_existing(uri)
        if reopen_damaged:
            refuse_while_rendering(run)  # rather now than after an hour of checking
        lines = TimedLines()
        result = verify(run, lambda checked, shards: lines.say(f"checked {checked:,} of {shards:,} shards"))
    except IntegrityError as error:  # run.json or the plan: the difference that hides all others
        print(f"error: {error}", file=sys.stderr)
        return DIFFERENT
    _print_result(result)
    if reopen_damaged:
        _print_reopened(result, reopen(run, result.damaged_shards), uri)
    elif result.damaged_shards:
        print(f"next: cascade-batch verify {shlex.quote(uri)} --reopen, then the render command again")
    return FINISHED if result.is_clean else DIFFERENT


def _print_result(result: Verification) -> None:
    for difference in result.differences[:SHOWN]:
        print(difference)
    total = result.counts.total()
    if total > SHOWN:
        print(f"... and {total - SHOWN:,} more")
    print(f"checked {result.images_checked:,} pictures in {result.shards_done:,} of {result.shards:,} shards")
    if result.shards_done < result.shards:
        left = result.shards - result.shards_done
        print(f"unfinished: {left:,} of {result.shards:,} shards not done")
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(result.counts.items()))
    print(f"differences: {kinds}" if kinds else "no differences: what is committed is right")
    if result.counts["orphan"]:
        print(
            "orphans block nothing and are never deleted here; delete them yourself if you do not want them"
        )


def _print_reopened(result: Verification, deleted: list[str], uri: str) -> None:
    print(f"re-opened {len(result.damaged_shards):,} shards, deleted {len(deleted):,} objects")
    if result.damaged_shards:
        print(f"next: repeat the render command, then cascade-batch verify {shlex.quote(uri)}")
