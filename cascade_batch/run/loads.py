"""How many images of each picture size a pool renders, and how full its batches get. Plain integers.

The fastest batch is not the largest that fits: a batch is padded where a shard has fewer images of a kind.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes that a worker may choose from."""
MOST_SIZES = 8
"""Picture sizes that are worth measuring: the most frequent ones."""

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class SizeLoad:
    """What one pool renders of one picture size."""

    width: int
    height: int
    images: int
    guided: bool
    """Whether some of them are guided, which doubles what a batch takes."""
    largest: int
    """Images of one kind in one shard, at most: a larger batch is never full."""
    slots: tuple[int, ...]
    """Places that batches of each size of `BATCHES` take, padding included."""

    def padding(self, batch: int) -> float:
        """Places per image, at least 1, for a size of `BATCHES`."""
        return self.slots[BATCHES.index(batch)] / self.images


def loads_of(
    widths: np.ndarray, heights: np.ndarray, guided: np.ndarray, images: np.ndarray
) -> dict[Size, SizeLoad]:
    """Loads by size of one pool's groups: (groups,) arrays, one entry per kind of image in a shard."""
    codes, group = np.unique(widths.astype(np.int64) << 32 | heights, return_inverse=True)
    slots = [
        np.bincount(group, -(-images // batch) * batch, len(codes)).astype(np.int64) for batch in BATCHES
    ]
    total, any_guided = np.bincount(group, images, len(codes)), np.bincount(group, guided, len(codes)) > 0
    largest = np.zeros(len(codes), np.int64)
    np.maximum.at(largest, group, images)
    loads = {}
    for i, code in enumerate(codes.tolist()):
        size = (code >> 32, code & 0xFFFFFFFF)
        places = tuple(int(column[i]) for column in slots)
        loads[size] = SizeLoad(*size, int(total[i]), bool(any_guided[i]), int(largest[i]), places)
    return loads


def most_frequent(parts: Iterable[Mapping[Size, SizeLoad]]) -> tuple[SizeLoad, ...]:
    """The `MOST_SIZES` sizes of most images, over all parts of a plan."""
    loads: dict[Size, SizeLoad] = {}
    for part in parts:
        for size, load in part.items():
            loads[size] = _joined(loads[size], load) if size in loads else load
    return tuple(
        sorted(loads.values(), key=lambda load: (-load.images, load.width, load.height))[:MOST_SIZES]
    )


def _joined(one: SizeLoad, other: SizeLoad) -> SizeLoad:
    return SizeLoad(
        one.width,
        one.height,
        one.images + other.images,
        one.guided or other.guided,
        max(one.largest, other.largest),
        tuple(a + b for a, b in zip(one.slots, other.slots, strict=True)),
    )


def loads_to_json(loads: Iterable[SizeLoad]) -> list[dict[str, Any]]:
    return [asdict(load) for load in loads]


def loads_from_json(entries: Iterable[Mapping[str, Any]]) -> tuple[SizeLoad, ...]:
    return tuple(SizeLoad(**{**entry, "slots": tuple(entry["slots"])}) for entry in entries)
