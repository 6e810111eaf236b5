"""The command line and the daemon: construction, wiring, start, stop, signals."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import date, datetime
from functools import partial
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

import commands
from camera.heap import IdleMemory, set_up_heap
from camera.latest_frame import LiveView
from camera.stream import CameraStream, StreamError
from capture_service import CaptureOutcome, CaptureService
from cleanup_service import CleanupService
from clock_service import ClockService
from config import Config, ConfigError, load
from gpio_service import Edge, GpioBackend, GpioService, load_rpi_gpio
from runtime.clock import Clock, is_synchronized
from runtime.stats import Stats
from runtime.version import RELEASED_AT, __version__
from runtime.worker import Worker, stop_all
from status.document import SystemStatus
from store.catalog import Catalog
from store.errors import LockedError, StorageError
from store.pending_file import PendingExporter
from store.reconcile import Reconciler
from upload.http_target import HttpTarget
from upload.s3_target import S3Target
from uploader import UploadService
from web.access import Access
from web.context import Actions, LivePicture, NoPictureError, Site
from web.security import LoginThrottle, Passwords, Sessions
from web.server import WebServer
from web_app import create_app

_log = logging.getLogger("main")

EXIT_WORKER_DIED: Final = 70
EXIT_STORAGE: Final = 74
EXIT_LOCKED: Final = 75
EXIT_CONFIG: Final = 78

_LOG_BYTES: Final = 10_000_000
_LOG_FILES: Final = 5
_GPIO_STOP_S: Final = 1.0
_CAPTURE_STOP_S: Final = 3.5
_STOP_S: Final = 4.5
_DECODES_AT_ONCE: Final = 1
_CAPTURE_RESULT_MARGIN_S: Final = 30.0


class Daemon:
    """All services of the running system, joined by callables."""

    def __init__(
        self,
        config: Config,
        *,
        load_gpio: Callable[[], GpioBackend] | None = None,
        clock_synchronized: Callable[[], bool | None] = is_synchronized,
    ) -> None:
        """Build everything and start nothing; a pretend site brings its own pins and clock.

        Raises:
            StorageError: the storage folder can't be used.
            LockedError: another daemon works on it.
        """
        self.stopped = threading.Event()
        self.exit_code = 0
        self._config = config
        self._catalog = Catalog.open_owner(config.storage)
        clock = Clock(
            synchronized=clock_synchronized,
            released_at=RELEASED_AT,
            newest_at=self._catalog.rows.newest_image_at(),
        )
        self._clock = ClockService(self._catalog, clock)
        stats = Stats()
        slots = threading.Semaphore(_DECODES_AT_ONCE)
        enabled = [camera for camera in config.cameras if camera.enabled]
        self._streams = {c.key: CameraStream(c, config.capture, slots) for c in enabled}
        self._uploads = UploadService(
            config.upload,
            self._catalog,
            stats,
            make_target=partial(
                S3Target if config.upload.enabled and config.upload.is_s3 else HttpTarget,
                config.upload,
                config.site.site_id,
            ),
        )
        self._capture = CaptureService(
            config.cameras,
            self._streams,
            self._catalog,
            stats,
            site_id=config.site.site_id,
            uploads_enabled=config.upload.enabled,
            clock=clock,
            burst_ms=config.capture.burst_ms,
            best_within_ms=config.capture.best_within_ms,
            on_saved=self._uploads.submit,
        )
        self._stats = stats
        self._names = {camera.key: camera.name for camera in config.cameras}
        self._gpio = GpioService(
            config.gpio,
            on_edge=self._on_edge,
            load=load_gpio or partial(load_rpi_gpio, config.storage.state_dir),
        )
        self._clock_synchronized = clock_synchronized
        self._cleanup = CleanupService(
            config.cleanup,
            self._catalog,
            stats,
            min_free_disk_bytes=config.storage.min_free_disk_bytes,
            uploads_enabled=config.upload.enabled,
            clock=clock,
        )
        self._exporter = PendingExporter(self._catalog, config.storage.pending_file)
        self._reconciler = Reconciler(
            self._catalog,
            config.storage,
            uploads_enabled=config.upload.enabled,
            on_done=self._on_reconciled,
        )
        self._live = LiveView(self._streams)
        self._passwords = Passwords(Path(".env"))
        self._web = self._make_web()

    def _make_web(self) -> WebServer:
        status = SystemStatus(
            self._config,
            catalog=self._catalog,
            stats=self._stats,
            streams=self._streams,
            gpio=self._gpio,
            uploads=self._uploads,
            cleanup=self._cleanup,
            workers=self._workers,
            clock_synchronized=self._clock_synchronized,
            default_password=lambda: self._config.web.auth_enabled and self._passwords.is_default,
            list_error=lambda: self._exporter.write_error,
        )
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
            worker.died = self._on_worker_died
            worker.start()
        memory = IdleMemory()
        while not self.stopped.wait(1.0):
            decoded_s = max((stream.decoded_s for stream in self._streams.values()), default=0.0)
            memory.look(decoded_s)
            if self._catalog.damaged:
                _log.critical("the catalog is damaged; restarting to rebuild it")
                self._end(EXIT_WORKER_DIED)
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

    def _on_worker_died(self) -> None:
        self._end(EXIT_WORKER_DIED)

    def _end(self, exit_code: int) -> None:
        self.exit_code = exit_code
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
            raise NoPictureError(error.reason, error.hint) from error
        return LivePicture(frame.jpeg, frame.thumbnail, self._live.age_ms(frame))

    def _retry_uploads(self, filename: str | None) -> int:
        if filename is not None:
            self._catalog.rows.image(filename)
        return self._uploads.retry(filename)

    def _resolve_unknown(self, state: str) -> int:
        changed = self._catalog.states.resolve_unknown(state)
        self._uploads.wake()
        return changed


class _RedactingFormatter(logging.Formatter):
    """Take secrets out of every line, whoever wrote it."""

    def __init__(self, secrets: frozenset[str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._secrets = sorted(secrets, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class _LogFile(RotatingFileHandler):
    """Write to a rotated file; say once when that fails, and go on by itself when it works."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8")
        self._failing = False
        self._failed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self._failed = False
        super().emit(record)
        self._failing = self._failed

    def handleError(self, record: logging.LogRecord) -> None:
        """Say why a line could not be written, instead of a traceback for each."""
        self._failed = True
        if not self._failing:
            print(f"cannot write {self.baseFilename}: {sys.exc_info()[1]}", file=sys.stderr)
        if self.stream is not None and self.stream.closed:  # else it would never be opened again
            self.stream = None


