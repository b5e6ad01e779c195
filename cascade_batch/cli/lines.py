"""Lines of progress for logs and pipes: now and then one, because a log is not a film."""

import sys
import time

PERIOD_S = 5.0


class TimedLines:
    """Lines on stderr, at least `PERIOD_S` apart."""

    def __init__(self, first_at_once: bool = False) -> None:
        self._last = 0.0 if first_at_once else time.monotonic()

    def say(self, line: str, last: bool = False) -> None:
        """Print the line if it is time for one, or if it is the last."""
        now = time.monotonic()
        if last or now - self._last >= PERIOD_S:
            self._last = now
            print(line, file=sys.stderr, flush=True)
