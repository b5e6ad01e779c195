"""A storage whose n-th write fails: the driver dies there, or its store keeps failing, or an answer is lost.

Every object of a run is written by `Storage._put_once`, so that is where writes are counted and made to fail,
heartbeats included (they beat once at the start and once at the end of a short sitting).
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from cascade_batch.run import heartbeat
from cascade_batch.storage import Storage, failures
from cascade_batch.workers import committing

Way = Literal["before it landed", "after it landed"]
Failure = Literal["the driver dies", "the store keeps failing", "one answer is lost"]


class Died(BaseException):
    """The driver is gone: nothing of ours may catch this, as nothing catches SIGKILL."""


@dataclass
class Writes:
    """Every write of a sitting, retries of one write counted once; number `fail_at` fails (0: none does)."""

    fail_at: int = 0
    way: Way = "before it landed"
    failure: Failure = "the driver dies"
    keys: list[str] = field(default_factory=list)
    attempts_of_last: int = 0
    dead: bool = False

    def put(self, put: Any, storage: Storage, key: str, data: bytes, *how: Any) -> None:
        if self.dead:
            raise Died(key)
        if self.attempts_of_last and self.attempts_of_last < self._times():
            assert key == self.keys[-1], "only the write that failed is tried again"
        else:
            self.keys.append(key)
            self.attempts_of_last = 0
        if len(self.keys) != self.fail_at or self.attempts_of_last >= self._times():
            return put(storage, key, data, *how)
        self.attempts_of_last += 1
        if self.way == "after it landed" and self.attempts_of_last == 1:
            with suppress(FileExistsError):  # an answer, and as lost as any other
                put(storage, key, data, *how)
        if self.failure == "the driver dies":
            self.dead = True
            raise Died(key)
        raise ConnectionResetError(104, "the store hung up")

    def _times(self) -> int:
        return {"the driver dies": 1, "the store keeps failing": failures.TRIES, "one answer is lost": 1}[
            self.failure
        ]


@contextmanager
def failing_writes(writes: Writes) -> Iterator[Writes]:
    """Count the writes of every Storage, one at a time and in one order, and make them fail as told."""
    with pytest.MonkeyPatch.context() as patch:
        put = Storage._put_once
        patch.setattr(Storage, "_put_once", lambda storage, *arguments: writes.put(put, storage, *arguments))
        patch.setattr(heartbeat, "PERIOD_S", 1e6)
        patch.setattr(committing, "UPLOADS", 1)
        patch.setattr(failures, "FIRST_WAIT", 0.0)
        yield writes
