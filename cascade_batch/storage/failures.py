"""Trying again what a store did not answer, for a bounded time, and one clear line about what failed for good.

`answers` says what an exception means. Messages never carry credentials: every text passes through `sanitise`.
"""

import errno
import itertools
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from cascade_batch.errors import StorageError
from cascade_batch.storage.answers import (
    answer_of,
    code_of,
    errno_of,
    is_refused_tls,
    is_transient,
    is_unknown_host,
    is_unreachable,
)
from cascade_batch.storage.urls import HUB, split_url

TRIES = 18
"""Where 30 % of all requests fail, one fails 18 times in a row once in 2.6 billion: a run of a million pictures, some
two million requests, ends in one sitting. Where every request fails at once, it is a minute of waiting."""
TRIES_OF_STRANGERS = 6
"""Where nobody is at the address, nor was before: a wrong one is told in 5 s."""
TRIES_AT_THE_END = 4
"""Once the process is to end, 1 s of waiting: what is committed stands, the rest is for the next sitting."""
FIRST_WAIT = 0.2  # seconds; doubles per try, each wait drawn from the upper half of its range
DOUBLINGS = 5  # so 6.4 s is the longest
PATIENCE = 300.0  # seconds after which nothing is begun again, for stalls cost a time-out per try
TOLD_AT = 7  # tries, about 10 s

CHECK_CREDENTIALS = "check the credentials in this node's environment, profile or role"
LOG_IN = "log in on every node: `hf auth login`, or HF_TOKEN"
CHECK_HUB = "check the network and HF_ENDPOINT, or download the repository and name its folder"
CHECK_ENDPOINT = "check the network and AWS_ENDPOINT_URL; what is committed is safe, resume later"
ADVICE = {  # service error code or exception type -> (what, next step)
    "NoSuchBucket": ("the bucket does not exist", "create the bucket, or correct the URL"),
    "InvalidBucketName": ("the bucket name is not valid", "correct the URL"),
    "AccessDenied": ("access denied", "grant read, write and list on this prefix"),
    "403": ("access denied", "check the credentials and grant read, write and list on this prefix"),
    "InvalidAccessKeyId": ("bad credentials", CHECK_CREDENTIALS),
    "SignatureDoesNotMatch": ("bad credentials", CHECK_CREDENTIALS),
    "InvalidToken": ("bad credentials", CHECK_CREDENTIALS),
    "ExpiredToken": ("expired credentials", "renew the credentials, then resume"),
    "RequestTimeTooSkewed": ("this machine's clock differs from the store's", "set the clock"),
    "NoCredentialsError": ("no credentials found", "set the AWS_* credentials, a profile or a role"),
    "PartialCredentialsError": ("incomplete credentials", CHECK_CREDENTIALS),
    "ProfileNotFound": ("the AWS profile does not exist", "correct AWS_PROFILE"),
    "SSLError": ("the store's TLS certificate was refused", "check AWS_ENDPOINT_URL and AWS_CA_BUNDLE"),
    "PermissionError": ("access denied", "grant read and write on this folder or prefix"),
    "GatedRepoError": ("the repository is gated", f"accept its terms on the hub, then {LOG_IN}"),
    "RepositoryNotFoundError": ("no such repository on the hub, or a private one", f"check its name, or {LOG_IN}"),
    "RevisionNotFoundError": ("the repository has no such revision", "name a branch, tag or commit that it has"),
    "UnknownHost": ("the name of the host is not known", "correct the URL or the endpoint, or check the name service"),
    "OfflineModeIsEnabled": ("the hub is off limits", "unset HF_HUB_OFFLINE, or name a local folder"),
    "HfUriError": ("not a URL of the hub", "write hf://owner/name[@revision][/folder]"),
    "401": ("access denied", CHECK_CREDENTIALS),
    "NotADirectoryError": ("a file stands where a folder is needed", "choose another folder"),
}  # fmt: skip

ANSWERS = (FileExistsError, FileNotFoundError, NotImplementedError)

Result = TypeVar("Result")
log = logging.getLogger(__name__)

ending = threading.Event()
"""Set where the process has been asked to end: whoever waits to try again wakes up, and tries little from then on."""


