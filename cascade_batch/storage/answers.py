"""What an exception tells of the store's answer: which one came, whole, or that none did.

Every file system library wraps errors its own way, so the facts (service error code, HTTP status, errno) are looked
up along the chain of causes, outermost first. The first link that knows decides: what lies behind it may belong to an
earlier request, such as the 412 after which a read failed. s3fs for one turns a 412 into FileExistsError, or into a
bare `OSError(22)` when the server's error body lacks the condition's name.
"""

import errno
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

TRANSIENT_CODES = {
    "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "BandwidthLimitExceeded",
    "TooManyRequests", "RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted",
    "ConditionalRequestConflict",
    "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch",  # the request itself was torn on its way
}  # fmt: skip
TRANSIENT_STATUSES = {408, 425, 429}
PERMANENT_FROM_500 = {501, 505, 507, 511}
"""Not implemented, another HTTP, a full store, a network to log in to: these ask for a person."""

TRANSIENT_ERRNOS = {
    errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EPIPE, errno.ESTALE, errno.ETIMEDOUT,
    errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENETUNREACH, errno.EHOSTUNREACH,
}  # fmt: skip
NOBODY_THERE = {errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH}
UNKNOWN_HOST = {socket.EAI_NONAME, socket.EAI_NODATA}

TRANSPORTS = {
    "aiohttp", "httpx", "httpx2", "httpcore", "httpcore2", "urllib3", "requests", "http", "ssl", "socket", "azure",
}  # fmt: skip
"""Packages whose exceptions arise between the first byte sent and the last one of an answer."""
PARSERS = ("aiohttp.http_exceptions", "botocore.parsers", "xml.", "json.")
"""What reads answers, and so tells of one that is not whole or not well formed."""
BOTOCORE_ON_THE_WAY = {"HTTPClientError", "ConnectionError", "IncompleteReadError", "FlexibleChecksumError"}
"""botocore keeps all its exceptions in one module: these bases are those of the way, the others come before it."""
NEVER_SENT = {
    "InvalidURL", "NonHttpUrlClientError", "UnsupportedProtocol", "LocalProtocolError", "InvalidSchema",
    "MissingSchema", "OfflineModeIsEnabled", "ClientAuthenticationError", "CredentialUnavailableError",
}  # fmt: skip
"""Raised by transports before they send anything."""
REFUSED_TLS = {
    "CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNSUPPORTED_PROTOCOL",
    "TLSV1_ALERT_PROTOCOL_VERSION", "TLSV1_ALERT_UNKNOWN_CA", "SSLV3_ALERT_HANDSHAKE_FAILURE",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED",
}  # fmt: skip
"""A handshake that ends so ends so again; any other end of one is a lost connection."""


