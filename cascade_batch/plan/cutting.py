"""Cutting the prompts of one file into shards: whole prompts while they fit, no loop over rows."""

from dataclasses import dataclass

import numpy as np

PIXEL_BYTES = 1_000_000_000
"""Raw RGB bytes of a shard's images at most: they are in memory at once between Stage A and the PNGs."""
WINDOW = 2**18
"""Rows whose sums are held at a time."""


@dataclass(frozen=True)
class Limits:
    """What one shard may hold at most."""

    prompts: int
    images: int
    pixel_bytes: int = PIXEL_BYTES


@dataclass(frozen=True)
class Cuts:
    """The shards of one file in order, four arrays (n,) int64 as in `run.schemas.PLAN`."""

    first_row: np.ndarray
    rows: np.ndarray
    first_image: np.ndarray
    images: np.ndarray


def cut_file(images: np.ndarray, image_bytes: np.ndarray, limits: Limits) -> Cuts:
    """The shards of a file with these prompts.

    Args:
        images: (rows,) images of each prompt, at least 1.
        image_bytes: (rows,) raw RGB bytes of one image of each prompt.

    Every shard takes the prompts that follow while all limits hold. A prompt that is too big for a shard
    of its own fills several, which hold nothing else.
    """
    bounds = _bounds(images, image_bytes, limits)
    first, rows = bounds[:-1], np.diff(bounds)
    if len(first) == 0:
        return Cuts(first, rows, first, rows)
    total = np.add.reduceat(images, first, dtype=np.int64)
    room = np.minimum(limits.images, np.maximum(1, limits.pixel_bytes // image_bytes[first].astype(np.int64)))
    room = np.where(rows == 1, room, total)
    pieces = -(-total // room)
    first, rows, total, room = (np.repeat(a, pieces) for a in (first, rows, total, room))
    piece = np.arange(len(first)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return Cuts(first, rows, piece * room, np.minimum(room, total - piece * room))


def _bounds(images: np.ndarray, image_bytes: np.ndarray, limits: Limits) -> np.ndarray:
    """First row of every shard, and the number of rows: (shards + 1,) int64."""
    rows, bounds, at = len(images), [0], 0
    while at < rows:
        base, stop = at, min(rows, at + max(WINDOW, limits.prompts + 1))
        ends = _ends(images[base:stop], image_bytes[base:stop], limits)
        while at < stop:
            end = base + ends.item(at - base)
            if end == stop < rows:
                break  # it may go on beyond this window
            bounds.append(end)
            at = end
    return np.array(bounds, np.int64)


def _ends(images: np.ndarray, image_bytes: np.ndarray, limits: Limits) -> np.ndarray:
    """For a shard that starts at each row: the row after its last one."""
    images = images.astype(np.int64)
    pixel_bytes = np.minimum(images * image_bytes, limits.pixel_bytes + 1)  # keeps the sums within int64
    row = np.arange(len(images))
    end = np.minimum(row + limits.prompts, len(images))
    for amounts, limit in ((images, limits.images), (pixel_bytes, limits.pixel_bytes)):
        before = np.concatenate([[0], np.cumsum(amounts)])
        end = np.minimum(end, np.searchsorted(before, before[:-1] + limit, side="right") - 1)
    return np.maximum(end, row + 1)
