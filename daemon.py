"""The daemon: its services, and how they are joined, started and stopped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from camera.frame import StreamError
from camera.heap import IdleMemory
from camera.latest_frame import LiveView
from camera.stream import CameraStream
from capture_service import CaptureOutcome, CaptureService
from cleanup_service import CleanupService
from clock_service import ClockService
from config import Config
from gpio.backend import GpioBackend, load_rpi_gpio
from gpio.pins import Edge
from gpio_service import GpioService
from runtime.clock import Clock, is_synchronized
from runtime.stats import Stats
from runtime.version import RELEASED_AT, __version__
from runtime.worker import Worker, stop_all
from status.document import SystemStatus
from store.catalog import Catalog
from store.pending_file import PendingExporter
from store.reconcile import Reconciler
from upload.http_target import HttpTarget
from upload.s3_target import S3Target
from uploader import UploadService
from web.access import Access
from web.context import Actions, CameraUnavailableError, LivePicture, Site
from web.passwords import Passwords
from web.server import WebServer
from web.sessions import Sessions
from web.throttle import LoginThrottle
from web_app import create_app

_log = logging.getLogger(__name__)

EXIT_WORKER_DIED: Final = 70

_GPIO_STOP_S: Final = 1.0
_CAPTURE_STOP_S: Final = 3.5
_STOP_S: Final = 4.5
_DECODES_AT_ONCE: Final = 1
_CAPTURE_RESULT_MARGIN_S: Final = 30.0


class Daemon:
    """All services, joined by callables."""

    def __init__(
        self,
        config: Config,
        *,
        load_gpio: Callable[[], GpioBackend] | None = None,
        clock_synchronized: Callable[[], bool | None] = is_synchronized,
    ) -> None:
        """Build everything and start nothing. The demo brings its own pins and clock.

        Raises:
            StorageError: the storage folder can't be used.
            LockedError: another daemon works on it.
        """
        self.stopped = threading.Event()
        self.exit_code = 0
        self._config = config
        self._names = {camera.key: camera.name for camera in config.cameras}
        self._stats = Stats()
        self._catalog = Catalog.open_owner(config.storage)
        clock = Clock(
            synchronized=clock_synchronized,
            released_at=RELEASED_AT,
            newest_at=self._catalog.rows.newest_image_at(),
        )
        self._clock = ClockService(self._catalog, clock)
        slots = threading.Semaphore(_DECODES_AT_ONCE)
        enabled = [camera for camera in config.cameras if camera.enabled]
        self._streams = {c.key: CameraStream(c, config.capture, slots) for c in enabled}
        self._live = LiveView(self._streams)
        self._uploads = self._make_uploads()
        self._capture = self._make_capture(clock)
        self._gpio = GpioService(
            config.gpio,
            on_edge=self._on_edge,
            load=load_gpio or partial(load_rpi_gpio, config.storage.state_dir),
            clock=clock,
        )
        self._cleanup = self._make_cleanup(clock)
        self._exporter = PendingExporter(self._catalog, config.storage.pending_file)
        self._reconciler = self._make_reconciler()
        self._passwords = Passwords(Path(".env"))
        self._web = self._make_web(self._make_status(clock))

    def _make_uploads(self) -> UploadService:
        upload, site_id = self._config.upload, self._config.site.site_id
        target = S3Target if upload.enabled and upload.is_s3 else HttpTarget
        make_target = partial(target, upload, site_id)
        return UploadService(upload, self._catalog, self._stats, make_target=make_target)

    def _make_capture(self, clock: Clock) -> CaptureService:
        config = self._config
        return CaptureService(
            config.cameras,
            self._streams,
            self._catalog,
            self._stats,
            site_id=config.site.site_id,
            uploads_enabled=config.upload.enabled,
            clock=clock,
            burst_ms=config.capture.burst_ms,
            best_within_ms=config.capture.best_within_ms,
            on_saved=self._uploads.submit,
        )

    def _make_cleanup(self, clock: Clock) -> CleanupService:
        return CleanupService(
            self._config.cleanup,
            self._catalog,
            self._stats,
            min_free_disk_bytes=self._config.storage.min_free_disk_bytes,
            uploads_enabled=self._config.upload.enabled,
            clock=clock,
        )

    def _make_reconciler(self) -> Reconciler:
        return Reconciler(
            self._catalog,
            self._config.storage,
            uploads_enabled=self._config.upload.enabled,
            on_done=self._on_reconciled,
        )

    def _make_status(self, clock: Clock) -> SystemStatus:
        return SystemStatus(
            self._config,
            catalog=self._catalog,
            stats=self._stats,
            clock=clock,
            cameras={key: stream.status for key, stream in self._streams.items()},
            gpio=self._gpio.status,
            uploads=self._uploads.status,
            retention=self._cleanup,
            workers=self._workers,
            default_password=lambda: self._config.web.auth_enabled and self._passwords.is_default,
            list_error=lambda: self._exporter.write_error,
        )

    def _make_web(self, status: SystemStatus) -> WebServer:
        web = self._config.web
        site = Site(
            cameras=self._config.cameras,
            timezone=self._config.site.timezone,
            stats_refresh_s=self._config.site.stats_refresh_s,
            catalog=self._catalog.rows,
            status=status,
            actions=Actions(
                capture=self._capture_by_hand,
                latest=self._latest,
                run_cleanup=self._cleanup.run,
                preview_cleanup=self._cleanup.preview,
                retry_uploads=self._retry_uploads,
                resolve_unknown=self._resolve_unknown,
            ),
        )
        access = Access(
            enabled=web.auth_enabled,
            api_token=web.api_token,
            passwords=self._passwords,
            sessions=Sessions(
                self._config.storage.state_dir, self._passwords, web.session_idle_minutes * 60
            ),
            throttle=LoginThrottle(),
        )
        app = create_app(site, access, trusted_proxies=web.trusted_proxies)
        return WebServer(app, web.bind_ip, web.bind_port)

    def _workers(self) -> Sequence[Worker]:
        """Return all workers, consumers before producers."""
        return (
            self._exporter,
            *self._uploads.workers,
            self._cleanup,
            self._clock,
            self._reconciler,
            *self._capture.workers.values(),
            *self._streams.values(),
            self._gpio,
            self._web,
        )

    def run(self) -> int:
        """Start everything, wait for the end, stop everything; return the exit code."""
        _log.info("camera capture %s starts, site %s", __version__, self._config.site.site_id)
        for worker in self._workers():
            worker.died = self._fail
            worker.start()
        memory = IdleMemory()
        while not self.stopped.wait(1.0):
            memory.look(max((s.decoded_s for s in self._streams.values()), default=0.0))
            if self._catalog.damaged:
                _log.critical("the catalog is damaged; restarting to rebuild it")
                self._fail()
        self._stop()
        _log.info("stopped")
        return self.exit_code

    def _stop(self) -> None:
        for stream in self._streams.values():
            stream.give_up_waiting()
        accepting = (self._gpio, *self._capture.workers.values())
        survivors = stop_all([self._gpio], _GPIO_STOP_S)
        survivors += stop_all(self._capture.workers.values(), _CAPTURE_STOP_S)
        rest = [worker for worker in self._workers() if worker not in accepting]
        survivors += stop_all(rest, _STOP_S)
        if not survivors:
            self._catalog.close()

    def _fail(self) -> None:
        """End the process with an exit code that makes systemd restart it."""
        self.exit_code = EXIT_WORKER_DIED
        self.stopped.set()

    def _on_edge(self, edge: Edge) -> None:
        self._stats.count_trigger(self._names[edge.camera_key])
        flags = ("edge_late",) if edge.late else ()
        self._capture.request(edge.camera_key, edge_s=edge.monotonic_s, flags=flags)

    def _on_reconciled(self) -> None:
        self._exporter.allow()
        self._uploads.wake()

    def _capture_by_hand(self, camera_key: str) -> CaptureOutcome:
        timeout_s = self._config.capture.timeout_s + _CAPTURE_RESULT_MARGIN_S
        return self._capture.capture_now(camera_key, "manual", timeout_s)

    def _latest(self, camera_key: str) -> LivePicture:
        try:
            frame = self._live.frame(camera_key)
        except StreamError as error:
            raise CameraUnavailableError(error.reason, error.hint) from error
        return LivePicture(frame.jpeg, frame.thumbnail, self._live.age_ms(frame))

    def _retry_uploads(self, filename: str | None) -> int:
        if filename is not None:
            self._catalog.rows.image(filename)
        return self._uploads.retry(filename)

    def _resolve_unknown(self, state: str) -> int:
        changed = self._catalog.states.resolve_unknown(state)
        self._uploads.wake()
        return changed
