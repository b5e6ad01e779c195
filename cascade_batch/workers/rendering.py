"""What both pools do with a shard: attempts, batches, halving when memory runs out. No torch here."""

import os
import socket
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cascade_batch.errors import CascadeError
from cascade_batch.run.schemas import ImageRequest
from cascade_batch.workers.batch_sizes import BatchSizes
from cascade_batch.workers.batching import Batch, halves, make_batches, parted
from cascade_batch.workers.ledger import Attempt, Ledger


class DeviceOutOfMemory(Exception):
    """The device had no room for a batch; the batch is halved, never the run ended."""


class BatchRefused(Exception):
    """A library raised `error` about a batch. Whose row it was about is found out by rendering fewer of them."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class RowResult:
    """One image after one stage: a value, or the code of what failed."""

    value: Any = None
    error_code: str | None = None
    error_message: str | None = None
    seconds: float = 0.0
    batch: int = 0

    @property
    def status(self) -> str:
        return "failed" if self.error_code else "ok"


RenderBatch = Callable[[Batch, Sequence[ImageRequest]], list[RowResult]]
OnDevice = Callable[[Callable[[], Any]], Any]
"""Does work on the thread that has the device to itself, and returns its result."""


Blame = Callable[[Exception, int], RowResult]
"""The failure of a row that a library refuses to render alone; raises the error if it refuses any row."""


def blame_nobody(error: Exception, _row: int) -> RowResult:
    """The `Blame` of a worker that cannot tell whose fault it is."""
    raise error


def here(work: Callable[[], Any]) -> Any:
    """The `OnDevice` of a process that has one shard in hand."""
    return work()


def worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def take_in_hand(ledger: Ledger, stage: str, shard: int) -> Attempt:
    """The attempt that is to follow. Raises CascadeError if workers keep dying, whatever is rendered."""
    attempt = ledger.take(stage, shard)
    if attempt.hopeless:
        raise CascadeError(
            "workers keep dying with this shard in hand, and no single prompt is to blame",
            where=f"shard {shard}, {stage}",
            got=f"{attempt.number - 1} attempts",
            next_step="give the workers more memory, or make shards smaller in a new run (shards.images)",
        )
    return attempt


def render_shard(
    requests: Sequence[ImageRequest],
    *,
    stage: str,
    shard: int,
    attempt: Attempt,
    batch_sizes: Callable[[], BatchSizes],
    ledger: Ledger,
    render: RenderBatch,
    already_failed: Mapping[int, RowResult],
    kinds: Sequence[Hashable] | None = None,
    blame: Blame = blame_nobody,
) -> list[RowResult]:
    """Results of all rows of a shard, in order.

    Args:
        stage: "prior" or "decoder".
        attempt: from `take_in_hand`; counted now.
        batch_sizes: images per batch; asked once the attempt is counted, since measuring them may cost the worker.
        render: one batch in, one result per real row out; may raise DeviceOutOfMemory or BatchRefused.
        already_failed: rows that are not to be rendered, with their results.
        kinds: of each row, what `make_batches` keeps apart.
        blame: judges a row that is refused alone.
    """
    ledger.begin(stage, shard)
    results = dict(already_failed)
    for prompt in attempt.deadly:
        results.update(
            {row: _worker_died(attempt) for row in _rows_of(requests, prompt) if row not in results}
        )
    todo, sizes = [row for row in range(len(requests)) if row not in results], batch_sizes()
    for group, prompt in _groups(requests, todo, attempt):
        if prompt is not None:
            ledger.announce(stage, shard, prompt)
        for batch in make_batches(requests, group, stage, sizes, kinds):
            results.update(_render_batch(batch, requests, render, blame))
    ledger.finish(stage, shard)
    return [results[row] for row in range(len(requests))]


def _groups(
    requests: Sequence[ImageRequest], todo: list[int], attempt: Attempt
) -> Iterable[tuple[list[int], int | None]]:
    if not attempt.one_by_one:
        return [(todo, None)]
    prompts = sorted({requests[row]["row"] for row in todo})
    return [([row for row in todo if requests[row]["row"] == prompt], prompt) for prompt in prompts]


def _rows_of(requests: Sequence[ImageRequest], prompt: int) -> list[int]:
    return [row for row, request in enumerate(requests) if request["row"] == prompt]


def _worker_died(attempt: Attempt) -> RowResult:
    message = f"the worker died {attempt.number - 1} times, the last time on this prompt alone"
    return RowResult(error_code="worker_died", error_message=message)


def _render_batch(
    batch: Batch, requests: Sequence[ImageRequest], render: RenderBatch, blame: Blame
) -> dict[int, RowResult]:
    row, started = batch.rows[0], time.perf_counter()
    try:
        results = render(batch, requests)
    except DeviceOutOfMemory as error:
        parts = halves(batch) if len(batch.rows) > 1 else []
        alone = RowResult(error_code="out_of_memory", error_message=str(error), batch=1)
    except BatchRefused as refused:
        parts = parted(batch)
        alone = RowResult() if parts else blame(refused.error, row)
    else:
        return _timed(batch, results, time.perf_counter() - started)
    # Beyond the handlers the failed forward's tensors are free, so the parts have their memory.
    rendered = [_render_batch(part, requests, render, blame) for part in parts]
    return {row: result for part in rendered for row, result in part.items()} if parts else {row: alone}


def _timed(batch: Batch, results: list[RowResult], seconds: float) -> dict[int, RowResult]:
    return {
        row: replace(result, seconds=seconds / batch.real, batch=len(batch.rows))
        for row, result in zip(batch.rows[: batch.real], results, strict=True)
    }