class _Memory:
    """What this process knows of its stores, for all its threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reached: set[tuple[str | None, ...]] = set()
        self.retries = 0


_memory = _Memory()


def retried(operation: Callable[[], Result], where: str) -> Result:
    """Run `operation`, again after transient failures: at most `TRIES` times, about a minute of waiting.

    A store may ask for longer waits (`Retry-After`), which are kept within `PATIENCE`.
    FileExistsError, FileNotFoundError and NotImplementedError are answers and pass through; a
    missing bucket is a failure.
    Raises StorageError, its `transient` set, for everything else that a store throws.
    """
    began = time.monotonic()
    for tries in itertools.count(1):
        try:
            result = operation()
        except StorageError:
            raise
        except Exception as error:  # libraries raise without a common root
            if answer_of(error):
                reached(where)
            if isinstance(error, ANSWERS) and _is_an_answer(error):
                raise
            pause = _pause(error, where, tries, time.monotonic() - began)
            if pause is None:
                # `from None`: the cause's own text may hold signed URLs or keys
                raise as_storage_error(error, where, tries) from None
            if tries == TOLD_AT:
                log.warning("%s does not answer yet (%s), trying on", sanitise(where), _told(error))
        else:
            reached(where)
            return result
        with _memory.lock:
            _memory.retries += 1
        ending.wait(pause)
    raise AssertionError("unreachable: the count has no end")


def take_retries() -> int:
    """How often this process has tried again since this was last asked."""
    with _memory.lock:
        retries, _memory.retries = _memory.retries, 0
    return retries


def reached(where: str) -> None:
    """Note that the store of this URL is there: from now on its silence is taken for a disturbance."""
    with _memory.lock:
        _memory.reached.add(_store_of(where))


def _is_a_stranger(where: str) -> bool:
    with _memory.lock:
        return _store_of(where) not in _memory.reached


def _store_of(where: str) -> tuple[str | None, ...]:
    """Scheme and host or bucket; the same bucket behind another endpoint is another one."""
    url = split_url(where)
    return url.scheme, url.host, os.environ.get("AWS_ENDPOINT_URL"), os.environ.get("HF_ENDPOINT")


def _is_an_answer(error: BaseException) -> bool:
    """fsspec words failures of other kinds as FileNotFoundError, too."""
    answer = answer_of(error)
    said = answer is None or answer.status in (0, 404, 409, 410, 412, 416, 501)
    return said and code_of(error) != "NoSuchBucket" and not is_transient(error)


def _pause(error: BaseException, where: str, tries: int, seconds: float) -> float | None:
    """Seconds until the next try; None if there is to be none."""
    most = TRIES
    if is_unreachable(error) and _is_a_stranger(where):
        most = TRIES_OF_STRANGERS
    if ending.is_set():
        most = TRIES_AT_THE_END
    if tries >= most or not is_transient(error):
        return None
    longest = FIRST_WAIT * 2 ** min(tries - 1, DOUBLINGS)
    answer = answer_of(error)
    pause = max(random.uniform(longest / 2, longest), answer.seconds_asked if answer else 0.0)
    return pause if seconds + pause <= PATIENCE else None


def as_storage_error(error: BaseException, where: str, tries: int) -> StorageError:
    """One line that says what failed at `where`, and the next step."""
    no_such_host = is_unknown_host(error) and _is_a_stranger(where)
    transient = is_transient(error) and not no_such_host
    check = CHECK_HUB if split_url(where).scheme == HUB else CHECK_ENDPOINT
    what, next_step = ("the store refused", "")
    if is_transient(error):
        times = f"{tries} tries" if tries > 1 else "1 try"
        what, next_step = f"the store kept failing ({times})", check
    answer = answer_of(error)
    names = (
        code_of(error),
        *(kind.__name__ for kind in type(error).__mro__),
        str(answer.status if answer else 0),
    )
    for name in ("UnknownHost" * no_such_host, "SSLError" * is_refused_tls(error), *names):
        if not transient and name in ADVICE:
            what, next_step = ADVICE[name]
            break
    if errno_of(error) == errno.ENOSPC:
        what, next_step = "the disk is full", "free some space, then resume"
    failure = StorageError(f"storage: {what}", where=sanitise(where), got=_told(error), next_step=next_step)
    failure.transient = transient
    return failure


def _told(error: BaseException) -> str:
    # the hub's own words, without its library's advice
    told = getattr(error, "server_message", None) or error
    return sanitise(f"{code_of(error) or type(error).__name__}: {told}")


def sanitise(text: str) -> str:
    """`text` on one line, without user info and query strings of URLs, and without credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN"):
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    text = re.sub(r"://[^/@\s]+@", "://***@", text)
    text = re.sub(r"(://[^\s\"'?]*)\?[^\s\"']*", r"\1?***", text)
    text = re.sub(r"\b((AKIA|ASIA)[A-Z0-9]{12,}|hf_[A-Za-z0-9]{20,})\b", "***", text)
    return " ".join(text.split())[:500]
