"""The documents of `/api/status`, `/api/stats`, `/api/gpio/status` and `/healthz`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from camera.stream import CameraStream, StreamStatus
from cleanup_service import CleanupService
from config import Config
from gpio_service import GpioService
from runtime.clock import is_synchronized
from runtime.stats import Stats
from runtime.version import __version__
from runtime.worker import Worker
from status.alarms import Alert, CameraView, Situation, alerts, since_words, verdict
from store.catalog import Catalog
from store.errors import StorageError
from store.rows import ImageFilter, iso
from uploader import UploadService

Document = dict[str, Any]


class SystemStatus:
    """Put together what the services know. All methods are for any thread and never block long."""

    def __init__(
        self,
        config: Config,
        *,
        catalog: Catalog,
        stats: Stats,
        streams: Mapping[str, CameraStream],
        gpio: GpioService,
        uploads: UploadService,
        cleanup: CleanupService,
        workers: Callable[[], Sequence[Worker]],
        clock_synchronized: Callable[[], bool | None] = is_synchronized,
        default_password: Callable[[], bool] = lambda: False,
        list_error: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._config = config
        self._catalog = catalog
        self._stats = stats
        self._streams = streams
        self._gpio = gpio
        self._uploads = uploads
        self._cleanup = cleanup
        self._workers = workers
        self._clock_synchronized = clock_synchronized
        self._default_password = default_password
        self._list_error = list_error
        self._names = {camera.key: camera.name for camera in config.cameras}
        self._started_at = datetime.now(UTC)
        self._started_s = time.monotonic()
        self._since: dict[str, datetime] = {}

    def status(self) -> Document:
        """Return what the dashboard shows."""
        totals = self._catalog.rows.totals()
        upload = self._uploads.status()
        gpio = self._gpio.status()
        oldest = self._catalog.rows.oldest_pending()
        newest = self._catalog.rows.images(ImageFilter(), limit=1)
        storage = self._storage(totals.images, totals.bytes)
        clock_synchronized = self._clock_synchronized()
        now = datetime.now(UTC)
        streams = {key: stream.status() for key, stream in self._streams.items()}
        situation = Situation(
            uptime_s=time.monotonic() - self._started_s,
            cameras=[
                CameraView(c.name, c.label, streams[c.key])
                for c in self._config.cameras
                if c.enabled
            ],
            gpio=gpio,
            upload=upload,
            pending=totals.by_state["pending"],
            rejected=totals.by_state["rejected"],
            unknown=totals.by_state["unknown"],
            disk_low=storage["disk_free_bytes"] < self._config.storage.min_free_disk_bytes,
            nothing_left_to_delete=self._cleanup.nothing_left_to_delete,
            write_error=self._catalog.write_error or self._list_error(),
            slow_save_s=self._catalog.slow_save_s,
            clock_synchronized=clock_synchronized,
            env_file_exposed=self._config.env_file_exposed,
            default_password=self._default_password(),
        )
        found = alerts(situation)
        level, message = verdict(
            situation, found, since_words(newest[0].captured_at, now) if newest else None
        )
        return {
            "version": __version__,
            "site": self._config.site.site_id,
            "started_at": iso(self._started_at),
            "uptime_s": round(situation.uptime_s),
            "time": iso(now),
            "clock_synchronized": clock_synchronized,
            "verdict": {"level": level, "message": message},
            "cameras": [
                self._camera(camera.key, streams.get(camera.key)) for camera in self._config.cameras
            ],
            "gpio": self.gpio_status(),
            "upload": {
                "enabled": upload.enabled,
                "online": upload.online,
                "paused": upload.paused,
                "queue_size": upload.queue_size,
                "pending": totals.by_state["pending"],
                "rejected": totals.by_state["rejected"],
                "oldest_pending_at": iso(oldest[0].captured_at) if oldest else None,
                "target": upload.target,
                "drain": None if upload.drain is None else vars(upload.drain),
            },
            "storage": storage,
            "alerts": [self._alert(alert, now) for alert in self._remember(found, now)],
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
                "queued": self._uploads.status().queue_size,
                "pending": totals.by_state["pending"],
                "rejected": totals.by_state["rejected"],
                "bytes": now.uploaded_bytes,
                "last_success_at": iso(now.last_upload_at),
            },
            "storage": self._storage(totals.images, totals.bytes),
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
        """Return the pins."""
        gpio = self._gpio.status()
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

    def health(self) -> str:
        """Return ok, degraded, starting or failing."""
        if not all(worker.is_alive() for worker in self._workers()):
            return "failing"
        try:
            level = self.status()["verdict"]["level"]
        except StorageError:  # what can be said without the catalog is said at /api/status
            return "degraded"
        return {"ok": "ok", "starting": "starting"}.get(level, "degraded")

    def _camera(self, key: str, status: StreamStatus | None) -> Document:
        camera = next(camera for camera in self._config.cameras if camera.key == key)
        age_s = status.last_frame_age_s if status else None
        return {
            "key": key,
            "name": camera.name,
            "label": camera.label,
            "enabled": camera.enabled,
            "state": status.state if status else "disabled",
            "error": status.error if status else None,
            "hint": (status.hint or status.advice) if status else None,
            "last_frame_age_ms": None if age_s is None else round(age_s * 1000),
            "fps": status.fps if status else None,
            "width": status.width if status else None,
            "height": status.height if status else None,
            "codec": status.codec if status else None,
        }

    def _storage(self, images: int, size_bytes: int) -> Document:
        free, total = self._catalog.disk_usage()
        return {
            "images": images,
            "bytes": size_bytes,
            "disk_free_bytes": free,
            "disk_total_bytes": total,
            "days_left": self._cleanup.days_left(),
        }

    def _remember(self, found: Sequence[Alert], now: datetime) -> Sequence[Alert]:
        """Note since when each alert stands."""
        standing = {_identity(alert): alert for alert in found}
        self._since = {key: self._since.get(key, now) for key in standing}
        return found

    def _alert(self, alert: Alert, now: datetime) -> Document:
        return {**vars(alert), "since": iso(self._since.get(_identity(alert), now))}


def _identity(alert: Alert) -> str:
    """Tell alerts apart by their code and what they are about, not by changing numbers."""
    subject = alert.message.partition(":")[0]
    return f"{alert.code} {subject}" if alert.code.startswith("camera") else alert.code
