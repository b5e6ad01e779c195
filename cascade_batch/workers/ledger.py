"""Who tried what how often: told before each shard, so that it survives the death of the worker.

On its last attempt a shard runs one prompt at a time, each announced first. A prompt that was
announced when the worker died is failed in the next attempt, and its shard-mates go on.
"""

from dataclasses import dataclass, field
from typing import Protocol

TAKES = 3
"""Times that a shard may be taken for each attempt that it may have."""


@dataclass(frozen=True)
class Attempt:
    """What a worker may do with a shard now."""

    number: int
    one_by_one: bool
    deadly: frozenset[int] = frozenset()
    """Prompts (`row` of the image requests) that killed their worker too often."""
    hopeless: bool = False
    """The worker keeps dying, and it is no prompt's doing: the shard is to be left undone."""


class Ledger(Protocol):
    def take(self, stage: str, shard: int) -> Attempt: ...

    def begin(self, stage: str, shard: int) -> None: ...

    def announce(self, stage: str, shard: int, prompt: int) -> None: ...

    def finish(self, stage: str, shard: int) -> None: ...


@dataclass
class _Open:
    taken: int = 0
    attempts: int = 0
    announced: int | None = None
    deadly: set[int] = field(default_factory=set)


class AttemptLedger:
    """The counts, kept outside the workers that may die."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[tuple[str, int], _Open] = {}

    def take(self, stage: str, shard: int) -> Attempt:
        """What the next attempt may do. A worker has the shard in hand, perhaps while it renders another one.

        If it dies of that other one, this shard is taken again without an attempt more, so it is only given up for
        that after many times.
        """
        entry = self._open.setdefault((stage, shard), _Open())
        if entry.announced is not None:  # left so by a worker that died
            entry.deadly.add(entry.announced)
            entry.announced = None
        entry.taken += 1
        number, most = entry.attempts + 1, 2 * self._limit + len(entry.deadly)
        return Attempt(
            number,
            one_by_one=number >= self._limit,
            deadly=frozenset(entry.deadly),
            hopeless=number > most or entry.taken > TAKES * most,
        )

    def begin(self, stage: str, shard: int) -> None:
        """Count an attempt: the shard's rendering starts."""
        self._open[stage, shard].attempts += 1

    def announce(self, stage: str, shard: int, prompt: int) -> None:
        """The worker starts on this prompt alone; if it dies now, the prompt did it."""
        self._open[stage, shard].announced = prompt

    def finish(self, stage: str, shard: int) -> None:
        """No prompt is to blame any more. The count stays: a worker may die handing its results on."""
        self._open[stage, shard].announced = None
