"""Upload straight to an S3-compatible store; `minio` is needed only when this is used.

Keys are `prefix/SITE_ID/YYYY/MM/DD/filename` (UTC day of the file's name), so that many gates share
a bucket. Nothing that is there already is overwritten by another picture.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from datetime import UTC
from typing import Any, Final
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

from urllib3 import BaseHTTPResponse, HTTPResponse, PoolManager, Timeout
from urllib3.exceptions import HTTPError

from config import ConfigError, UploadConfig, redact_url
from store.rows import Image, iso
from upload.http_target import (
    BUSY,
    Deferred,
    Delivered,
    Misconfigured,
    Outcome,
    Rejected,
    failure_of,
    idempotency_key,
    printable,
    retry_after_s,
)
from upload.request_deadline import Deadline

_CONNECT_TIMEOUT_S: Final = 5.0
_MAX_REPLY_BYTES: Final = 65_536
_MD5_HEX: Final = re.compile(r"[0-9a-f]{32}")
_CODE: Final = re.compile(rb"<Code>\s*(\w{1,64})\s*</Code>")
_MESSAGE: Final = re.compile(rb"<Message>([^<]{1,300})")
# Source: "Error responses" of the Amazon S3 API reference, and what other stores were seen to say.
_CLOCK: Final = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_NOT_ALLOWED: Final = frozenset(
    {
        *("AccessDenied", "AllAccessDisabled", "AccountProblem", "NotSignedUp", "InvalidSecurity"),
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"),
        *("TokenRefreshRequired", "InvalidPayer", "InvalidObjectState"),
    }
)
_NO_SUCH_PLACE: Final = frozenset(
    {
        *("NoSuchBucket", "PermanentRedirect", "TemporaryRedirect", "InvalidBucketName"),
        *("AuthorizationHeaderMalformed", "MethodNotAllowed", "NotImplemented"),
        *("IllegalLocationConstraintException", "InvalidURI", "InvalidRequest", "InvalidArgument"),
        "MissingSecurityHeader",
    }
)
# Told with 400, but no fault of the picture: it was damaged or cut off on its way.
_LATER: Final = frozenset(
    {
        *("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"),
        *("RequestTimeout", "SlowDown", "ServiceUnavailable", "InternalError"),
    }
)
_REFUSED_IMAGE: Final = frozenset({400, 413, 415, 422})
_THERE_ALREADY: Final = frozenset({409, 412})


class PortalError(Exception):
    """Something else than a store answered, a captive portal's web page for one."""


class _Pool(PoolManager):
    """Send each request once, without following redirects, and keep the answer.

    minio's exceptions lose the code of an answer that is not of the very type that Amazon's have.
    """

    reply: BaseHTTPResponse | None = None
    only_new = True
    """Whether the store is asked to refuse a name that is taken."""

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **how: Any
    ) -> BaseHTTPResponse:
        self.reply = None
        if method == "PUT":
            # minio leaves the checksum out over TLS; these two need no signature.
            how["headers"]["Content-MD5"] = base64.b64encode(_md5(how["body"])).decode()
            if self.only_new:
                how["headers"]["If-None-Match"] = "*"
        how["preload_content"] = False
        with super().urlopen(method, url, redirect=False, **how) as reply:
            # Nobody needs more, and a stranger may send what fits into no memory.
            self.reply = HTTPResponse(
                reply.read(_MAX_REPLY_BYTES),
                reply.headers,
                reply.status,
                reason=reply.reason,
                request_method=method,
            )
        headers = self.reply.headers
        is_page = headers.get("content-type", "").lower().startswith("text/html")
        # A store tells the ETag of what it took and of what it has, always.
        if self.reply.status < 300 and (is_page or "etag" not in headers):
            raise PortalError
        return self.reply


