"""The two stages that images pass, one actor pool for each, and a value for both pools.

Pool C runs the text tower and Stage C, pool BA runs Stages B and A.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, Self, TypeVar

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Stage:
    """What a stage is called, by the place that asks."""

    key: str
    """In the spec (`pools.c`), in `run.json` and in `numerics/`."""
    label: str
    """To people: "pool C"."""
    column: str
    """Before the names of what it cost, in a manifest: `stage_c_seconds`."""
    asked: str
    """Before the names of what images ask of it: `prior_steps`; also its name in the ledger of attempts."""

    @property
    def steps(self) -> str:
        """The column of its denoising steps."""
        return f"{self.asked}_steps"

    @property
    def guidance_scale(self) -> str:
        """The column of its guidance scale."""
        return f"{self.asked}_guidance_scale"

    def cost(self, name: str) -> str:
        """The manifest's column of one of `run.schemas.COST`."""
        return f"{self.column}_{name}"


C = Stage("c", "C", "stage_c", "prior")
BA = Stage("ba", "BA", "stage_ba", "decoder")


@dataclass(frozen=True)
class PerPool(Generic[T]):
    """One value for pool C, one for pool BA; iterates in that order."""

    c: T
    ba: T

    @classmethod
    def of(cls, value: Callable[[Stage], T]) -> "PerPool[T]":
        """The value of each stage."""
        return PerPool(value(C), value(BA))

    def __iter__(self) -> Iterator[T]:
        return iter((self.c, self.ba))

    def __getitem__(self, stage: Stage) -> T:
        return getattr(self, stage.key)

    def map(self, change: Callable[[T], U]) -> "PerPool[U]":
        """Both values changed."""
        return PerPool(change(self.c), change(self.ba))

    def with_each(self, value: Callable[[Stage], T]) -> Self:
        """The same with these values; what a subclass holds besides stays."""
        return replace(self, **PerPool.of(value).named())

    def named(self, prefix: str = "") -> dict[str, T]:
        """Plain values for JSON, by the stages' keys; after `prefix`: `padded_c`."""
        return {f"{prefix}{stage.key}": self[stage] for stage in STAGES}


STAGES = PerPool(C, BA)
