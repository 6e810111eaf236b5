"""Upload straight to an S3-compatible store; `minio` is needed only when this is used.

Keys are `prefix/SITE_ID/YYYY/MM/DD/filename` (UTC day of the file's name), so that many gates can
share a bucket. No object is overwritten by another picture.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from datetime import UTC
from typing import Any, Final, Literal
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

from urllib3 import BaseHTTPResponse, HTTPResponse, PoolManager, Timeout
from urllib3.exceptions import HTTPError

from config import ConfigError, UploadConfig, redact_url
from store.rows import Image, iso
from upload.http_target import CONNECT_TIMEOUT_S, MAX_REPLY_BYTES
from upload.outcomes import (
    IMAGE_REFUSED,
    NO_SUCH_ADDRESS,
    NOT_ALLOWED,
    Deferred,
    Delivered,
    Misconfigured,
    Outcome,
    Rejected,
    failure_of,
    idempotency_key,
    printable,
    try_later,
)
from upload.request_deadline import Deadline

_MD5_HEX: Final = re.compile(r"[0-9a-f]{32}")
_CODE: Final = re.compile(rb"<Code>\s*(\w{1,64})\s*</Code>")
_MESSAGE: Final = re.compile(rb"<Message>([^<]{1,300})")
# Source: "Error responses" of the Amazon S3 API reference, and what other stores were seen to say.
_CLOCK_CODES: Final = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_NOT_ALLOWED_CODES: Final = frozenset(
    {
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidObjectState",
        "InvalidPayer",
        "InvalidSecurity",
        "InvalidToken",
        "NotSignedUp",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_WRONG_ADDRESS_CODES: Final = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "InvalidArgument",
        "InvalidBucketName",
        "InvalidRequest",
        "InvalidURI",
        "MethodNotAllowed",
        "MissingSecurityHeader",
        "NoSuchBucket",
        "NotImplemented",
        "PermanentRedirect",
        "TemporaryRedirect",
    }
)
# Sent with 400 although the picture is not at fault: it was damaged or cut off on its way.
_TRY_LATER_CODES: Final = frozenset(
    {
        "BadDigest",
        "IncompleteBody",
        "InternalError",
        "InvalidDigest",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "XAmzContentSHA256Mismatch",
    }
)
_NAME_TAKEN: Final = frozenset({409, 412})
_NO_REPLY: Final = HTTPResponse(status=0)


class PortalError(Exception):
    """Something other than a store answered, such as the web page of a captive portal."""


class _Pool(PoolManager):
    """Send each request once, follow no redirect, and keep the answer.

    minio's exceptions lose the error code of an answer whose content type differs from Amazon's.
    """

    reply: BaseHTTPResponse = _NO_REPLY
    only_new = True
    """Whether the store shall refuse a name that is taken."""

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **options: Any
    ) -> BaseHTTPResponse:
        self.reply = _NO_REPLY
        if method == "PUT":
            # minio sends no checksum over TLS; these two headers need no signature.
            options["headers"]["Content-MD5"] = base64.b64encode(_md5(options["body"])).decode()
            if self.only_new:
                options["headers"]["If-None-Match"] = "*"
        options["preload_content"] = False
        with super().urlopen(method, url, redirect=False, **options) as reply:
            # A stranger may send more than fits into memory.
            self.reply = HTTPResponse(
                reply.read(MAX_REPLY_BYTES),
                reply.headers,
                reply.status,
                reason=reply.reason,
                request_method=method,
            )
        headers = self.reply.headers
        is_page = headers.get("content-type", "").lower().startswith("text/html")
        # A store always sends the ETag of the object it took or has.
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
        self._errors = (
            MinioException,
            ParseError,
            UnicodeDecodeError,
        )  # a store answered, but not with success
        self._site_id = site_id
        self._timeout_s = config.timeout_s
        place, endpoint = urlsplit(config.url), urlsplit(config.s3.endpoint_url)
        self._bucket = place.netloc
        self._prefix = place.path.strip("/")
        self._host = endpoint.hostname or ""
        self._knows_if_none_match = True
        self._deadline = Deadline()
        connect_s = min(CONNECT_TIMEOUT_S, config.timeout_s)
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
        """Return the object's key, which stays when the time of the image is corrected."""
        moment = image.named_at or image.captured_at
        day = moment.astimezone(UTC).strftime("%Y/%m/%d")
        return "/".join(filter(None, (self._prefix, self._site_id, day, image.filename)))

    def send(self, image: Image, jpeg: bytes, *, replay: bool) -> Outcome:
        """Put the image unless the store has it, verify what arrived, and return the outcome."""
        try:
            with self._deadline.within(self._timeout_s):
                return self._deliver(self.key_of(image), image, jpeg)
        except PortalError:
            reason = f"{self._host} did not answer as a store does"
            return Deferred(reason, "server", captive_portal=True)
        except self._errors as error:
            return self._meaning_of(error)
        except (HTTPError, OSError, ValueError) as error:
            return self._failure_of(error)

    def close(self) -> None:
        """Close connections."""
        self._pool.clear()
        self._deadline.close()

    def _deliver(self, key: str, image: Image, jpeg: bytes) -> Outcome:
        """Look for the image in the store and put it if it is missing.

        Looking first saves sending an image twice, and protects objects in a store that ignores
        `If-None-Match`. Without the right to read nothing is found, and only that header protects.
        """
        location = f"s3://{self._bucket}/{key}"
        found = self._look(key, image, jpeg)
        if found == "none":
            try:
                return self._put(key, image, jpeg, location, only_new=True)
            except self._errors:
                if self._pool.reply.status not in _NAME_TAKEN:
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
        self._pool.only_new = only_new and self._knows_if_none_match
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
            if self._in_body(_CODE) == "NotImplemented" and self._pool.only_new:
                self._knows_if_none_match = False  # Backblaze B2 says so, for one
                return self._put(key, image, jpeg, location, only_new=only_new)
            raise
        if self._differs(jpeg):
            return Deferred("what the store received differs from what was sent", "server")
        return Delivered(location)

    def _look(
        self, key: str, image: Image, jpeg: bytes
    ) -> Literal["none", "same", "damaged", "other"]:
        """Return what lies under the key.

        Without the right to read it is `none`: the put will tell what is wrong.
        """
        try:
            self._client.stat_object(self._bucket, key)
        except self._errors:
            if 400 <= self._pool.reply.status < 500:
                return "none"
            raise
        headers = self._pool.reply.headers
        whole = int(headers.get("content-length", -1)) == len(jpeg) and not self._differs(jpeg)
        if headers.get("x-amz-meta-sha256") == image.sha256:
            return "same" if whole else "damaged"
        return "same" if whole and self._md5_of_object() else "other"

    def _differs(self, jpeg: bytes) -> bool:
        """Tell whether the last answer has a checksum that is not the picture's."""
        return self._md5_of_object() not in ("", _md5(jpeg).hex())

    def _md5_of_object(self) -> str:
        """Return the MD5 in the last answer, empty when its ETag is something else."""
        headers = self._pool.reply.headers
        is_plain = headers.get("x-amz-server-side-encryption", "AES256") == "AES256"
        by_customer = "x-amz-server-side-encryption-customer-algorithm" in headers
        etag = headers.get("etag", "").strip('"').lower()
        return etag if is_plain and not by_customer and _MD5_HEX.fullmatch(etag) else ""

    def _in_body(self, pattern: re.Pattern[bytes]) -> str:
        found = pattern.search(self._pool.reply.data or b"")
        return found[1].decode("utf-8", "replace") if found else ""

    def _said(self) -> str:
        message = self._in_body(_MESSAGE)
        said = f"the store answered {self._pool.reply.status} {self._in_body(_CODE)}".rstrip()
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
        """Say what the answer to the last request means."""
        status, code, said = self._pool.reply.status, self._in_body(_CODE), self._said()
        if not status:
            return self._failure_of(error)
        if code in _CLOCK_CODES:
            return Misconfigured(said, "Set the clock of this box right (timedatectl).")
        if code in _NOT_ALLOWED_CODES or (status in NOT_ALLOWED and code not in _TRY_LATER_CODES):
            hint = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what the key may do."
            return Misconfigured(said, hint)
        if code in _WRONG_ADDRESS_CODES or 300 <= status < 400 or status in NO_SUCH_ADDRESS:
            return Misconfigured(said, "Check S3_API_URL, S3_ENDPOINT_URL and AWS_REGION.")
        if status in IMAGE_REFUSED and code not in _TRY_LATER_CODES:
            return Rejected(said)
        return try_later(status, said, self._pool.reply.headers.get("retry-after"))

    def _failure_of(self, error: BaseException) -> Outcome:
        timed_out = self._deadline.passed
        return failure_of(error, self._host, self._timeout_s, timed_out=timed_out)


def _md5(jpeg: bytes) -> bytes:
    return hashlib.md5(jpeg, usedforsecurity=False).digest()
