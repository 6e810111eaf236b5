"""Upload by HTTP: what is sent with an image, and how long each step may take."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import HTTPError

from config import UploadConfig
from runtime.version import __version__
from store.rows import Image, iso
from upload.outcomes import Outcome, classify, failure_of, idempotency_key
from upload.request_deadline import Deadline

CONNECT_TIMEOUT_S: Final = 5.0
MAX_REPLY_BYTES: Final = 65_536
_PORTS: Final = {"http": 80, "https": 443}
_SOCKS_PORT: Final = 1080


def first_hop(config: UploadConfig) -> tuple[str, int]:
    """Return the host and port that an upload connects to.

    That is the server, or the proxy that the environment names for it.
    """
    if config.is_s3:
        url = config.s3.endpoint_url
    else:
        url = select_proxy(config.url, get_environ_proxies(config.url)) or config.url
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
        self._send_options: dict[str, Any] = {}

    def send(self, image: Image, jpeg: bytes, *, replay: bool) -> Outcome:
        """Post the image and classify the answer."""
        timeout_s = self._config.timeout_s
        try:
            with (
                self._deadline.within(timeout_s),
                self._session.send(
                    self._request(image, jpeg, replay),
                    timeout=(min(CONNECT_TIMEOUT_S, timeout_s), timeout_s),
                    allow_redirects=False,
                    **self._send_options,
                ) as reply,
            ):
                return classify(
                    reply.status_code, dict(reply.headers.lower_items()), _body_of(reply)
                )
        except (requests.exceptions.RequestException, HTTPError, OSError, ValueError) as error:
            host = urlsplit(self._config.url).hostname or ""
            timed_out = self._deadline.passed or isinstance(error, requests.exceptions.Timeout)
            return failure_of(error, host, timeout_s, timed_out=timed_out)

    def _request(self, image: Image, jpeg: bytes, replay: bool) -> requests.PreparedRequest:
        if self._blank is None:
            # What all requests share, the environment's proxies and certificates among it, is
            # prepared once: for each image it would take a third of an upload's processor time.
            url = self._config.url
            options = self._session.merge_environment_settings(url, {}, True, None, None)
            self._send_options = dict(options)
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


def _body_of(reply: requests.Response) -> bytes:
    """Read the start of a body; the status counts even when the rest is cut off."""
    try:
        return reply.raw.read(MAX_REPLY_BYTES, decode_content=True) or b""
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


class _Session(requests.Session):
    """Ignore where a redirect leads: it is not followed.

    Else requests would read its whole body, and fail on a malformed address.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class _Bearer(AuthBase):
    """Set the token, if there is one; without an auth object requests would read ~/.netrc."""

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
        if is_new and not proxy.lower().startswith("socks"):  # SOCKS has connections of its own
            manager.pool_classes_by_scheme = self._deadline.pool_classes()
        return manager
