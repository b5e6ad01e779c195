"""How a sitting goes: images, failures, rate, time left, and how busy each pool is. Plain arithmetic."""

import time
from dataclasses import dataclass, field

from cascade_batch.model.stages import STAGES, PerPool
from cascade_batch.workers.shards import ShardData


@dataclass
class Progress:
    """Counts of one sitting on top of what earlier ones left."""

    total_images: int
    done_images: int = 0
    """Committed in all sittings, failed rows included."""
    failed_rows: int = 0
    to_retry: int = 0
    """Failed rows whose retry has not ended yet; they count as failed, but against no limit."""
    actors: PerPool[int] = field(default_factory=lambda: PerPool(1, 1))
    """At most, for a pool that grows."""
    images_now: int = 0
    """Committed in this sitting."""
    busy: PerPool[float] = field(default_factory=lambda: PerPool(0.0, 0.0))
    """Seconds that actors rendered."""
    retries: int = 0
    """Requests to stores that were sent again in this sitting."""
    started: float = field(default_factory=time.monotonic)
    rendering_since: float | None = None
    """When the first shard of this sitting began to render; loading the models came before."""

    def add(self, data: ShardData) -> None:
        """Count a shard that was committed."""
        retried = len(data.ticket.retry)
        self.images_now += retried or data.ticket.images
        if not retried:
            self.done_images += data.ticket.images
        self.failed_rows += data.failed_rows - retried
        self.to_retry -= retried
        self.busy = PerPool.of(lambda stage: self.busy[stage] + data.seconds[stage])
        self._rendered_at_least(sum(data.seconds))

    def _rendered_at_least(self, shard_s: float) -> None:
        """Commits lag behind the pools at first, and come in a row then: the pools began before what they have done."""
        seconds = max(shard_s, *(self.busy[stage] / self.actors[stage] for stage in STAGES))
        began = max(self.started, time.monotonic() - seconds)
        self.rendering_since = min(self.rendering_since or began, began)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def images_per_second(self) -> float:
        """Of this sitting, from when its first shard began to render."""
        return self.images_now / self._rendering_seconds if self.images_now else 0.0

    @property
    def _rendering_seconds(self) -> float:
        since = self.rendering_since
        return max(1e-9, time.monotonic() - since) if since is not None else self.seconds

    @property
    def seconds_left(self) -> float | None:
        """None before the first image."""
        if not self.images_now:
            return None
        return (self.total_images - self.done_images) / self.images_per_second

    @property
    def busy_share(self) -> PerPool[float]:
        """Share of each pool's actors' time since the first shard began in which they rendered."""
        seconds = self._rendering_seconds
        return PerPool.of(lambda stage: self.busy[stage] / (seconds * self.actors[stage]))
