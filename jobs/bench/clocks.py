"""What the processes of a run cost: the kernel's CPU clocks, read once a second, summed by what a process is."""

import threading
import time
from collections import defaultdict

import psutil

PERIOD_S = 0.5
DAEMONS = ("raylet", "gcs_server", "dashboard", "log_monitor", "runtime_env", "plasma")


class CpuClocks:
    """Samples this process and all below it while the context is open.

    A Ray worker says what it runs in its title, and changes it; so each sample's growth is added to what the process
    is at that moment.
    """

    def __init__(self, others: dict[int, str] | None = None) -> None:
        """`others`: further processes to watch, by what they are, such as a store's server."""
        self.samples: list[tuple[float, dict[str, float]]] = []
        self._others = others or {}
        self._seen: dict[int, float] = {}
        self._total: dict[str, float] = defaultdict(float)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "CpuClocks":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def between(self, begin: float, end: float) -> dict[str, float]:
        """CPU seconds by group between two times of `time.time()`, `idle` ones, and `wall` between the samples used.

        What is neither a group's nor idle was taken by other programs of this machine.
        """
        first = min(self.samples, key=lambda s: abs(s[0] - begin))
        last = min(self.samples, key=lambda s: abs(s[0] - end))
        spent = {group: seconds - first[1].get(group, 0.0) for group, seconds in last[1].items()}
        return spent | {"wall": last[0] - first[0]}

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self._sample()

    def _sample(self) -> None:
        me = psutil.Process()
        groups = {me.pid: "driver"} | {p.pid: _group(p) for p in me.children(recursive=True)} | self._others
        for pid, group in groups.items():
            try:
                times = psutil.Process(pid).cpu_times()
            except psutil.Error:
                continue
            used = times.user + times.system
            self._total[group] += used - self._seen.get(pid, 0.0)
            self._seen[pid] = used
        machine = psutil.cpu_times()
        self._total["idle"] = machine.idle + getattr(machine, "iowait", 0.0)
        self.samples.append((time.time(), dict(self._total)))


def _group(process: psutil.Process) -> str:
    try:
        title = " ".join(process.cmdline())
    except psutil.Error:
        return "steps"
    if any(name in title for name in DAEMONS):
        return "Ray"
    if "TimedBA" in title:
        return "pool BA"
    return "pool C" if "TimedC" in title else "steps"
