"""Who is at work on a collection: one process at a time, told apart without comparing clocks.

The owner counts up `beat` in `lease.json` every `period_s`. Another process watches the count for some periods of its
own time: if it moves the owner is alive, else the lease has expired and is taken over. Every write replaces what was
read, so of two only one succeeds. An owner that was stopped meanwhile finds another's token; what it would still commit
is refused, since whoever takes over makes an empty commit to the tables first.
"""

import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from cascade_batch.collection.delta.table import DeltaTableAt
from cascade_batch.collection.paths import LEASE
from cascade_batch.errors import CascadeError, IntegrityError, StorageError
from cascade_batch.run.records import encode
from cascade_batch.storage import ObjectChanged, ObjectExists, ObjectMissing, Storage
from cascade_batch.storage.failures import ending

PERIOD_S = 5.0
EXPIRES_PERIODS = 6
"""Of the owner's, 30 s in all, in which its count has not moved."""
TOLD_EVERY_S = 60.0
RELEASED = encode({"token": None})

IfBusy = Literal["fail", "skip", "wait"]
log = logging.getLogger(__name__)


class Busy(CascadeError):
    """Another process is at work on the collection."""

    busy = True
    host, doing, since = "", "", ""
    """`since` by the clock of `host`."""
    watched_s = 0.0
    """How long it was watched, or waited for."""


class LostLease(CascadeError):
    """Another process has taken over; what this one has begun must not be committed."""


@dataclass(frozen=True)
class Owner:
    """`lease.json` of a process at work."""

    token: str
    host: str
    what: str
    since: str
    """ISO 8601, by the clock of its host; for people."""
    beat: int
    period_s: float

    @property
    def expires_s(self) -> float:
        return EXPIRES_PERIODS * self.period_s


def read_owner(storage: Storage) -> Owner | None:
    """Who holds the lease, alive or not; None if it was released or never taken."""
    data = _read(storage)
    return None if data is None else _owner_of(data, storage)


class Lease:
    """Held by this process, until another takes it over."""

    def __init__(self, storage: Storage, owner: Owner) -> None:
        self._storage, self._owner = storage, owner
        self._renewed = time.monotonic()
        self._lock = threading.Lock()
        self._stop, self._lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="lease")

    @property
    def token(self) -> str:
        return self._owner.token

    def check(self) -> None:
        """Call before each commit. Raises LostLease; StorageError if the store does not answer."""
        if time.monotonic() - self._renewed > 2 * self._owner.period_s:  # this process may have been stopped
            self._renew()
        if self._lost.is_set():
            raise LostLease(
                "the lease of the collection is lost",
                where=self._storage.url(LEASE),
                got="another process took it over while this one was silent",
                next_step="repeat the command: it goes on from what is committed",
            )

    def begin(self) -> None:
        self._thread.start()

    def end(self, release: bool) -> None:
        """Renew no more. `release` lets the next process begin at once; else the lease expires."""
        self._stop.set()
        self._thread.join()
        if release and not self._lost.is_set():
            with suppress(StorageError):
                self._storage.replace(LEASE, RELEASED, _data(self._owner))

    def _run(self) -> None:
        while not self._stop.wait(self._owner.period_s) and not self._lost.is_set():
            try:
                self._renew()
            except StorageError as error:
                log.warning("the lease was not renewed: %s", error)

    def _renew(self) -> None:
        with self._lock:
            beaten = replace(self._owner, beat=self._owner.beat + 1)
            try:
                self._storage.replace(LEASE, _data(beaten), _data(self._owner))
            except (ObjectChanged, ObjectMissing):
                self._lost.set()
                return
            self._owner, self._renewed = beaten, time.monotonic()


