"""Upload straight to an S3-compatible store; `minio` is needed only when this is used.

Keys are `prefix/SITE_ID/YYYY/MM/DD/filename` (UTC day of the edge), so that many gates share a
bucket. Nothing that is there already is overwritten by another picture.
"""

from __future__ import annotations

import hashlib
import io
from datetime import UTC
from typing import Any, Final
from urllib.parse import urlsplit

from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError

from config import ConfigError, UploadConfig
from deadline import Deadline
from records import Image, iso
from upload_targets import (
    Deferred,
    Delivered,
    Misconfigured,
    Outcome,
    Rejected,
    failure_of,
    idempotency_key,
    printable,
)

_CONNECT_TIMEOUT_S: Final = 5.0
_MD5_HEX: Final = 32
_NOT_ALLOWED: Final = frozenset(
    {
        *("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"),
        *("InvalidToken", "AccountProblem", "AllAccessDisabled", "NotSignedUp"),
    }
)
_NO_SUCH_PLACE: Final = frozenset(
    {
        *("NoSuchBucket", "PermanentRedirect", "InvalidBucketName", "NotImplemented"),
        *("AuthorizationHeaderMalformed", "MethodNotAllowed"),
    }
)
_CLOCK: Final = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_LATER: Final = frozenset({"SlowDown", "RequestTimeout", "ServiceUnavailable", "InternalError"})
_THERE_ALREADY: Final = frozenset({409, 412})
_REFUSED_IMAGE: Final = frozenset({400, 413, 415, 422})


class S3Target:
    """Put objects into the bucket that `S3_API_URL=s3://bucket/prefix` names."""

    def __init__(self, config: UploadConfig, site_id: str) -> None:
        """Prepare, without connecting.

        Raises:
            ConfigError: the package `minio` is not installed.
        """
        try:
            from minio import Minio
            from minio.error import S3Error
        except ImportError as error:
            problem = "S3_API_URL=s3://… needs a package: pip install minio"
            raise ConfigError([problem]) from error
        self._s3_error = S3Error
        self._site_id = site_id
        self._timeout_s = config.timeout_s
        place, endpoint = urlsplit(config.url), urlsplit(config.s3.endpoint_url)
        self._bucket = place.netloc
        self._prefix = place.path.strip("/")
        self._host = endpoint.hostname or ""
        self._deadline = Deadline()
        connect_s = min(_CONNECT_TIMEOUT_S, config.timeout_s)
        self._pool = PoolManager(
            num_pools=1, maxsize=1, retries=False, timeout=Timeout(connect_s, config.timeout_s)
        )
        self._pool.pool_classes_by_scheme = self._deadline.pool_classes()
        self._client = Minio(
            endpoint.netloc,
            access_key=config.s3.access_key_id or None,
            secret_key=config.s3.secret_access_key or None,
            session_token=config.s3.session_token or None,
            secure=endpoint.scheme == "https",
            region=config.s3.region,
            http_client=self._pool,
        )

    def key_of(self, image: Image) -> str:
        """Return the object's name."""
        day = image.captured_at.astimezone(UTC).strftime("%Y/%m/%d")
        return "/".join(filter(None, (self._prefix, self._site_id, day, image.filename)))

    def send(self, image: Image, jpeg: bytes, *, replay: bool) -> Outcome:
        """Put the image, verify what arrived, and say how that went."""
        try:
            with self._deadline.within(self._timeout_s):
                return self._put(image, jpeg)
        except self._s3_error as error:
            return self._classify(error, image, jpeg)
        except (HTTPError, OSError, ValueError) as error:
            return failure_of(error, self._host, self._timeout_s, passed=self._deadline.passed)

    def close(self) -> None:
        """Close connections."""
        self._pool.clear()

    def _put(self, image: Image, jpeg: bytes) -> Outcome:
        key = self.key_of(image)
        if image.attempts:  # an earlier attempt may have arrived although its answer did not
            found = self._look(key, image, jpeg)
            if found is not None:
                return found
        result = self._client.put_object(
            self._bucket,
            key,
            io.BytesIO(jpeg),
            len(jpeg),
            content_type="image/jpeg",
            metadata=self._metadata(image),
        )
        etag = (result.etag or "").strip('"')
        if len(etag) == _MD5_HEX and etag != _md5(jpeg):
            return Deferred("what the store received differs from what was sent", "server")
        return Delivered(f"s3://{self._bucket}/{key}")

    def _look(self, key: str, image: Image, jpeg: bytes) -> Outcome | None:
        """Return what it means that there is an object of this name, `None` when there is none."""
        try:
            found = self._client.stat_object(self._bucket, key)
        except self._s3_error as error:
            if error.code in ("NoSuchKey", "NoSuchObject", "NoSuchVersion"):
                return None
            raise
        stored = (found.metadata or {}).get("x-amz-meta-sha256")
        if stored == image.sha256 or (found.etag or "").strip('"') == _md5(jpeg):
            return Delivered(f"s3://{self._bucket}/{key}")
        return Rejected("another picture of this name is in the store")

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

    def _classify(self, error: Any, image: Image, jpeg: bytes) -> Outcome:
        code = str(error.code or "")
        status = int(getattr(error.response, "status", 0) or 0)
        said = printable(f"the store answered {status} {code}: {error.message or ''}")[:200]
        said = said.rstrip(": ")
        if status in _THERE_ALREADY:
            return self._conflict(image, jpeg, said)
        if code in _CLOCK:
            return Misconfigured(said, "Check the clock of this box (timedatectl).")
        if code in _NOT_ALLOWED or status in (401, 403):
            return Misconfigured(said, "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.")
        if code in _NO_SUCH_PLACE or status in (301, 307, 404, 405):
            return Misconfigured(said, "Check S3_API_URL, S3_ENDPOINT_URL and AWS_REGION.")
        if status in _REFUSED_IMAGE and code not in _LATER:
            return Rejected(said)
        return Deferred(said, "server")

    def _conflict(self, image: Image, jpeg: bytes, said: str) -> Outcome:
        """Say whether an object that may not be replaced is this very picture."""
        try:
            with self._deadline.within(self._timeout_s):
                found = self._look(self.key_of(image), image, jpeg)
        except (self._s3_error, HTTPError, OSError, ValueError):
            return Deferred(said, "server")
        return found or Deferred(said, "server")


def _md5(jpeg: bytes) -> str:
    return hashlib.md5(jpeg, usedforsecurity=False).hexdigest()
