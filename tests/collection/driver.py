"""A `cascade-batch` process with short leases: `python -m tests.collection.driver PERIOD_S PAUSE ARGUMENT...`.

After every shard that it has committed it rests while the local file PAUSE is there, so that it is never over before
whoever watches it has acted.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.patience import PATIENCE_S
from tests.run.kills import MARK


class Driver:
    """One in a process of its own, its output in `log`."""

    def __init__(
        self, arguments: Sequence[str], log: Path, period_s: float = 0.5, pause: Path | None = None
    ) -> None:
        self.log = log
        program = [sys.executable, "-m", "tests.collection.driver", str(period_s), str(pause or log / "none")]
        with open(log, "w") as output:
            self.process = subprocess.Popen(
                [*program, *arguments],
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=os.environ | {MARK: str(log)},
            )

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> bool:
        """SIGKILL it; False if it had ended already."""
        self.signal(signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def end(self) -> None:
        if self.process.poll() is None:
            self.kill()


def work(period_s: float, pause: Path, arguments: Sequence[str]) -> int:
    from cascade_batch.cli import main
    from cascade_batch.collection import lease
    from cascade_batch.pipeline.progress import Progress

    add = Progress.add

    def resting(*shard: object) -> None:
        add(*shard)  # type: ignore[arg-type]
        while pause.exists():
            time.sleep(0.05)

    lease.PERIOD_S = period_s
    Progress.add = resting
    return main(arguments)


if __name__ == "__main__":
    sys.exit(work(float(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
