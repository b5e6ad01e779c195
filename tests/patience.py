"""How long tests wait. Nothing healthy takes so long, on a machine with ten times its load either: only a hang does."""

import time
from collections.abc import Callable

PATIENCE_S = 240
"""For one process, or one thing that must come. Below the limit of a test, so that what hung is named."""


def wait_until(condition: Callable[[], object], period_s: float = 0.05) -> None:
    """Return once `condition` holds. Raises TimeoutError if it does not come to."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} did not hold within {PATIENCE_S} s")
        time.sleep(period_s)