@dataclass(frozen=True)
class Answer:
    """A store's whole answer that is an error. `code` is the service's own, such as `NoSuchBucket`."""

    status: int
    code: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def may_pass(self) -> bool:
        """Whether the same request may be answered otherwise later: throttling, conflicts, most of 5xx."""
        if self.code in TRANSIENT_CODES or self.status in TRANSIENT_STATUSES:
            return True
        return self.status >= 500 and self.status not in PERMANENT_FROM_500

    @property
    def seconds_asked(self) -> float:
        """How long the store asks to be left alone: by `Retry-After`, or to the end of the hub's window; else 0."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = headers.get("retry-after", "")
        if asked.isdigit():
            return float(asked)
        if asked:
            return _seconds_until(asked)
        window = re.search(r"r=0;t=(\d+)", headers.get("ratelimit", ""))
        return float(window[1]) if window else 0.0


def answer_of(error: BaseException) -> Answer | None:
    """The answer that this error tells of; None if none came whole, or nothing was asked."""
    for link in _chain(error):
        if _is_malformed(link):
            return None
        if answer := _answer_in(link):
            return answer
        if _arose_on_the_way(link):
            return None
    return None


def is_transient(error: BaseException) -> bool:
    """True where the same call may succeed later.

    An answer is judged by what it says. Without one, whatever arose on the way is transient, and what came before it
    is not: missing credentials, a refused certificate, a URL that is none, the local disk's refusals.
    """
    if answer := answer_of(error):
        return answer.may_pass
    links = list(_chain(error))
    if is_refused_tls(error) or any(type(link).__name__ in NEVER_SENT for link in links):
        return False
    return any(_is_malformed(link) or _arose_on_the_way(link) for link in links)


def is_refused_tls(error: BaseException) -> bool:
    """True for a certificate that is not trusted, or a peer that speaks no TLS, or another one."""
    links = (link for link in _chain(error) if isinstance(link, ssl.SSLError))
    return any(isinstance(link, ssl.SSLCertVerificationError) or link.reason in REFUSED_TLS for link in links)


def is_unreachable(error: BaseException) -> bool:
    """True if there is nobody at the address: a wrong one, or a store that is down."""
    errnos = {link.errno for link in _chain(error) if isinstance(link, OSError)}
    return is_unknown_host(error) or bool(errnos & NOBODY_THERE)


def is_unknown_host(error: BaseException) -> bool:
    """True if the name service knows no such host."""
    return any(isinstance(link, socket.gaierror) and link.errno in UNKNOWN_HOST for link in _chain(error))


def is_lost_condition(error: BaseException) -> bool:
    """True if the store answered that the write's condition did not hold (HTTP 412)."""
    answer = answer_of(error)
    return answer is not None and (answer.status == 412 or answer.code in ("PreconditionFailed", "412"))


def is_not_implemented(error: BaseException) -> bool:
    """True if the store does not know conditional writes (HTTP 501)."""
    answer = answer_of(error)
    return answer is not None and (answer.status == 501 or answer.code in ("NotImplemented", "501"))


def code_of(error: BaseException) -> str:
    """The service's own error code, such as `NoSuchBucket`; empty if there is none."""
    answer = answer_of(error)
    return answer.code if answer else ""


def errno_of(error: BaseException) -> int:
    """The operating system's error number, 0 if there is none."""
    return next((link.errno for link in _chain(error) if isinstance(link, OSError) and link.errno), 0)


def _answer_in(link: BaseException) -> Answer | None:
    response: Any = getattr(link, "response", None)
    if isinstance(response, dict):  # botocore
        metadata = response.get("ResponseMetadata", {})
        status, code = metadata.get("HTTPStatusCode", 0), response.get("Error", {}).get("Code", "")
        return Answer(int(status), str(code), metadata.get("HTTPHeaders", {}))
    # in this order aiohttp, Azure, gcsfs; the hub's library
    for owner, name in ((link, "status"), (link, "status_code"), (link, "code"), (response, "status_code")):
        value = getattr(owner, name, None)
        if isinstance(value, int) and 400 <= value < 600:
            headers = getattr(link, "headers", None) or getattr(response, "headers", None) or {}
            return Answer(value, "", headers)
    return None


def _is_malformed(link: BaseException) -> bool:
    """Those of aiohttp's parser have the status 400, with which a server would answer them; we are the client."""
    cause = link.__cause__
    return any(type(at).__module__.startswith(PARSERS) for at in (link, cause) if at is not None)


def _arose_on_the_way(link: BaseException) -> bool:
    kinds = type(link).__mro__
    if any(kind.__module__.split(".")[0] in TRANSPORTS for kind in kinds):
        return True
    if any(
        kind.__module__ == "botocore.exceptions" and kind.__name__ in BOTOCORE_ON_THE_WAY for kind in kinds
    ):
        return True
    if link.__cause__ is not None:  # s3fs words many an answer as an OSError
        return False
    on_the_way = isinstance(link, ConnectionError | TimeoutError | EOFError)
    return on_the_way or (isinstance(link, OSError) and link.errno in TRANSIENT_ERRNOS)


def _seconds_until(date: str) -> float:
    try:
        then = parsedate_to_datetime(date)
    except ValueError:
        return 0.0
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what caused it, outermost first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__  # even where it is not to be shown: httpcore hides TLS so
