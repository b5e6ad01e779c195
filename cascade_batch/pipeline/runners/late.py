"""A runner that is made when something is first asked of it, so that a finished run starts neither Ray nor torch."""

from collections.abc import Callable, Mapping
from functools import cached_property

from cascade_batch.pipeline.runners.runner import Runner
from cascade_batch.weights import Model


class LateRunner:
    """Of one sitting."""

    def __init__(self, make_runner: Callable[[], Runner]) -> None:
        self._make_runner = make_runner
        self._digests: dict[str, str] | None = None

    @cached_property
    def made(self) -> Runner:
        return self._make_runner()

    def weight_digests(self, model: Model, known: Mapping[str, str] | None) -> dict[str, str]:
        """As `Runner.weight_digests`, but the weights are read once."""
        if self._digests is None:
            self._digests = self.made.weight_digests(model, known)
        return self._digests

    def close(self) -> None:
        if "made" in self.__dict__:
            self.made.close()
