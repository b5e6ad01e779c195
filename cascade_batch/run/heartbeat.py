"""One driver at a time, where the store cannot keep two apart; a warning where it can."""

import logging
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass

from cascade_batch.errors import IntegrityError, StorageError
from cascade_batch.run import paths
from cascade_batch.run.records import encode, read_json
from cascade_batch.storage import Storage

PERIOD_S = 5.0
FRESH_S = 30.0
"""A driver silent for longer is dead and never blocks another."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Driver:
    """`driver.json`: who drives the run, and when it last said so."""

    token: str
    host: str
    time: float
    """Seconds since the epoch, by the driver's clock."""
    stopped: bool
    """It ended cleanly."""

    @property
    def silence(self) -> float:
        """Seconds since it was last heard."""
        return time.time() - self.time

    @property
    def is_alive(self) -> bool:
        return not self.stopped and self.silence < FRESH_S


def read_driver(storage: Storage) -> Driver | None:
    """The last driver of a run, None if there has been none."""
    tree = read_json(storage, paths.DRIVER)
    return None if tree is None else Driver(tree["token"], tree["host"], tree["time"], tree["stopped"])


def other_driver(storage: Storage, token: str) -> tuple[str, float] | None:
    """Host and silence in seconds of another driver that is still alive, None if there is none."""
    driver = read_driver(storage)
    if driver is None or driver.token == token or not driver.is_alive:
        return None
    return driver.host, driver.silence


def beat(storage: Storage, token: str, host: str, stopped: bool = False) -> None:
    """Say that this driver is alive now (or has stopped cleanly)."""
    storage.put(paths.DRIVER, encode(asdict(Driver(token, host, time.time(), stopped))))


class Heartbeat:
    """Writes `driver.json` while the context is open."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._token = uuid.uuid4().hex
        self._host = socket.gethostname()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")

    def check_alone(self, take_over: bool) -> None:
        """Warn of another live driver; on a store without create-only writes refuse unless `take_over`.

        Raises:
            IntegrityError: two drivers would not be safe here.
        """
        found = other_driver(self._storage, self._token)
        if found is None:
            return
        host, silence = found
        what = f"another driver on {host} was alive {silence:.0f} s ago"
        if self._storage.create_only:
            log.warning("%s; both may go on, nothing is lost or doubled", what)
            return
        if take_over:
            log.warning("%s; taking over: if it is alive after all, pictures may be overwritten", what)
            return
        raise IntegrityError(
            what,
            where=self._storage.uri,
            expected="one driver at a time: this store has no create-only writes",
            next_step="stop the other one, wait 30 s, or pass --take-over if it is dead",
        )

    def __enter__(self) -> "Heartbeat":
        beat(self._storage, self._token, self._host)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(timeout=PERIOD_S)
        self._beat(stopped=True)

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self._beat()

    def _beat(self, stopped: bool = False) -> None:
        try:
            beat(self._storage, self._token, self._host, stopped)
        except StorageError as error:
            log.warning("no heartbeat: %s", error)
