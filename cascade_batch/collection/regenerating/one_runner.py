"""One runner for a whole regeneration, which asks it about the cluster before and between its runs."""

from cascade_batch.pipeline.runners.late import LateRunner
from cascade_batch.pipeline.runners.runner import Runner


class OneRunner(LateRunner):
    """Lends one runner, however often it is asked for, and closes it in the end."""

    def __call__(self) -> Runner:
        return _Borrowed(self.made)


class _Borrowed:
    """A runner that whoever borrows it cannot close."""

    def __init__(self, runner: Runner) -> None:
        self.size_pools, self.probe_create_only = runner.size_pools, runner.probe_create_only
        self.weight_digests, self.device_kind = runner.weight_digests, runner.device_kind
        self.tables, self.run = runner.tables, runner.run

    def close(self) -> None:
        """The owner does."""
