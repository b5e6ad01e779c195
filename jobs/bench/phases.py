"""Where the time of a command goes: functions of the product that keep time, each without those that it calls."""

import functools
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import psutil

REST = "join"


def cpu_s() -> float:
    """CPU seconds of this process."""
    return sum(os.times()[:2])


class Phases:
    """Seconds by phase, each moment in one; what no function has for its own is the rest."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._clock = clock
        self._now, self._since = REST, clock()

    def watch(self, phase: str, owner: Any, name: str) -> None:
        """Count the calls of a function, by the name that its caller has for it, to a phase."""
        setattr(owner, name, self._timed(phase, getattr(owner, name)))

    def ended(self) -> Mapping[str, float]:
        self._enter(REST)
        return dict(self.seconds)

    def _timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **named: Any) -> Any:
            before = self._enter(phase)
            try:
                return function(*args, **named)
            finally:
                self._enter(before)

        return timed

    def _enter(self, phase: str) -> str:
        now, before = self._clock(), self._now
        self.seconds[before] += now - self._since
        self._now, self._since = phase, now
        return before


class Watch:
    """The memory of a process and of all that it started, looked at from outside while it lives."""

    def __init__(self, pid: int, every_s: float = 0.05) -> None:
        self.peak_mb, self.alone_mb = 0.0, 0.0
        self._cpu_s: dict[int, float] = {}
        self._process, self._every_s = psutil.Process(pid), every_s
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    @property
    def others_cpu_s(self) -> float:
        """CPU seconds of all that it started, as far as they were seen."""
        return sum(self._cpu_s.values())

    def join(self) -> None:
        self._thread.join()

    def _look(self) -> None:
        while self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE:
            with suppress(psutil.Error):
                resident = [self._process.memory_info().rss]
                for child in self._process.children(recursive=True):
                    with suppress(psutil.Error):
                        resident.append(child.memory_info().rss)
                        self._cpu_s[child.pid] = sum(child.cpu_times()[:2])
                self.peak_mb = max(self.peak_mb, sum(resident) / 2**20)
                self.alone_mb = max(self.alone_mb, resident[0] / 2**20)
            time.sleep(self._every_s)
