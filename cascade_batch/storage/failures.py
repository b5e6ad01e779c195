"""What a store's exception means: try again, give up, or a lost race; and one clear line about it.

Every file system library wraps errors its own way, so the facts (service error code, HTTP status,
errno) are looked up along the whole chain of causes. s3fs for one turns a 412 into FileExistsError,
or into a bare `OSError(22)` when the server's error body lacks the condition's name.
Messages never carry credentials: every text passes through `sanitise`.
"""

import errno
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from cascade_batch.errors import StorageError

TRIES = 6
FIRST_WAIT = 0.2  # seconds; doubles per try, each wait drawn from the upper half of its range
LONGEST_WAIT = 4.0

TRANSIENT_CODES = {
    "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "BandwidthLimitExceeded",
    "TooManyRequests", "RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted",
    "ConditionalRequestConflict",
}  # fmt: skip
TRANSIENT_ERRNOS = {
    errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EPIPE, errno.ESTALE, errno.ETIMEDOUT,
    errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENETUNREACH, errno.EHOSTUNREACH,
}  # fmt: skip
TRANSIENT_TYPES = {  # by name: the libraries that define them need not be installed
    "TimeoutError", "HTTPClientError", "EndpointConnectionError", "ConnectTimeoutError",
    "ResponseParserError", "IncompleteRead", "ClientConnectionError", "ClientPayloadError",
    "ConnectionError", "TransportError",
}  # fmt: skip

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
    "OfflineModeIsEnabled": ("the hub is off limits", "unset HF_HUB_OFFLINE, or name a local folder"),
    "HfUriError": ("not a URL of the hub", "write hf://owner/name[@revision][/folder]"),
    "401": ("access denied", CHECK_CREDENTIALS),
    "NotADirectoryError": ("a file stands where a folder is needed", "choose another folder"),
}  # fmt: skip

ANSWERS = (FileExistsError, FileNotFoundError, NotImplementedError)

Result = TypeVar("Result")


def retried(operation: Callable[[], Result], where: str) -> Result:
    """Run `operation`, again after transient failures (at most `TRIES` times, about 8 s of waiting).

    FileExistsError, FileNotFoundError and NotImplementedError are answers and pass through; a
    missing bucket is a failure.
    Raises StorageError, its `transient` set, for everything else that a store throws.
    """
    for attempt in range(TRIES):
        try:
            return operation()
        except StorageError:
            raise
        except Exception as error:  # libraries raise without a common root
            if isinstance(error, ANSWERS) and code_of(error) != "NoSuchBucket":
                raise
            transient = is_transient(error)
            if not transient or attempt == TRIES - 1:
                # `from None`: the cause's own text may hold signed URLs or keys
                raise as_storage_error(error, where, transient) from None
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)
        time.sleep(random.uniform(longest / 2, longest))
    raise AssertionError("unreachable: the last attempt returns or raises")


def as_storage_error(error: BaseException, where: str, transient: bool) -> StorageError:
    """One line that says what failed at `where`, and the next step."""
    tries = f"the store kept failing ({TRIES} tries)"
    check = CHECK_HUB if where.startswith("hf://") else CHECK_ENDPOINT
    what, next_step = (tries, check) if transient else ("the store refused", "")
    for name in (code_of(error), *(kind.__name__ for kind in type(error).__mro__), str(_http_status(error))):
        if not transient and name in ADVICE:
            what, next_step = ADVICE[name]
            break
    if _errno(error) == errno.ENOSPC:
        what, next_step = "the disk is full", "free some space, then resume"
    told = (
        getattr(error, "server_message", None) or error
    )  # the hub's own words, without its library's advice
    got = sanitise(f"{code_of(error) or type(error).__name__}: {told}")
    failure = StorageError(f"storage: {what}", where=sanitise(where), got=got, next_step=next_step)
    failure.transient = transient
    return failure


def is_transient(error: BaseException) -> bool:
    """True where the same call may succeed later: throttling, 5xx, time-outs, resets."""
    code, status = code_of(error), _http_status(error)
    if code in ADVICE:
        return False
    if code in TRANSIENT_CODES or status in (408, 429) or (status >= 500 and status != 501):
        return True
    if status >= 400:
        return False
    names = {kind.__name__ for link in _chain(error) for kind in type(link).__mro__}
    if names & ADVICE.keys():
        return False
    return bool(names & TRANSIENT_TYPES) or _errno(error) in TRANSIENT_ERRNOS


def is_lost_condition(error: BaseException) -> bool:
    """True if the store answered that the write's condition did not hold (HTTP 412)."""
    return code_of(error) in ("PreconditionFailed", "412") or _http_status(error) == 412


def is_not_implemented(error: BaseException) -> bool:
    """True if the store does not know conditional writes (HTTP 501)."""
    return code_of(error) in ("NotImplemented", "501") or _http_status(error) == 501


def code_of(error: BaseException) -> str:
    """The service's own error code, such as `NoSuchBucket`; empty if there is none."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        if isinstance(response, dict) and "Error" in response:
            return str(response["Error"].get("Code", ""))
    return ""


def sanitise(text: str) -> str:
    """`text` on one line, without user info and query strings of URLs, and without credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN"):
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    text = re.sub(r"://[^/@\s]+@", "://***@", text)
    text = re.sub(r"(://[^\s\"'?]*)\?[^\s\"']*", r"\1?***", text)
    text = re.sub(r"\b((AKIA|ASIA)[A-Z0-9]{12,}|hf_[A-Za-z0-9]{20,})\b", "***", text)
    return " ".join(text.split())[:500]


def _http_status(error: BaseException) -> int:
    for link in _chain(error):
        response = getattr(link, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        values = [
            getattr(link, name, None) for name in ("status", "status_code", "code")
        ]  # aiohttp, Azure, gcsfs
        for value in (*values, getattr(response, "status_code", None)):  # the hub's library
            if isinstance(value, int) and 400 <= value < 600:
                return value
    return 0


def _errno(error: BaseException) -> int:
    return next((link.errno for link in _chain(error) if isinstance(link, OSError) and link.errno), 0)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what caused it, outermost first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
