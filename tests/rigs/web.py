"""The web interface over a real catalog and pretended services."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from flask import Flask

from capture_service import CaptureOutcome
from cleanup_service import CleanupReport
from config import CameraConfig
from store.catalog import Catalog
from store.rows import Image
from web.access import Access
from web.context import Actions, CameraUnavailableError, LivePicture, Site
from web.passwords import Passwords
from web.sessions import Sessions
from web.throttle import LoginThrottle
from web_app import create_app

CAMERAS = (
    CameraConfig("camera_1", "r1", "Entry", True, "rtsp://x", 0, 0, 18),
    CameraConfig("camera_2", "r2", "Exit", True, "rtsp://x", 0, 0, 19),
    CameraConfig("camera_3", "r3", "Auxiliary", False, "rtsp://x", 0, 0, 20),
)
ZONE = ZoneInfo("Europe/Berlin")
STREAMING = {
    "enabled": True,
    "state": "streaming",
    "error": None,
    "hint": None,
    "last_frame_age_ms": 40,
    "fps": 25.0,
    "width": 1920,
    "height": 1080,
    "codec": "h264",
}
STATUS: dict[str, Any] = {
    "version": "1",
    "site": "gate-1",
    "started_at": "2023-10-27T11:00:00.000Z",
    "uptime_s": 3600,
    "time": "2023-10-27T12:00:00.000Z",
    "clock_synchronized": True,
    "verdict": {"level": "ok", "message": "Working."},
    "cameras": [
        {"key": "camera_1", "name": "r1", "label": "Entry", **STREAMING},
        {"key": "camera_2", "name": "r2", "label": "Exit", **STREAMING},
        {"key": "camera_3", "name": "r3", "label": "Auxiliary", **STREAMING, "enabled": False},
    ],
    "gpio": {"enabled": False, "available": False, "error": None, "hint": None, "pins": []},
    "upload": {
        "enabled": True,
        "online": True,
        "paused": None,
        "queue_size": 0,
        "pending": 0,
        "rejected": 0,
        "oldest_pending_at": None,
        "target": "http://127.0.0.1/upload",
        "drain": None,
    },
    "storage": {
        "images": 0,
        "bytes": 0,
        "disk_free_bytes": 41_000_000_000,
        "disk_total_bytes": 64_000_000_000,
        "days_left": None,
    },
    "alerts": [],
}
STATS: dict[str, Any] = {
    "captures": {
        "total": 1,
        "succeeded": 1,
        "failed": 0,
        "by_camera": {"r1": 1, "r2": 0},
        "latency_ms": {"p50": 210.0, "p95": 300.0},
        "offset_ms": {"p50": 1.0, "p95": 19.0},
    },
    "uploads": {
        "uploaded": 1,
        "failed_attempts": 0,
        "queued": 0,
        "pending": 0,
        "rejected": 0,
        "bytes": 1000,
        "last_success_at": None,
    },
    "storage": STATUS["storage"],
    "cleanup": {"last_run_at": None, "deleted": 0, "freed_bytes": 0},
    "triggers": {"by_camera": {"r1": 1, "r2": 0}},
}


class FakeStatus:
    """Documents as a test wants them."""

    def __init__(self) -> None:
        self.healthy = "ok"
        self.error: Exception | None = None
        self.document = STATUS

    def status(self) -> dict[str, Any]:
        """Return the document, or fail."""
        if self.error is not None:
            raise self.error
        return self.document

    def stats(self) -> dict[str, Any]:
        """Return counters."""
        return STATS

    def gpio_status(self) -> dict[str, Any]:
        """Return pins."""
        return {"enabled": True, "available": True, "error": None, "pins": []}

    def health(self) -> str:
        """Return what the test set."""
        return self.healthy


@dataclass
class FakeActions:
    """Actions on a real catalog; captures give `image`, or fail without one."""

    catalog: Catalog
    image: Image | None = None
    error: Exception | None = None
    live: bool = True
    captured: list[str] = field(default_factory=list)

    def capture(self, key: str) -> CaptureOutcome:
        """Take the picture that is set."""
        self.captured.append(key)
        reason = None if self.image else "wrong password (401)"
        hint = None if self.image else "Check CAMERA_USERNAME."
        return CaptureOutcome(self.image, reason, hint, 123.456)

    def latest(self, key: str) -> LivePicture:
        """Return a live picture, or say why there is none."""
        if not self.live:
            raise CameraUnavailableError("no picture from the camera yet", "Check its power.")
        return LivePicture(b"full", b"small", 87)

    def report(self) -> CleanupReport:
        """Pretend a cleanup."""
        if self.error is not None:
            raise self.error
        return CleanupReport(3, 4096, 2)

    def retry(self, filename: str | None) -> int:
        """Make images due."""
        if filename is not None:
            self.catalog.rows.image(filename)
        return self.catalog.states.retry(filename)


def make_app(
    catalog: Catalog,
    state_dir: Path,
    *,
    status: FakeStatus | None = None,
    actions: FakeActions | None = None,
    auth_enabled: bool = False,
    api_token: str = "",
    passwords: Passwords | None = None,
    throttle: LoginThrottle | None = None,
    trusted_proxies: tuple[str, ...] = (),
) -> Flask:
    """Build the application, without a login unless it is asked for."""
    actions = actions or FakeActions(catalog)
    passwords = passwords or Passwords(state_dir / ".env", {})
    site = Site(
        cameras=CAMERAS,
        timezone=ZONE,
        stats_refresh_s=10,
        catalog=catalog.rows,
        status=status or FakeStatus(),
        actions=Actions(
            capture=actions.capture,
            latest=actions.latest,
            run_cleanup=actions.report,
            preview_cleanup=actions.report,
            retry_uploads=actions.retry,
            resolve_unknown=catalog.states.resolve_unknown,
        ),
    )
    access = Access(
        enabled=auth_enabled,
        api_token=api_token,
        passwords=passwords,
        sessions=Sessions(state_dir, passwords, 3600),
        throttle=throttle or LoginThrottle(),
    )
    return create_app(site, access, trusted_proxies=trusted_proxies)
