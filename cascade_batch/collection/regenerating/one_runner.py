"""One runner for a whole regeneration, which asks it about the cluster before and between its runs."""

from collections.abc import Callable

from cascade_batch.pipeline.runners.runner import Runner


class OneRunner:
    """Makes one runner, however often it is asked for, and closes it in the end."""

    def __init__(self, make: Callable[[], Runner]) -> None:
        self._make = make
        self._made: Runner | None = None

    def __call__(self) -> Runner:
        if self._made is None:
            self._made = self._make()
        return _Borrowed(self._made)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()


class _Borrowed:
    """A runner that whoever borrows it cannot close."""

    def __init__(self, runner: Runner) -> None:
        self.size_pools, self.probe_create_only = runner.size_pools, runner.probe_create_only
        self.weight_digests, self.device_kind = runner.weight_digests, runner.device_kind
        self.tables, self.run = runner.tables, runner.run

    def close(self) -> None:
        """The owner does."""
