"""What the routes are given: the state to show, actions, and the site's cameras and zone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from capture_service import CaptureOutcome
from cleanup_service import AlreadyRunningError, CleanupReport
from config import CameraConfig
from store.catalog_reader import CatalogReader
from store.rows import Image
from web.errors import ApiError


class StatusSource(Protocol):
    """What the routes show of the state."""

    def status(self) -> dict[str, Any]:
        """Return the document of `/api/status`."""

    def stats(self) -> dict[str, Any]:
        """Return the document of `/api/stats`."""

    def gpio_status(self) -> dict[str, Any]:
        """Return the document of `/api/gpio/status`."""

    def health(self) -> str:
        """Return ok, degraded, starting or failing."""


@dataclass(frozen=True)
class LivePicture:
    """A camera's newest picture: two sizes of JPEG, and its age."""

    jpeg: bytes
    thumbnail: bytes
    age_ms: int


class CameraUnavailableError(Exception):
    """A camera gives no picture right now; `hint` says what to do."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


@dataclass(frozen=True)
class Actions:
    """What the routes can do; each is called on a server thread.

    `capture` and `latest` take a camera's key; `latest` raises `CameraUnavailableError`.
    """

    capture: Callable[[str], CaptureOutcome]
    latest: Callable[[str], LivePicture]
    run_cleanup: Callable[[], CleanupReport]
    preview_cleanup: Callable[[], CleanupReport]
    retry_uploads: Callable[[str | None], int]
    resolve_unknown: Callable[[str], int]


@dataclass(frozen=True)
class Site:
    """Everything about this box that routes need."""

    cameras: tuple[CameraConfig, ...]
    timezone: ZoneInfo
    stats_refresh_s: int
    catalog: CatalogReader
    status: StatusSource
    actions: Actions

    @cached_property
    def by_name(self) -> dict[str, CameraConfig]:
        """Return the cameras by their key and by their name."""
        return {word: camera for camera in self.cameras for word in (camera.key, camera.name)}

    def enabled_camera(self, word: str) -> CameraConfig:
        """Return the camera of a key or name.

        Raises:
            ApiError: there is no such camera, or it is disabled.
        """
        camera = self.by_name.get(word)
        if camera is None:
            raise ApiError(404, "unknown_camera", f"there is no camera {word!r}")
        if not camera.enabled:
            raise ApiError(409, "camera_disabled", f"camera {camera.name} is disabled")
        return camera

    def capture(self, word: str) -> tuple[Image, float]:
        """Take a picture now; return it and the latency in milliseconds.

        Raises:
            ApiError: there is no such camera, it is disabled, or it gave no picture.
        """
        outcome = self.actions.capture(self.enabled_camera(word).key)
        if outcome.image is None:
            reason = outcome.reason or "no picture"
            raise ApiError(503, "camera_unavailable", reason, hint=outcome.hint)
        return outcome.image, outcome.latency_ms

    def run_cleanup(self) -> CleanupReport:
        """Delete what is older than the retention.

        Raises:
            ApiError: a cleanup is under way.
        """
        try:
            return self.actions.run_cleanup()
        except AlreadyRunningError as error:
            raise ApiError(409, "already_running", str(error)) from None

    def retry(self, filename: str | None) -> int:
        """Make one image, or all, due for upload now.

        Raises:
            ApiError: there is no such image, or its state allows no retry.
        """
        try:
            retried = self.actions.retry_uploads(filename)
        except KeyError:
            raise ApiError(404, "not_found", f"there is no image {filename!r}") from None
        if filename is not None and not retried:
            raise ApiError(409, "not_retryable", f"{filename} is not to be sent")
        return retried

    def resolve_unknown(self, action: object) -> int:
        """Make images in state `unknown` pending ("send") or uploaded ("mark_sent").

        Raises:
            ApiError: the action is another one.
        """
        states = {"send": "pending", "mark_sent": "uploaded"}
        if not isinstance(action, str) or action not in states:
            raise ApiError(400, "bad_request", "action must be send or mark_sent")
        return self.actions.resolve_unknown(states[action])
