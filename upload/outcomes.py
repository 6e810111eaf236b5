"""The outcomes of sending an image, and which answer means which.

A target sends and returns an `Outcome`. `classify` says what an HTTP answer means; the error codes
of an S3 store are in `s3_target`, built on the same groups of statuses.
"""

from __future__ import annotations

import email.utils
import hashlib
import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError

from config import redact_url
from store.rows import Image

# Statuses by what they mean; all others but 2xx and 3xx mean: try again later.
NOT_ALLOWED: Final = frozenset({401, 403})
NO_SUCH_ADDRESS: Final = frozenset({404, 405})
IMAGE_REFUSED: Final = frozenset({400, 413, 415, 422})
_BUSY: Final = frozenset({429, 502, 503, 504})
_UNEXPECTED_FIELD: Final = "unexpected field"
_MAX_RETRY_AFTER_S: Final = 3600.0
_MAX_LOCATION: Final = 1000


@dataclass(frozen=True)
class Delivered:
    """The server has the image; `location` is where, in the server's own words."""

    location: str | None


@dataclass(frozen=True)
class Deferred:
    """The image must be sent again later.

    `cause` is connection (none could be made), silent (no answer came) or server (it answered).
    `busy`: the server has too much to do, whichever image it gets.
    """

    reason: str
    cause: Literal["connection", "silent", "server"]
    retry_after_s: float | None = None
    busy: bool = False
    captive_portal: bool = False


@dataclass(frozen=True)
class Misconfigured:
    """No image can be delivered until somebody changes the settings."""

    reason: str
    hint: str


@dataclass(frozen=True)
class Rejected:
    """The server refuses this one image."""

    reason: str


Outcome = Delivered | Deferred | Misconfigured | Rejected


class UploadTarget(Protocol):
    """A place that takes images. Each upload worker has one of its own."""

    def send(self, image: Image, jpeg: bytes, *, replay: bool) -> Outcome:
        """Send one image and return the outcome; a network failure is one, too."""

    def close(self) -> None:
        """Close connections."""


def classify(status: int, headers: dict[str, str], body: bytes) -> Outcome:
    """Say what an HTTP answer means. Header names are lower case."""
    text = body.decode("utf-8", "replace")
    if 200 <= status < 300:
        if "text/html" in headers.get("content-type", "").lower():
            reason = "a web page answered instead of the upload server"
            return Deferred(reason, "server", captive_portal=True)
        return Delivered(_location(text))
    said = f"the server answered {status}"
    if 300 <= status < 400:
        try:
            target = redact_url(printable(headers.get("location", "")))
        except ValueError:
            target = "an address that makes no sense"
        return Misconfigured(f"{said}, a redirect to {target}", "Put the final URL in S3_API_URL.")
    if status in NOT_ALLOWED:
        return Misconfigured(f"{said}: not allowed", "Check UPLOAD_AUTH_TOKEN and S3_API_URL.")
    if status in NO_SUCH_ADDRESS:
        return Misconfigured(f"{said}: no such address", "Check S3_API_URL.")
    if status >= 500 and _UNEXPECTED_FIELD in text.lower():
        return Misconfigured(f"{said}: unexpected field", "Check UPLOAD_FIELD_NAME.")
    if status in IMAGE_REFUSED:
        return Rejected(f"{said}: {printable(text)[:200]}".rstrip(": "))
    return try_later(status, said, headers.get("retry-after"))


def try_later(status: int, said: str, retry_after: str | None) -> Deferred:
    """Return `Deferred` for an answer that a later attempt may change."""
    return Deferred(said, "server", _retry_after_s(retry_after), busy=status in _BUSY)


def failure_of(error: BaseException, host: str, timeout_s: float, *, timed_out: bool) -> Outcome:
    """Return the outcome of a request without an answer.

    `timed_out`: the caller's own deadline passed. Other timeouts are seen in `error`.
    """
    parts = list(_chain(error))
    if any(isinstance(part, ssl.SSLCertVerificationError) for part in parts):
        return Misconfigured(
            f"TLS certificate not accepted ({_cause(error)})",
            "Check the clock of this box and the certificate of the server.",
        )
    timeouts = (ConnectTimeoutError, ReadTimeoutError, TimeoutError)
    late = any(isinstance(part, timeouts) for part in parts)
    if any(isinstance(part, (NewConnectionError, ConnectTimeoutError)) for part in parts):
        why = "no answer" if late else _cause(error)
        return Deferred(f"cannot reach {host}: {why}", "connection")
    if late or timed_out:
        return Deferred(f"{host} gave no answer within {timeout_s:g} s", "silent")
    return Deferred(f"{host} broke the connection off: {_cause(error)}", "silent")


def printable(text: str) -> str:
    """Replace control characters in a stranger's text, so that it is harmless in a log."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def idempotency_key(site_id: str, image: Image) -> str:
    """Return a key that is the same whenever the same picture of the same site is sent."""
    text = f"{site_id}\0{image.filename}\0{image.sha256}"
    return hashlib.sha256(text.encode()).hexdigest()


def _retry_after_s(value: str | None) -> float | None:
    """Return the wait that `Retry-After` asks for, at most an hour; `None` for nonsense."""
    value = (value or "").strip()
    if value.isascii() and value.isdecimal():
        return float(min(int(value[:20]), _MAX_RETRY_AFTER_S))
    try:
        moment = email.utils.parsedate_tz(value)
        if moment is None:
            return None
        seconds = email.utils.mktime_tz(moment) - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), _MAX_RETRY_AFTER_S)


def _location(text: str) -> str | None:
    try:
        reply = json.loads(text)
    except (ValueError, RecursionError):
        return None
    value = reply.get("Location") if isinstance(reply, dict) else None
    return printable(value)[:_MAX_LOCATION] if isinstance(value, str) and value else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that requests and urllib3 wrapped in it, the innermost last."""
    inner: BaseException | None = error
    while inner is not None:
        yield inner
        wrapped = (getattr(inner, "reason", None), *inner.args, inner.__context__)
        inner = next((part for part in wrapped if isinstance(part, BaseException)), None)


def _cause(error: BaseException) -> str:
    """Return the innermost error in words, without the URL around it."""
    *_, innermost = _chain(error)
    text = getattr(innermost, "strerror", None) or (str(innermost).rpartition(": ")[2])
    return printable(str(text))[:200] or type(innermost).__name__