class S3Target:
    """Put objects into the bucket that `S3_API_URL=s3://bucket/prefix` names."""

    def __init__(self, config: UploadConfig, site_id: str) -> None:
        """Prepare, without connecting.

        Raises:
            ConfigError: the package `minio` is not installed, or it can't use these settings.
        """
        try:
            from minio import Minio
            from minio.error import MinioException
        except ImportError as error:
            problem = "S3_API_URL=s3://… needs a package: .venv/bin/pip install 'minio>=7.2,<8'"
            raise ConfigError([problem]) from error
        self._errors = (MinioException, ParseError, UnicodeDecodeError)  # all mean: an answer
        self._site_id = site_id
        self._timeout_s = config.timeout_s
        place, endpoint = urlsplit(config.url), urlsplit(config.s3.endpoint_url)
        self._bucket = place.netloc
        self._prefix = place.path.strip("/")
        self._host = endpoint.hostname or ""
        self._knows_condition = True
        self._deadline = Deadline()
        connect_s = min(_CONNECT_TIMEOUT_S, config.timeout_s)
        self._pool = _Pool(
            num_pools=1, maxsize=1, retries=False, timeout=Timeout(connect_s, config.timeout_s)
        )
        self._pool.pool_classes_by_scheme = self._deadline.pool_classes()
        try:
            self._client = Minio(
                endpoint.netloc,
                access_key=config.s3.access_key_id or None,
                secret_key=config.s3.secret_access_key or None,
                session_token=config.s3.session_token or None,
                secure=endpoint.scheme == "https",
                region=config.s3.region,
                http_client=self._pool,
            )
        except ValueError as error:
            where = redact_url(config.s3.endpoint_url)
            raise ConfigError([f"S3_ENDPOINT_URL={where}, AWS_REGION: {error}"]) from error

    def key_of(self, image: Image) -> str:
        """Return the object's name, which stays when the time of the image is corrected."""
        moment = image.named_at or image.captured_at
        day = moment.astimezone(UTC).strftime("%Y/%m/%d")
        return "/".join(filter(None, (self._prefix, self._site_id, day, image.filename)))

    def send(self, image: Image, jpeg: bytes, *, replay: bool) -> Outcome:
        """Put the image unless it is there, verify what arrived, and say how that went."""
        try:
            with self._deadline.within(self._timeout_s):
                return self._deliver(self.key_of(image), image, jpeg)
        except PortalError:
            reason = f"{self._host} did not answer as a store does"
            return Deferred(reason, "server", captive_portal=True)
        except self._errors as error:
            return self._meaning_of(error)
        except (HTTPError, OSError, ValueError) as error:
            return failure_of(error, self._host, self._timeout_s, passed=self._deadline.passed)

    def close(self) -> None:
        """Close connections."""
        self._pool.clear()
        self._deadline.close()

    def _deliver(self, key: str, image: Image, jpeg: bytes) -> Outcome:
        """Look first: not every store heeds the condition, and it spares the line a repeat.

        A key that may only write finds nothing, and relies on the condition alone.
        """
        location = f"s3://{self._bucket}/{key}"
        found = self._look(key, image, jpeg)
        if found == "none":
            try:
                return self._put(key, image, jpeg, location, only_new=True)
            except self._errors:
                if self._status() not in _THERE_ALREADY:
                    raise
            said = self._said()
            found = self._look(key, image, jpeg)
            if found == "none":
                return Deferred(f"{said}; it does not show it (allow s3:GetObject)", "server")
        if found == "damaged":
            return self._put(key, image, jpeg, location, only_new=False)
        if found == "other":
            return Rejected(f"another picture lies at {location}")
        return Delivered(location)

    def _put(
        self, key: str, image: Image, jpeg: bytes, location: str, *, only_new: bool
    ) -> Outcome:
        self._pool.only_new = only_new and self._knows_condition
        try:
            self._client.put_object(
                self._bucket,
                key,
                io.BytesIO(jpeg),
                len(jpeg),
                content_type="image/jpeg",
                metadata=self._metadata(image),
            )
        except self._errors:
            if self._code() == "NotImplemented" and self._pool.only_new:
                self._knows_condition = False  # Backblaze B2 says so, for one
                return self._put(key, image, jpeg, location, only_new=only_new)
            raise
        if self._differs(jpeg):
            return Deferred("what the store received differs from what was sent", "server")
        return Delivered(location)

    def _look(self, key: str, image: Image, jpeg: bytes) -> str:
        """Return whether the object is none, same, damaged or other.

        Without the right to read, stores refuse; that is none, and the put says what is wrong.
        """
        try:
            self._client.stat_object(self._bucket, key)
        except self._errors:
            if 400 <= self._status() < 500:
                return "none"
            raise
        headers = self._headers()
        whole = int(headers.get("content-length", -1)) == len(jpeg) and not self._differs(jpeg)
        if headers.get("x-amz-meta-sha256") == image.sha256:
            return "same" if whole else "damaged"
        return "same" if whole and self._tells_md5() else "other"

    def _differs(self, jpeg: bytes) -> bool:
        """Tell whether the last answer's checksum is of other bytes; some stores tell none."""
        return self._tells_md5() and self._etag() != _md5(jpeg).hex()

    def _tells_md5(self) -> bool:
        encryption = self._headers().get("x-amz-server-side-encryption", "AES256")
        by_customer = "x-amz-server-side-encryption-customer-algorithm" in self._headers()
        plain = encryption == "AES256" and not by_customer
        return plain and _MD5_HEX.fullmatch(self._etag()) is not None

    def _etag(self) -> str:
        return str(self._headers().get("etag", "")).strip('"').lower()

    def _headers(self) -> Any:
        return {} if self._pool.reply is None else self._pool.reply.headers

    def _status(self) -> int:
        return 0 if self._pool.reply is None else self._pool.reply.status

    def _body(self) -> bytes:
        return (self._pool.reply and self._pool.reply.data) or b""

    def _code(self) -> str:
        found = _CODE.search(self._body())
        return found[1].decode("ascii", "replace") if found else ""

    def _said(self) -> str:
        found = _MESSAGE.search(self._body())
        message = found[1].decode("utf-8", "replace") if found else ""
        said = f"the store answered {self._status()} {self._code()}".rstrip()
        return printable(f"{said}: {message}")[:200].rstrip(": ")

    def _metadata(self, image: Image) -> dict[str, Any]:
        facts = {
            "camera": image.camera,
            "captured-at": iso(image.captured_at),
            "offset-ms": image.offset_ms,
            "sha256": image.sha256,
            "site": self._site_id,
            "event": image.event_id,
            "idempotency-key": idempotency_key(self._site_id, image),
        }
        return {name: str(value) for name, value in facts.items() if value is not None}

    def _meaning_of(self, error: BaseException) -> Outcome:
        """Say what the answer to the last request means, as the table of uploads has it."""
        status, code, said = self._status(), self._code(), self._said()
        if not status:
            return failure_of(error, self._host, self._timeout_s, passed=self._deadline.passed)
        if code in _CLOCK:
            return Misconfigured(said, "Set the clock of this box right (timedatectl).")
        if code in _NOT_ALLOWED or (status in (401, 403) and code not in _LATER):
            hint = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what the key may do."
            return Misconfigured(said, hint)
        if code in _NO_SUCH_PLACE or 300 <= status < 400 or status in (404, 405):
            return Misconfigured(said, "Check S3_API_URL, S3_ENDPOINT_URL and AWS_REGION.")
        if status in _REFUSED_IMAGE and code not in _LATER:
            return Rejected(said)
        wait_s = retry_after_s(self._headers().get("retry-after"))
        return Deferred(said, "server", wait_s, busy=status in BUSY)


def _md5(jpeg: bytes) -> bytes:
    return hashlib.md5(jpeg, usedforsecurity=False).digest()
