"""One driver at a time, where the store cannot keep two apart; a warning where it can."""

import logging
import socket
import threading
import uuid

from cascade_batch.errors import IntegrityError, StorageError
from cascade_batch.run.records import beat, other_driver
from cascade_batch.storage import Storage

PERIOD_S = 5.0

log = logging.getLogger(__name__)


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
