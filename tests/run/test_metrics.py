"""Progress of a sitting: counts over all sittings, rates of this one."""

import time

import pytest

from cascade_batch.model.stages import PerPool
from cascade_batch.pipeline.progress import Progress
from cascade_batch.workers.shards import ShardData, Ticket


def shard(
    images: int, failed: int = 0, retry: tuple[str, ...] = (), c: float = 0.0, ba: float = 0.0
) -> ShardData:
    ticket = Ticket(0, 0, 0, images, 0, images, retry=retry)
    return ShardData(ticket, failed_rows=failed, seconds=PerPool(c, ba))


def test_nothing_is_known_before_the_first_shard() -> None:
    progress = Progress(total_images=10)
    assert progress.seconds_left is None
    assert progress.images_per_second == 0


def test_rates_count_from_the_first_shard_not_from_loading() -> None:
    progress = Progress(total_images=40, started=time.monotonic() - 100, actors=PerPool(2, 1))
    progress.add(shard(10, c=4.0, ba=1.0))
    assert progress.images_per_second == pytest.approx(2, rel=0.05)
    assert progress.seconds_left == pytest.approx(15, rel=0.05)
    assert progress.busy_share.c == pytest.approx(0.4, rel=0.05)
    assert progress.busy_share.ba == pytest.approx(0.2, rel=0.05)


def test_no_pool_is_busier_than_always() -> None:
    """Three shards of 2 s each, committed in a row while the first steps started."""
    progress = Progress(total_images=40, started=time.monotonic() - 100)
    for _ in range(3):
        progress.add(shard(10, c=1.0, ba=2.0))
    assert progress.busy_share.ba == pytest.approx(1, rel=0.05)
    assert progress.busy_share.c == pytest.approx(0.5, rel=0.05)
    assert progress.images_per_second == pytest.approx(5, rel=0.05)


def test_retried_rows_are_not_new_images_and_lower_the_failures() -> None:
    progress = Progress(total_images=10, done_images=10, failed_rows=5)
    progress.add(shard(10, failed=1, retry=("a", "b", "c")))
    assert (progress.done_images, progress.images_now, progress.failed_rows) == (10, 3, 3)
