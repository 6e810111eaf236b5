"""The documents of `/api/status`, `/api/stats`, `/api/gpio/status` and `/healthz`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from camera.frame import StreamStatus
from config import CameraConfig, Config
from gpio.pins import GpioStatus
from runtime.ages import since_words
from runtime.clock import Clock
from runtime.stats import Stats
from runtime.version import __version__
from runtime.worker import Worker
from status.alarms import Alert, CameraView, Situation, alerts, verdict
from store.catalog import Catalog
from store.errors import StorageError
from store.rows import ImageFilter, Totals, iso
from upload.progress import UploadStatus

Document = dict[str, Any]

_DISABLED: Final = StreamStatus("disabled")


class Retention(Protocol):
    """What the cleanup knows of the free space on the disk."""

    @property
    def nothing_left_to_delete(self) -> bool:
        """Tell whether the disk is nearly full of images that are still to be sent."""

    def days_left(self) -> int | None:
        """Return for how many more days there is space; `None` when it can't be told."""


class SystemStatus:
    """Build the documents from what the services know. Callable from any thread; never blocks long.

    `cameras` has the status of each enabled camera by its key.
    """

    def __init__(
        self,
        config: Config,
        *,
        catalog: Catalog,
        stats: Stats,
        clock: Clock,
        cameras: Mapping[str, Callable[[], StreamStatus]],
        gpio: Callable[[], GpioStatus],
        uploads: Callable[[], UploadStatus],
        retention: Retention,
        workers: Callable[[], Sequence[Worker]],
        default_password: Callable[[], bool] = lambda: False,
        list_error: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._config = config
        self._catalog = catalog
        self._stats = stats
        self._clock = clock
        self._cameras = cameras
        self._gpio = gpio
        self._uploads = uploads
        self._retention = retention
        self._workers = workers
        self._default_password = default_password
        self._list_error = list_error
        self._names = {camera.key: camera.name for camera in config.cameras}
        self._started_at = clock.wall()
        self._started_s = clock.monotonic_s()
        self._since: dict[tuple[str, str], datetime] = {}

    def status(self) -> Document:
        """Return what the dashboard shows."""
        now = self._clock.wall()
        totals = self._catalog.rows.totals()
        storage = self._storage(totals)
        situation = self._situation(totals, storage["disk_free_bytes"])
        streams = {camera.key: camera.status for camera in situation.cameras}
        found = alerts(situation)
        newest = self._catalog.rows.images(ImageFilter(), limit=1)
        last_photo = since_words(newest[0].captured_at, now) if newest else None
        level, message = verdict(situation, found, last_photo)
        return {
            "version": __version__,
            "site": self._config.site.site_id,
            "started_at": iso(self._started_at),
            "uptime_s": round(situation.uptime_s),
            "time": iso(now),
            "clock_synchronized": situation.clock_synchronized,
            "verdict": {"level": level, "message": message},
            "cameras": [_camera(c, streams.get(c.key, _DISABLED)) for c in self._config.cameras],
            "gpio": self._pins(situation.gpio),
            "upload": self._upload(situation.upload, totals),
            "storage": storage,
            "alerts": self._remember(found, now),
        }

    def stats(self) -> Document:
        """Return the counters since the start, with the totals of the catalog."""
        now = self._stats.snapshot()
        totals = self._catalog.rows.totals()
        return {
            "captures": {
                "total": now.captures_succeeded + now.captures_failed,
                "succeeded": now.captures_succeeded,
                "failed": now.captures_failed,
                "by_camera": {n: now.captures_by_camera.get(n, 0) for n in self._names.values()},
                "latency_ms": vars(now.capture_latency_ms),
                "offset_ms": vars(now.capture_offset_ms),
            },
            "uploads": {
                "uploaded": now.uploaded,
                "failed_attempts": now.failed_attempts,
                "queued": self._uploads().queue_size,
                "pending": totals.by_state["pending"],
                "rejected": totals.by_state["rejected"],
                "bytes": now.uploaded_bytes,
                "last_success_at": iso(now.last_upload_at),
            },
            "storage": self._storage(totals),
            "cleanup": {
                "last_run_at": iso(now.cleanup_last_run_at),
                "deleted": now.cleanup_deleted,
                "freed_bytes": now.cleanup_freed_bytes,
            },
            "triggers": {
                "by_camera": {n: now.triggers_by_camera.get(n, 0) for n in self._names.values()}
            },
        }

    def gpio_status(self) -> Document:
        """Return the document of the pins."""
        return self._pins(self._gpio())

    def health(self) -> str:
        """Return ok, degraded, starting or failing."""
        if not all(worker.is_alive() for worker in self._workers()):
            return "failing"
        try:
            level = self.status()["verdict"]["level"]
        except StorageError:  # /api/status says what is known without the catalog
            return "degraded"
        return {"ok": "ok", "starting": "starting"}.get(level, "degraded")

    def _situation(self, totals: Totals, disk_free_bytes: int) -> Situation:
        return Situation(
            uptime_s=self._clock.monotonic_s() - self._started_s,
            cameras=[
                CameraView(c.key, c.name, c.label, self._cameras[c.key]())
                for c in self._config.cameras
                if c.enabled
            ],
            gpio=self._gpio(),
            upload=self._uploads(),
            pending=totals.by_state["pending"],
            rejected=totals.by_state["rejected"],
            unknown=totals.by_state["unknown"],
            disk_low=disk_free_bytes < self._config.storage.min_free_disk_bytes,
            nothing_left_to_delete=self._retention.nothing_left_to_delete,
            write_error=self._catalog.write_error or self._list_error(),
            slow_save_s=self._catalog.slow_save_s,
            clock_synchronized=self._clock.synchronized(),
            env_file_exposed=self._config.env_file_exposed,
            default_password=self._default_password(),
        )

    def _pins(self, gpio: GpioStatus) -> Document:
        return {
            "enabled": gpio.enabled,
            "available": gpio.available,
            "error": gpio.error,
            "hint": gpio.hint,
            "pins": [
                {
                    "camera": self._names[pin.camera_key],
                    "pin": pin.pin,
                    "state": pin.state,
                    "last_edge_at": iso(pin.last_edge_at),
                    "triggers": pin.triggers,
                    "suppressed": pin.suppressed,
                    "stuck_low": pin.stuck_low,
                }
                for pin in gpio.pins
            ],
        }

    def _upload(self, upload: UploadStatus, totals: Totals) -> Document:
        oldest = self._catalog.rows.oldest_pending()
        return {
            "enabled": upload.enabled,
            "online": upload.online,
            "paused": upload.paused,
            "queue_size": upload.queue_size,
            "pending": totals.by_state["pending"],
            "rejected": totals.by_state["rejected"],
            "oldest_pending_at": iso(oldest[0].captured_at) if oldest else None,
            "target": upload.target,
            "drain": None if upload.drain is None else vars(upload.drain),
        }

    def _storage(self, totals: Totals) -> Document:
        free, total = self._catalog.disk_usage()
        return {
            "images": totals.images,
            "bytes": totals.bytes,
            "disk_free_bytes": free,
            "disk_total_bytes": total,
            "days_left": self._retention.days_left(),
        }

    def _remember(self, found: Sequence[Alert], now: datetime) -> list[Document]:
        """Return the alerts as documents, each with the time it was first raised."""
        standing = {(alert.code, alert.subject) for alert in found}
        self._since = since = {key: self._since.get(key, now) for key in standing}
        return [{**vars(alert), "since": iso(since[alert.code, alert.subject])} for alert in found]


def _camera(camera: CameraConfig, status: StreamStatus) -> Document:
    age_s = status.last_frame_age_s
    return {
        "key": camera.key,
        "name": camera.name,
        "label": camera.label,
        "enabled": camera.enabled,
        "state": status.state,
        "error": status.error,
        "hint": status.hint or status.advice,
        "last_frame_age_ms": None if age_s is None else round(age_s * 1000),
        "fps": status.fps,
        "width": status.width,
        "height": status.height,
        "codec": status.codec,
        "clock_ppm": status.clock_ppm,
    }
