"""What the workers of both pools share: a device held to its numerics, a shard's attempts and batches, their cost."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from cascade_batch.engine.devices import device_kind, fix_numerics, keep_freed_memory, named_device
from cascade_batch.errors import SpecError
from cascade_batch.model.stages import Stage
from cascade_batch.plan.pools import WorkerSettings
from cascade_batch.run.schemas import ImageRequest
from cascade_batch.workers.batch_sizes import Probe
from cascade_batch.workers.batching import Batch
from cascade_batch.workers.faults import blaming, refusal
from cascade_batch.workers.ledger import Ledger
from cascade_batch.workers.probing import settled_once
from cascade_batch.workers.rendering import (
    OnDevice,
    RenderBatch,
    RowResult,
    render_shard,
    take_in_hand,
    worker_name,
)
from cascade_batch.workers.shards import ShardData

Output = TypeVar("Output")


@dataclass(frozen=True)
class Rendered:
    """A shard's images after one stage, in order, and the attempt that it took."""

    requests: Sequence[ImageRequest]
    results: list[RowResult]
    attempts: int

    @property
    def seconds(self) -> float:
        return sum(result.seconds for result in self.results)


class DeviceWorker(ABC):
    """One stage on one device. Several threads may each have a shard in hand; batches go through the device's own."""

    stage: ClassVar[Stage]

    def __init__(
        self, settings: WorkerSettings, ledger: Ledger, probe: Probe | None, on_device: OnDevice
    ) -> None:
        """`probe`: None, nothing is known of the pictures to come."""
        self._settings, self._ledger, self._on_device = settings, ledger, on_device
        keep_freed_memory()
        fix_numerics(settings.threads)
        self._device = named_device(settings.device)
        self._device_kind = device_kind(self._device)
        self.batch_sizes = settled_once(settings, self._device_kind, probe, self._try_batch)

    @abstractmethod
    def render(self, data: ShardData) -> ShardData:
        """The shard with this stage's table."""

    @abstractmethod
    def _try_batch(self, batch: Batch) -> None:
        """Render a batch of nothing in particular: for its time, or to see that the device still can."""

    def _render_shard(
        self,
        shard: int,
        requests: Sequence[ImageRequest],
        failed: dict[int, RowResult],
        render: RenderBatch,
        kinds: Callable[[], Sequence[Hashable]],
    ) -> Rendered:
        """All images of a shard.

        Args:
            failed: images that are not rendered, with why; `kinds` may add some.
            render: a batch.
            kinds: of each image, what a batch must have in common; asked for on the device's thread.
        """
        name = self.stage.asked
        attempt = take_in_hand(self._ledger, name, shard)

        def render_all() -> list[RowResult]:
            fix_numerics(self._settings.threads)  # of this thread
            return render_shard(
                requests,
                stage=name,
                shard=shard,
                attempt=attempt,
                batch_sizes=self.batch_sizes,
                ledger=self._ledger,
                render=render,
                kinds=kinds(),
                already_failed=failed,
                blame=blaming(name, shard, self._try_batch),
            )

        return Rendered(requests, self._on_device(render_all), attempt.number)

    def _tried(
        self, batch: Batch, render: Callable[[], Output], judge: Callable[[Output, int], RowResult]
    ) -> list[RowResult]:
        """The results of a batch. Raises DeviceOutOfMemory or BatchRefused, see `faults.refusal`."""
        try:
            output = render()
        except SpecError as error:  # conditions that do not fit the model, alike in all rows of one kind
            return [RowResult(error_code="bad_condition", error_message=str(error))] * batch.real
        except Exception as error:  # noqa: BLE001
            raise refusal(error) from None
        return [judge(output, image) for image in range(batch.real)]

    def _columns(self, rendered: Rendered) -> dict[str, list[Any]]:
        """The columns that the tables of both stages have, `run.schemas.COST` among them."""
        results = rendered.results
        same = {
            "attempts": rendered.attempts,
            "device": self._device_kind,
            "worker": worker_name(),
            "threads": self._settings.threads,
            "dtype": self._settings.dtype,
        }
        each = ("status", "error_code", "error_message", "seconds", "batch")
        return {
            "image_id": [request["image_id"] for request in rendered.requests],
            **{name: [getattr(result, name) for result in results] for name in each},
            **{name: [value] * len(results) for name, value in same.items()},
        }
