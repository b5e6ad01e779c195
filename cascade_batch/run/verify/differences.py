"""What `verify` finds, in a form that both people and tests can read."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

KEPT = 1000
"""Differences kept with their details, so that a run whose every picture is lost fits in memory."""


@dataclass(frozen=True)
class Difference:
    """One object that is not as it should be. Its `kind`:

    missing       a committed object is not there
    damaged       an object does not hold the bytes that were committed
    inconsistent  a record contradicts the plan or another record
    duplicate     an image has more than one manifest row
    orphan        an object that no shard of the plan and no manifest row names
    """

    kind: str
    key: str
    what: str
    shard: int | None = None
    got: object = None
    expected: object = None

    def __str__(self) -> str:
        details = [
            f"{name} {value}" for name, value in (("got", self.got), ("expected", self.expected)) if value
        ]
        return f"{self.kind:<12} {'; '.join([f'{self.key}: {self.what}', *details])}"


@dataclass
class Verification:
    """The outcome. Orphans are differences, but no damage: they block nothing."""

    shards: int
    images: int
    """Planned."""
    shards_done: int = 0
    images_checked: int = 0
    """Pictures that were read back and compared, matching or not."""
    counts: Counter[str] = field(default_factory=Counter)
    """Differences by kind, all of them."""
    differences: list[Difference] = field(default_factory=list)
    """The first `KEPT`."""
    damaged_shards: list[int] = field(default_factory=list)
    """Shards that `reopen` can take back, done or not."""

    @property
    def is_clean(self) -> bool:
        return not self.counts

    def add(self, differences: Iterable[Difference]) -> None:
        for difference in differences:
            self.counts[difference.kind] += 1
            if len(self.differences) < KEPT:
                self.differences.append(difference)
