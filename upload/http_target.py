"""Where images go and what each answer means."""

from __future__ import annotations

import email.utils
import hashlib
import json
import logging
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
)

from config import UploadConfig, redact_url
from runtime.version import __version__
from store.rows import Image, iso
from upload.request_deadline import Deadline

_log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S: Final = 5.0
_MAX_REPLY_BYTES: Final = 65_536
_MAX_RETRY_AFTER_S: Final = 3600.0
_MAX_LOCATION: Final = 1000
_REFUSED_IMAGE: Final = frozenset({400, 413, 415, 422})
BUSY: Final = frozenset({429, 502, 503, 504})
_WRONG_SET_UP: Final = frozenset({401, 403, 404, 405})
TimeoutErrors: Final = (
    requests.exceptions.Timeout,
    ConnectTimeoutError,
    ReadTimeoutError,
    TimeoutError,
)
_PORTS: Final = {"http": 80, "https": 443}
_SOCKS_PORT: Final = 1080
_UNEXPECTED_FIELD: Final = "unexpected field"


@dataclass(frozen=True)
class Delivered:
    """The server has the image; `location` is its own word for where."""

    location: str | None


@dataclass(frozen=True)
class Deferred:
    """Not now: try again.

    `cause` is connection (none came about), silent (the connection gave no answer) or server;
    `busy` tells that the server has too much to do, whichever image it gets.
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
    """The server refuses this very image."""

    reason: str


Outcome = Delivered | Deferred | Misconfigured | Rejected


class UploadTarget(Protocol):
    """A place that takes images. Each upload worker has one of its own."""

    def send(self, image: Image, jpeg: bytes, *, replay: bool) -> Outcome:
        """Deliver one image and say how that went; never raises for what a network does."""

    def close(self) -> None:
        """Close connections."""


def idempotency_key(site_id: str, image: Image) -> str:
    """Return the key that stays the same for the same picture of the same site."""
    text = f"{site_id}\0{image.filename}\0{image.sha256}"
    return hashlib.sha256(text.encode()).hexdigest()


def first_hop(config: UploadConfig) -> tuple[str, int]:
    """Return the host and port that a connection has to be opened to for an upload.

    It is the server, or the proxy of the environment, behind which nothing can be looked for.
    """
    url = config.server_url
    if not config.is_s3:
        url = select_proxy(url, get_environ_proxies(url)) or url
    parts = urlsplit(url if "://" in url else f"http://{url}")
    return parts.hostname or "", parts.port or _PORTS.get(parts.scheme, _SOCKS_PORT)


class HttpTarget:
    """Upload by `POST` of a multipart form with one file."""

    def __init__(self, config: UploadConfig, site_id: str) -> None:
        self._config = config
        self._site_id = site_id
        self._deadline = Deadline()
        self._session = _Session()
        self._session.headers.update(
            {"User-Agent": f"camera-capture/{__version__}", "X-Site-Id": site_id}
        )
        self._session.auth = _Bearer(config.auth_token)
        self._session.mount("http://", _DeadlineAdapter(self._deadline))
        self._session.mount("https://", _DeadlineAdapter(self._deadline))
        self._blank: requests.PreparedRequest | None = None
        self._how: dict[str, Any] = {}

    def send(self, image: Image, jpeg: bytes, *, replay: bool) -> Outcome:
        """Post the image; what the server answers is classified by `classify`."""
        timeout_s = self._config.timeout_s
        try:
            with (
                self._deadline.within(timeout_s),
                self._session.send(
                    self._request(image, jpeg, replay),
                    timeout=(min(_CONNECT_TIMEOUT_S, timeout_s), timeout_s),
                    allow_redirects=False,
                    **self._how,
                ) as reply,
            ):
                return classify(
                    reply.status_code, dict(reply.headers.lower_items()), _body_of(reply)
                )
        except (requests.exceptions.RequestException, HTTPError, OSError, ValueError) as error:
            host = urlsplit(self._config.url).hostname or ""
            passed = self._deadline.passed
            return failure_of(error, host, self._config.timeout_s, passed=passed)

    def _request(self, image: Image, jpeg: bytes, replay: bool) -> requests.PreparedRequest:
        if self._blank is None:
            # What is the same for every image, proxies and certificates of the environment among
            # it, is looked up once: for each it takes a third of an upload's processor time.
            url = self._config.url
            how = self._session.merge_environment_settings(url, {}, True, None, None)
            self._how = dict(how)
            self._blank = self._session.prepare_request(requests.Request("POST", url))
            del self._blank.headers["Content-Length"]
        request = self._blank.copy()
        request.headers["Idempotency-Key"] = idempotency_key(self._site_id, image)
        request.prepare_body(
            _metadata(image, replay) if self._config.metadata else None,
            {self._config.field_name: (image.filename, jpeg, "image/jpeg")},
        )
        return request

    def close(self) -> None:
        """Close connections."""
        self._session.close()
        self._deadline.close()


def failure_of(error: BaseException, host: str, timeout_s: float, *, passed: bool) -> Outcome:
    """Say what it means that no answer came; `passed` tells that the deadline cut the request."""
    parts = list(_chain(error))
    if any(isinstance(part, ssl.SSLCertVerificationError) for part in parts):
        return Misconfigured(
            f"TLS certificate not accepted ({_cause(error)})",
            "Check the clock of this box and the certificate of the server.",
        )
    timed_out = any(isinstance(part, TimeoutErrors) for part in parts)
    if any(isinstance(part, (NewConnectionError, ConnectTimeoutError)) for part in parts):
        why = "no answer" if timed_out else _cause(error)
        return Deferred(f"cannot reach {host}: {why}", "connection")
    if passed or timed_out:
        return Deferred(f"{host} gave no answer within {timeout_s:g} s", "silent")
    return Deferred(f"{host} broke the connection off: {_cause(error)}", "silent")


def classify(status: int, headers: dict[str, str], body: bytes) -> Outcome:
    """Say what an answer means. Header names are lower case."""
    text = body.decode("utf-8", "replace")
    if 200 <= status < 300:
        if "text/html" in headers.get("content-type", "").lower():
            reason = "a web page answered instead of the upload server"
            return Deferred(reason, "server", captive_portal=True)
        return Delivered(_location(text))
    said = f"the server answered {status}"
    if 300 <= status < 400:
        target = _redacted(printable(headers.get("location", "")))
        return Misconfigured(f"{said}, a redirect to {target}", "Put the final URL in S3_API_URL.")
    if status in (401, 403):
        return Misconfigured(f"{said}: not allowed", "Check UPLOAD_AUTH_TOKEN and S3_API_URL.")
    if status in _WRONG_SET_UP:
        return Misconfigured(f"{said}: no such address", "Check S3_API_URL.")
    if status >= 500 and _UNEXPECTED_FIELD in text.lower():
        return Misconfigured(f"{said}: unexpected field", "Check UPLOAD_FIELD_NAME.")
    if status in _REFUSED_IMAGE:
        return Rejected(f"{said}: {printable(text)[:200]}".rstrip(": "))
    wait_s = retry_after_s(headers.get("retry-after"))
    return Deferred(said, "server", wait_s, busy=status in BUSY)


def _body_of(reply: requests.Response) -> bytes:
    """Read the start of a body; the status counts even when the rest is cut off."""
    try:
        return reply.raw.read(_MAX_REPLY_BYTES, decode_content=True) or b""
    except (HTTPError, OSError):
        return b""


def _metadata(image: Image, replay: bool) -> dict[str, str]:
    fields = {
        "event_id": str(image.event_id or ""),
        "sha256": image.sha256 or "",
        "captured_at": iso(image.captured_at) or "",
        "offset_ms": "" if image.offset_ms is None else str(image.offset_ms),
    }
    return {**fields, "replay": "true"} if replay else fields


def retry_after_s(value: str | None) -> float | None:
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


def _redacted(url: str) -> str:
    try:
        return redact_url(url)
    except ValueError:
        return "an address that makes no sense"


def _location(text: str) -> str | None:
    try:
        reply = json.loads(text)
    except (ValueError, RecursionError):
        return None
    value = reply.get("Location") if isinstance(reply, dict) else None
    return printable(value)[:_MAX_LOCATION] if isinstance(value, str) and value else None


def printable(text: str) -> str:
    """Make a stranger's text harmless in a log."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what requests and urllib3 wrapped in it, the system's own last."""
    inner: BaseException | None = error
    while inner is not None:
        yield inner
        wrapped = (getattr(inner, "reason", None), *inner.args, inner.__context__)
        inner = next((part for part in wrapped if isinstance(part, BaseException)), None)


def _cause(error: BaseException) -> str:
    """Return the root of a request's failure in words, without the URL around it."""
    *_, seen = _chain(error)
    text = getattr(seen, "strerror", None) or (str(seen).rpartition(": ")[2])
    return printable(str(text))[:200] or type(seen).__name__


class _Session(requests.Session):
    """Take no look at where a redirect leads to.

    It is not followed, but requests would read its whole body and stumble over nonsense in it.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class _Bearer(AuthBase):
    """Set the token, or nothing: without this, requests would look into ~/.netrc."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _DeadlineAdapter(HTTPAdapter):
    """Let a deadline cut the connections that requests makes."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._deadline.pool_classes()

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        is_new = proxy not in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **kwargs)
        if is_new and not proxy.lower().startswith("socks"):  # those need connections of their own
            manager.pool_classes_by_scheme = self._deadline.pool_classes()
        return manager
