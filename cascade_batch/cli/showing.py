"""What a person sees: live progress on a terminal, plain lines elsewhere, one summary at the end."""

import shlex
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from cascade_batch.cli.lines import TimedLines
from cascade_batch.model.stages import PerPool
from cascade_batch.pipeline.progress import Progress
from cascade_batch.run.records import FINISHED, TOO_MANY_FAILED, Outcome
from cascade_batch.storage.urls import without_queries

PADDING_WORTH_A_REMEDY = 0.10


class PlainObserver:
    """Lines on stderr, for logs and pipes."""

    def __init__(self) -> None:
        self._lines = TimedLines(first_at_once=True)

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        self.note(f"warning: {text}")

    def progress(self, progress: Progress) -> None:
        self._lines.say(progress_line(progress), last=progress.done_images >= progress.total_images)

    def close(self) -> None:
        pass


class LiveObserver:
    """One bar that stays in its place, from the first progress on: before, weights may show bars of their own."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4)

    def note(self, text: str) -> None:
        self._console.print(text, style="dim", highlight=False)

    def warn(self, text: str) -> None:
        self._console.print(f"warning: {text}", style="yellow", highlight=False, markup=False)

    def progress(self, progress: Progress) -> None:
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(1, progress.total_images), completed=progress.done_images, width=30)
        grid.add_row(bar, progress_line(progress))
        self._live.update(grid)
        self._live.start()

    def close(self) -> None:
        self._live.stop()


def make_observer() -> PlainObserver | LiveObserver:
    return LiveObserver() if sys.stderr.isatty() else PlainObserver()


def progress_line(progress: Progress) -> str:
    """Everything worth watching in one line."""
    left = progress.seconds_left
    return (
        f"{progress.done_images:,} of {progress.total_images:,} images, {progress.images_per_second:.2f}/s, "
        f"left {duration(left) if left is not None else '?'}, {progress.failed_rows} failed, "
        f"{f'{progress.retries:,} requests sent again, ' if progress.retries else ''}"
        f"busy C {progress.busy_share.c:.0%} BA {progress.busy_share.ba:.0%}"
    )


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def summary(outcome: Outcome, run: str, command: Sequence[str]) -> str:
    """The closing lines: what is there now, and what to try next."""
    lines = [
        f"{outcome.state}: {outcome.images_done:,} of {outcome.images:,} images done, "
        f"{outcome.failed_rows:,} failed rows, {outcome.shards_undone:,} shards left",
    ]
    if outcome.images_now:
        lines.append(
            f"this sitting: {outcome.images_now:,} images in {duration(outcome.seconds)}, "
            f"{outcome.images_per_second:.2f}/s, busy C {outcome.busy_share.c:.0%} "
            f"BA {outcome.busy_share.ba:.0%}, padded C {outcome.padded.c:.1%} BA {outcome.padded.ba:.1%}"
        )
        lines += padding_remedy(outcome.padded)
    if outcome.retries:
        lines.append(f"storage: {outcome.retries:,} requests failed for the moment and were sent again")
    lines += [f"error: {error}" for error in outcome.errors[:3]]
    lines.append("next:")
    lines += [f"  {text}" for text in _next_steps(outcome, run, command)]
    return "\n".join(lines)


def padding_remedy(padded: PerPool[float]) -> list[str]:
    """What to do where over a tenth of the batches is padding."""
    if max(padded) <= PADDING_WORTH_A_REMEDY:
        return []
    return [
        "over 10 % of the batches is padding: raise shards.prompts, lower pools.*.batch, or sort the table by "
        "size, steps and guidance"
    ]


def _next_steps(outcome: Outcome, run: str, command: Sequence[str]) -> list[str]:
    plain = [without_queries(word) for word in command if word != "--retry-failed"]
    quoted, again = shlex.quote(run), shlex.join(["cascade-batch", *plain])
    if outcome.state == TOO_MANY_FAILED:
        return [
            failed_query(run),
            f"cascade-batch render ... --out {quoted} --retry-failed --max-failed-rows N   (a higher N goes on)",
        ]
    if outcome.state != FINISHED:
        return [f"{again}   (goes on where it stopped)", f"cascade-batch status {quoted}"]
    steps = [f"cascade-batch verify {quoted}", f"duckdb -c {shlex.quote(images_query(run))}"]
    if outcome.failed_rows:
        steps += [failed_query(run), f"{again} --retry-failed"]
    return steps


def images_query(run: str) -> str:
    return f"SELECT prompt_id, image_uri, prompt FROM '{run}/table/*.parquet' LIMIT 10"


def failed_query(run: str) -> str:
    query = (
        "SELECT prompt_id, image_index, error_code, error_message "
        f"FROM '{run}/manifest/*.parquet' WHERE status = 'failed'"
    )
    return f"duckdb -c {shlex.quote(query)}"