@contextmanager
def holding(
    storage: Storage,
    what: str,
    *,
    if_busy: IfBusy = "fail",
    tables: Sequence[DeltaTableAt] = (),
    wait_s: float | None = None,
    period_s: float | None = None,
) -> Iterator[Lease]:
    """The lease of the collection while the context is open.

    Args:
        what: the command, for others to read.
        if_busy: "wait" waits for whoever is at work, for `wait_s` seconds if that is given, else without an end.
        period_s: between two signs of life, `PERIOD_S` by default.
        tables: fenced if the lease is taken over from a process that died or was stopped.

    Raises:
        Busy: another process is at work, or still was after `wait_s`.
    """
    since = datetime.now(UTC).isoformat(timespec="seconds")
    owner = Owner(uuid.uuid4().hex, socket.gethostname(), what, since, 0, period_s or PERIOD_S)
    lease = Lease(storage, owner)
    was_taken_over = _take(storage, owner, if_busy == "wait", wait_s)
    lease.begin()
    is_alone = False
    try:
        if was_taken_over:
            for table in tables:
                table.fence(token=f"fence-{owner.token}")
        is_alone = True
        yield lease
    finally:
        lease.end(release=is_alone)  # unless the last owner may commit yet: who takes over next fences again


def _take(storage: Storage, owner: Owner, waits: bool, wait_s: float | None) -> bool:
    """Become the owner. True if the lease was taken over from another process. Raises Busy."""
    watch = _Watch(storage, waits, wait_s)
    while True:
        found = _read(storage)
        other = None if found is None else _owner_of(found, storage)
        if other is None or watch.is_silent(found, other):
            try:
                if found is None:
                    storage.create(LEASE, _data(owner))
                else:
                    storage.replace(LEASE, _data(owner), found)
                return other is not None
            except (ObjectExists, ObjectMissing):  # another one was quicker
                continue
        ending.wait(watch.poll_s)


class _Watch:
    """What a process that wants the lease has seen of its owner."""

    def __init__(self, storage: Storage, waits: bool, wait_s: float | None) -> None:
        self._where, self._waits, self._wait_s = storage.url(LEASE), waits, wait_s
        self._seen: bytes | None = None
        self._moved, self._silence = False, 0.0
        self._began = self._last = self._told = time.monotonic()
        self.poll_s = 1.0

    def is_silent(self, found: bytes | None, owner: Owner) -> bool:
        """Whether this owner has not moved for as long as it may. Raises Busy if it moves and is not waited for."""
        now = time.monotonic()
        self.poll_s = min(1.0, owner.period_s / 5)
        moved = self._seen is not None and found != self._seen
        # of a gap in which this process saw nothing, stopped or without the store, only a little counts
        self._silence += min(now - self._last, 3 * self.poll_s)
        self._last = now
        if self._seen is None:
            told = (owner.what, owner.host, owner.since, owner.expires_s)
            log.warning(
                "%s on %s is at work since %s, or died: watching for a sign of life, %.0f s at most", *told
            )
        if found != self._seen:
            self._seen, self._silence = found, 0.0
        self._moved |= moved
        if self._is_over(now) or (moved and not self._waits):
            raise self._busy(owner, now)
        if self._waits and now - self._told >= TOLD_EVERY_S:
            self._told = now
            log.info("waiting for %s on %s, at work since %s", owner.what, owner.host, owner.since)
        return self._silence >= owner.expires_s

    def _is_over(self, now: float) -> bool:
        return ending.is_set() or (self._wait_s is not None and now - self._began >= self._wait_s)

    def _busy(self, owner: Owner, now: float) -> Busy:
        watched = now - self._began
        busy = Busy(
            f"{owner.what} is at work on this collection, on {owner.host} since {owner.since}",
            where=self._where,
            got=f"{'signs of life' if self._moved else 'no sign of life yet'} in {watched:.0f} s of watching",
            expected=f"one process at a time; it counts as dead after {owner.expires_s:.0f} s without a sign",
            next_step="try again later, or wait for it: --if-busy wait",
        )
        busy.host, busy.doing, busy.since, busy.watched_s = owner.host, owner.what, owner.since, watched
        return busy


def _read(storage: Storage) -> bytes | None:
    try:
        return storage.read(LEASE)
    except ObjectMissing:
        return None


def _owner_of(data: bytes, storage: Storage) -> Owner | None:
    try:
        tree = json.loads(data)
        return None if tree["token"] is None else Owner(**tree)
    except (ValueError, TypeError, KeyError):
        raise IntegrityError(
            "the lease cannot be read",
            where=storage.url(LEASE),
            got=repr(data[:80]),
            next_step="delete it once no process is at work on the collection",
        ) from None


def _data(owner: Owner) -> bytes:
    return encode(asdict(owner))
