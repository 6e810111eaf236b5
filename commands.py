"""The one-shot commands of the command line, which an installer runs by hand.

Each prints to the terminal and returns the exit code.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Final

from camera.recorder import record
from camera.stream import CameraStream
from capture_service import CaptureService
from cleanup_service import CleanupService
from config import CameraConfig, Config, redact_url
from gpio.backend import GpioBackend
from gpio.pins import Edge
from gpio_service import GpioService
from runtime.clock import Clock
from runtime.stats import Stats
from runtime.worker import Worker, stop_all
from store import archive
from store.catalog import Catalog
from upload.s3_target import S3Target

_CONNECT_S: Final = 15.0
_SETTLE_S: Final = 1.2  # until the moments of a stream's pictures are known
_RESULT_S: Final = 30.0
_POLL_S: Final = 0.1
_STOP_S: Final = 8.0

Say = Callable[[str], None]


def test_capture(config: Config, say: Say) -> int:
    """Take a picture from every enabled camera; 1 if any failed."""
    cameras = [camera for camera in config.cameras if camera.enabled]
    if not cameras:
        say("No camera is enabled: set CAMERA_1_ENABLED=true.")
        return 1
    catalog = Catalog.open_beside(config.storage)
    slots = threading.Semaphore(2)
    streams = {camera.key: CameraStream(camera, config.capture, slots) for camera in cameras}
    capture = CaptureService(
        cameras,
        streams,
        catalog,
        Stats(),
        site_id=config.site.site_id,
        uploads_enabled=False,
        on_saved=lambda image: None,
    )
    workers: list[Worker] = [*capture.workers.values(), *streams.values()]
    say(f"Connecting to {len(cameras)} cameras …")
    try:
        for worker in workers:
            worker.start()
        results = [_test_camera(camera, streams, capture, catalog, say) for camera in cameras]
    finally:
        stop_all(workers, _STOP_S)
        catalog.close()
    failed = results.count(False)
    say(f"{len(results) - failed} of {len(results)} cameras work.")
    return 1 if failed else 0


def _test_camera(
    camera: CameraConfig,
    streams: dict[str, CameraStream],
    capture: CaptureService,
    catalog: Catalog,
    say: Say,
) -> bool:
    title = f"{camera.name} ({camera.label})"
    say(f"{title}: {redact_url(camera.url)} …")
    stream = streams[camera.key]
    deadline_s = time.monotonic() + _CONNECT_S
    while stream.status().state == "connecting" and time.monotonic() < deadline_s:
        stream.pause(_POLL_S)
    status = stream.status()
    if status.state != "streaming":
        say(f"{title}: FAILED: {status.error or 'no answer'}. {status.hint or ''}")
        return False
    stream.pause(_SETTLE_S)
    outcome = capture.capture_now(camera.key, "test", _RESULT_S)
    image = outcome.image
    if image is None:
        say(f"{title}: FAILED: {outcome.reason}. {outcome.hint or ''}")
        return False
    flags = f", {', '.join(image.flags)}" if image.flags else ""
    say(
        f"{title}: ok, {image.width}x{image.height} {status.codec}, {image.size_bytes // 1000} kB,"
        f" {outcome.latency_ms:.0f} ms, {image.offset_ms:+.0f} ms from the moment{flags}:"
        f" {catalog.rows.path_of(image.filename)}"
    )
    if advice := stream.status().advice:
        say(f"{title}: {advice}")
    return True


def record_camera(config: Config, name: str, duration_s: float, say: Say) -> int:
    """Record a camera, by its name or key, to a file of its own here; 1 if it failed."""
    camera = next((one for one in config.cameras if name in (one.name, one.key)), None)
    if camera is None or not camera.url:
        known = ", ".join(one.name for one in config.cameras if one.url)
        say(f"There is no camera {name}, or it has no address; there are: {known}.")
        return 1
    now = datetime.now(config.site.timezone)
    path = Path(f"camera-{camera.name}-{now:%Y%m%d-%H%M%S}.rtsprec")
    title = f"{camera.name} ({camera.label})"
    say(f"{title}: recording {duration_s:g} s of {redact_url(camera.url)} …")
    try:
        # For its owner alone: it shows what the camera saw.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            done = record(camera, config.capture.rtsp_transport, duration_s, file, say)
    except FileExistsError:
        say(f"{path} is there already: try again.")
        return 1
    except OSError as error:
        say(f"{path} cannot be written: {error.strerror}")
        return 1
    if done.failure:
        say(f"{title}: FAILED: {done.failure.reason}. {done.failure.hint}".rstrip())
    if done.cut_short:
        say(f"It ends early: {done.cut_short}.")
    say(f"{path.absolute()}, {path.stat().st_size / 1e6:.1f} MB")
    say(
        "Taken out: user name, password, login answers, addresses of camera and box."
        " The pictures themselves ARE in it: it shows what the camera saw."
    )
    return 1 if done.failure or done.cut_short else 0


def test_gpio(config: Config, load: Callable[[], GpioBackend], duration_s: float, say: Say) -> int:
    """Show the pins' levels, then every trigger for a while; 1 if the pins can't be used."""
    owner = Catalog.owner_of(config.storage) if config.gpio.enabled else None
    if owner is not None:
        say(f"The pins are held by the running daemon, process {owner}: stop it first.")
        return 1
    names = {camera.key: camera.name for camera in config.cameras}
    finished = threading.Event()

    def show(edge: Edge) -> None:
        say(f"{edge.at.astimezone(config.site.timezone):%H:%M:%S.%f} {names[edge.camera_key]} LOW")

    settings = replace(config.gpio, enabled=True, trigger_enabled=True)
    gpio = GpioService(settings, on_edge=show, load=load, clock=Clock())
    gpio.start()
    try:
        deadline_s = time.monotonic() + _CONNECT_S
        while not _is_decided(gpio) and time.monotonic() < deadline_s:
            finished.wait(_POLL_S)
        status = gpio.status()
        if not status.available:
            say(f"GPIO can't be used: {status.error}. {status.hint or ''}")
            return 1
        for pin in status.pins:
            say(f"{names[pin.camera_key]}: pin {pin.pin} is {pin.state}")
        say(f"Waiting {duration_s:g} s for triggers (falling edges) …")
        finished.wait(duration_s)
        for pin in gpio.status().pins:
            say(
                f"{names[pin.camera_key]}: pin {pin.pin} is {pin.state}, {pin.triggers} triggers,"
                f" {pin.suppressed} suppressed as bounce"
            )
        return 0
    finally:
        stop_all([gpio], _STOP_S)


def _is_decided(gpio: GpioService) -> bool:
    status = gpio.status()
    return status.available or status.error is not None


def cleanup_now(config: Config, say: Say) -> int:
    """Run the retention once, beside a running daemon or without one."""
    with closing(Catalog.open_beside(config.storage)) as catalog:
        report = CleanupService(
            config.cleanup,
            catalog,
            Stats(),
            min_free_disk_bytes=config.storage.min_free_disk_bytes,
            uploads_enabled=config.upload.enabled,
        ).run()
    if report.held_back:
        say(f"Nothing was deleted: {report.held_back}.")
    say(
        f"Deleted {report.deleted} images, freed {report.freed_bytes / 1e6:.1f} MB,"
        f" kept {report.kept_pending} older ones that are not uploaded yet."
    )
    return 0


def requeue_unknown(config: Config, say: Say) -> int:
    """Make all images in state `unknown` pending."""
    with closing(Catalog.open_beside(config.storage)) as catalog:
        changed = catalog.states.resolve_unknown("pending")
    say(f"{changed} images are pending again.")
    return 0


def verify(config: Config, say: Say) -> int:
    """Compare every photo with the catalog; 1 if any is missing or was altered."""
    with archive.reading(config.storage) as catalog:
        seen = archive.verify(catalog)
    for finding in seen.findings:
        say(f"{finding.filename}: {finding.problem}")
    if seen.by_size:
        say(f"{seen.by_size} photos could be checked by their size only: no checksum is known.")
    if seen.unlisted:
        say(f"{seen.unlisted} files are not in the catalog: the next start takes them in.")
    wrong = len(seen.findings)
    say(f"{seen.checked} photos verified, {wrong} missing or altered.")
    return 1 if wrong else 0


def export(config: Config, day: date, target: Path | None, say: Say) -> int:
    """Write a day's photos to a zip file; 1 if there are none or some could not be read.

    `target` is the file, or its folder; the working directory when it is `None`.
    """
    target = target or Path()
    if target.is_dir():
        target /= f"photos-{config.site.site_id}-{day}.zip"
    labels = {camera.name: camera.label for camera in config.cameras}
    with archive.reading(config.storage) as catalog:
        try:
            done = archive.export_day(catalog, day, config.site.timezone, target, labels)
        except FileExistsError:
            say(f"{target} is there already: remove it, or name another file with --to.")
            return 1
    for missing in done.left_out:
        say(f"{missing.filename} is left out: {missing.problem}")
    if not done.photos and not done.left_out:
        say(f"There are no photos of {day} ({config.site.timezone}).")
        return 1
    say(f"{done.photos} photos in {target}")
    return 1 if done.left_out else 0


def rebuild(config: Config, say: Say) -> int:
    """Make the catalog anew from the files and the pending list."""
    totals, former = archive.rebuild(config.storage, uploads_enabled=config.upload.enabled)
    if former:
        say(f"The former catalog is kept as {former}")
    pending, unknown = totals.by_state["pending"], totals.by_state["unknown"]
    say(f"{totals.images} photos in the new catalog: {pending} pending, {unknown} unknown.")
    if unknown:
        say(
            "Of the unknown ones nobody knows whether they were uploaded: --requeue-unknown sends"
            " them, the page Uploads can also mark them as sent."
        )
    return 0


def check_config(config: Config, say: Say) -> int:
    """Say what the settings mean."""
    for warning in config.warnings:
        say(f"Note: {warning}")
    for camera in config.cameras:
        pin = "no pin" if camera.pin is None else f"pin {camera.pin}"
        state = "" if camera.enabled else " (disabled)"
        say(f"{camera.name} ({camera.label}){state}: {redact_url(camera.url)}, {pin}")
    say(f"Site: {config.site.site_id}")
    say(f"Images: {config.storage.image_dir}")
    if config.upload.enabled and config.upload.is_s3:
        # Its construction checks the settings.
        S3Target(config.upload, config.site.site_id).close()
    upload = redact_url(config.upload.url) if config.upload.enabled else "switched off"
    say(f"Uploads: {upload}")
    say("The configuration is fine.")
    return 0