def set_up_logging(config: Config, *, to_file: bool) -> None:
    """Log to the console and, rotated, to `LOG_FILE`."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    failure = None
    if to_file:
        path = config.site.log_file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(_LogFile(path))
        except OSError as error:
            failure = f"cannot write {path}: {error.strerror}"
    for handler in handlers:
        handler.setFormatter(_RedactingFormatter(config.secrets))
    logging.basicConfig(level=config.site.log_level, handlers=handlers)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    if failure:
        _log.warning("%s; logging to the console only", failure)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Save the picture of the moment a trigger fires, and upload it."
    )
    parser.add_argument("--version", action="version", version=__version__)
    command = parser.add_mutually_exclusive_group()
    command.add_argument(
        "--test-capture", action="store_true", help="take a picture from every enabled camera"
    )
    command.add_argument(
        "--test-gpio", action="store_true", help="show the pins and every trigger for a while"
    )
    command.add_argument(
        "--cleanup-now", action="store_true", help="delete images older than the retention"
    )
    command.add_argument("--check-config", action="store_true", help="check the settings only")
    command.add_argument(
        "--requeue-unknown",
        action="store_true",
        help="send images again of which it is not known whether they were uploaded",
    )
    command.add_argument(
        "--verify", action="store_true", help="compare every photo with the catalog"
    )
    command.add_argument(
        "--export", type=_day, metavar="YYYY-MM-DD", help="write a day's photos to a zip file"
    )
    command.add_argument(
        "--rebuild",
        action="store_true",
        help="make the catalog anew from the photos and the list of pending ones",
    )
    command.add_argument(
        "--demo",
        action="store_true",
        help="run on a pretend site: cameras, cars, pins and an upload server of its own",
    )
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FILE",
        help="where --export writes (default photos-SITE-DATE.zip here)",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="keep what --demo stores there (default: nowhere)"
    )
    parser.add_argument(
        "--demo-fault",
        action="append",
        default=[],
        metavar="NAME",
        help="begin --demo with this fault: offline, freeze-r2, jam-r1, ...; can be repeated",
    )
    parser.add_argument(
        "--duration",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long --test-gpio watches (default 10)",
    )
    return parser.parse_args(arguments)


def _day(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007 - a day has no zone
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day: write YYYY-MM-DD") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon or a command and return the exit code."""
    try:
        return _run(_parse(arguments))
    except ConfigError as error:
        for problem in error.problems:
            print(f"configuration: {problem}", file=sys.stderr)
        return EXIT_CONFIG
    except StorageError as error:
        _log.critical("%s", error)
        return EXIT_STORAGE
    except LockedError as error:
        _log.critical("%s", error)
        return EXIT_LOCKED
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace) -> int:
    if options.demo:
        return _run_demo(options.data, options.demo_fault)
    config = load()
    say = partial(print, flush=True)
    if options.check_config:
        return commands.check_config(config, say)
    command = _command(options)
    set_up_logging(config, to_file=command is None)
    if command is None:
        return _run_daemon(config)
    logging.getLogger().setLevel(logging.ERROR)
    return command(config, say)


def _command(options: argparse.Namespace) -> Callable[[Config, commands.Say], int] | None:
    """Return the one-shot command that was asked for, `None` when it is the daemon."""
    if options.test_gpio:
        return lambda config, say: commands.test_gpio(
            config, partial(load_rpi_gpio, config.storage.state_dir), options.duration, say
        )
    if options.export:
        return lambda config, say: commands.export(config, options.export, options.to, say)
    plain = (
        (options.test_capture, commands.test_capture),
        (options.cleanup_now, commands.cleanup_now),
        (options.requeue_unknown, commands.requeue_unknown),
        (options.verify, commands.verify),
        (options.rebuild, commands.rebuild),
    )
    return next((command for asked, command in plain if asked), None)


def _run_daemon(config: Config) -> int:
    for warning in config.warnings:
        _log.warning("%s", warning)
    set_up_heap()
    return _run_until_signal(Daemon(config))


def _run_until_signal(daemon: Daemon) -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stopped.set())
    return daemon.run()


def _run_demo(data: Path | None, faults: Sequence[str]) -> int:
    """Run the daemon on a pretend site, of which nothing is left unless `data` is given."""
    from simulator import demo  # production does without it

    with demo.open_site(data, faults) as (site, config):
        set_up_logging(config, to_file=True)
        set_up_heap()
        daemon = Daemon(
            config, load_gpio=lambda: site.pins, clock_synchronized=site.clock_synchronized
        )
        print(demo.welcome(site, config, data), flush=True)
        return _run_until_signal(daemon)


if __name__ == "__main__":
    exit_code = main()
    logging.shutdown()
    sys.stdout.flush()
    # A thread still inside OpenCV or FFmpeg could abort the process while Python shuts down.
    os._exit(exit_code)
