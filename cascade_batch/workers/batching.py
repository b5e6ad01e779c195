"""Cutting a shard's images into batches that are always full.

Images of equal size, steps, kind, and guidance on or off share a batch. A short batch is padded by repeating
its last image, because the bits of an image may depend on the batch's size, never on its neighbours.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from cascade_batch.model.sampling import guides
from cascade_batch.run.schemas import ImageRequest
from cascade_batch.workers.batch_sizes import BatchSizes

_Shape = tuple[int, int, int, bool]
"""Height, width, steps, guided."""


@dataclass(frozen=True)
class Batch:
    """Rows of a shard to run together; the first `real` of `rows` count, the rest is padding."""

    rows: tuple[int, ...]
    real: int
    height: int
    width: int
    steps: int
    guided: bool


def make_batches(
    requests: Sequence[ImageRequest],
    rows: Iterable[int],
    stage: str,
    sizes: BatchSizes,
    kinds: Sequence[Hashable] | None = None,
) -> list[Batch]:
    """Batches of the given rows, in row order within each group.

    Args:
        requests: rows of `run.schemas.IMAGE_REQUESTS`.
        rows: which of them to render.
        stage: "prior" or "decoder": whose steps and guidance scale decide the groups.
        sizes: images per batch.
        kinds: of each of `requests`, what else must be equal within a batch; None: nothing.
    """
    groups: dict[tuple[_Shape, Hashable], list[int]] = {}
    for row in rows:
        request = requests[row]
        guided = guides(request[f"{stage}_guidance_scale"])
        shape = (request["height"], request["width"], request[f"{stage}_steps"], guided)
        groups.setdefault((shape, kinds[row] if kinds else None), []).append(row)
    batches = []
    for (shape, _), members in groups.items():
        size = sizes.of(width=shape[1], height=shape[0])
        batches += [
            _padded(members[start : start + size], size, shape) for start in range(0, len(members), size)
        ]
    return batches


def halves(batch: Batch) -> list[Batch]:
    """The batch in two of half its size, for a device that ran out of memory; padding-only halves are dropped."""
    size = len(batch.rows) // 2
    shape = (batch.height, batch.width, batch.steps, batch.guided)
    real = batch.rows[: batch.real]
    return [_padded(list(real[start : start + size]), size, shape) for start in range(0, len(real), size)]


def parted(batch: Batch) -> list[Batch]:
    """The batch's images in two batches of its own size, so that bits stay what they are; none for a single image."""
    shape, size = (batch.height, batch.width, batch.steps, batch.guided), len(batch.rows)
    if batch.real == 1:
        return []
    middle = batch.real // 2
    return [
        _padded(list(rows), size, shape) for rows in (batch.rows[:middle], batch.rows[middle : batch.real])
    ]


def _padded(members: Sequence[int], size: int, shape: _Shape) -> Batch:
    padding = (members[-1],) * (size - len(members))
    return Batch((*members, *padding), len(members), *shape)
