"""Images per batch of every picture size: given, or chosen from what batches of growing size took. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cascade_batch.run.loads import Size, SizeLoad
from cascade_batch.workers.context import RunRef

NEAR_BEST = 0.95
"""Share of the best images/s that is as good as the best: the smallest such batch is taken, whatever the noise."""


@dataclass(frozen=True)
class BatchSizes:
    """The batch of each measured size, or one for all."""

    default: int
    measured: Mapping[Size, int] = field(default_factory=dict)
    """(width, height) -> images."""

    def of(self, width: int, height: int) -> int:
        """The batch of a size. One that was not measured is rare and takes the batch of the next larger one.

        Pictures larger than all measured ones get fewer to a batch, by their pixels, down to a power of two.
        """
        if not self.measured or (width, height) in self.measured:
            return self.measured.get((width, height), self.default)
        by_pixels = sorted((w * h, batch) for (w, h), batch in self.measured.items())
        for pixels, batch in by_pixels:
            if pixels >= width * height:
                return batch
        pixels, batch = by_pixels[-1]
        fitting = batch * pixels // (width * height)
        return 1 << (fitting.bit_length() - 1) if fitting else 1


@dataclass(frozen=True)
class Probe:
    """What a worker needs to settle its pool's batch sizes; plain values."""

    ref: RunRef | None
    """The run that fixes them; None: nothing is stored."""
    pool: str
    """c or ba."""
    loads: tuple[SizeLoad, ...]


def choose(load: SizeLoad, seconds: Mapping[int, float]) -> int:
    """The smallest batch whose images/s, padding counted, are near the best; 1 if none fitted.

    Args:
        seconds: per place of a batch, by batch size.
    """
    if not seconds:
        return 1
    per_image = {batch: taken * load.padding(batch) for batch, taken in seconds.items()}
    best = min(per_image.values())
    return min(batch for batch, taken in per_image.items() if best >= NEAR_BEST * taken)
