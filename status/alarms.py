"""What is wrong and what to do about it, and the verdict in one sentence: pure rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from camera.frame import StreamStatus
from gpio.pins import GpioStatus
from upload.progress import UploadStatus

_LEVELS: Final = ("starting", "ok", "warning", "error")
_START_S: Final = 10.0

_Rule = tuple[bool, str, str, str, str | None]
"""Whether something is wrong, then code, level, text and hint of the alert."""


@dataclass(frozen=True)
class Alert:
    """One thing that is wrong. `level` is warning or error, `subject` a camera's name or empty.

    Code and subject identify it: the numbers in its message change while it lasts.
    """

    code: str
    level: str
    message: str
    hint: str
    subject: str = ""


@dataclass(frozen=True)
class CameraView:
    """An enabled camera, as the rules see it."""

    key: str
    name: str
    label: str
    status: StreamStatus


@dataclass(frozen=True)
class Situation:
    """Everything the rules look at."""

    uptime_s: float
    cameras: Sequence[CameraView]
    gpio: GpioStatus
    upload: UploadStatus
    pending: int
    rejected: int
    unknown: int
    disk_low: bool
    nothing_left_to_delete: bool
    write_error: str | None
    """Why the last attempt to write failed."""
    slow_save_s: float | None
    """How long the last picture took to save, if that was too long."""
    clock_synchronized: bool | None
    env_file_exposed: bool
    default_password: bool = False


def alerts(now: Situation) -> list[Alert]:
    """Return what is wrong, errors first."""
    of_cameras = (_camera(camera, now.uptime_s) for camera in now.cameras)
    found = [*chain(*of_cameras), *_gpio(now), *_upload(now), *_storage(now), *_rest(now)]
    return sorted(found, key=lambda alert: -_LEVELS.index(alert.level))


def verdict(now: Situation, found: Sequence[Alert], last_image_at: str | None) -> tuple[str, str]:
    """Return the level and one sentence on whether the site works."""
    connecting = [c for c in now.cameras if c.status.state == "connecting"]
    if connecting and now.uptime_s < _START_S:
        return "starting", "Starting: connecting to the cameras."
    if found:
        worst = found[0]
        more = f" And {len(found) - 1} more." if len(found) > 1 else ""
        return worst.level, f"Needs attention: {worst.message}. {worst.hint}".rstrip() + more
    return "ok", "Working." + (f" Last photo {last_image_at}." if last_image_at else "")


def _raised(*rules: _Rule, of: str = "", subject: str = "") -> list[Alert]:
    return [
        Alert(code, level, of + text, hint or "", subject)
        for is_wrong, code, level, text, hint in rules
        if is_wrong
    ]


def _camera(camera: CameraView, uptime_s: float) -> list[Alert]:
    """Return what is most wrong with a camera, if anything."""
    status = camera.status
    return _raised(
        (
            status.state == "down",
            "camera_down",
            "error",
            f"is down: {status.error}",
            status.hint,
        ),
        (
            status.state == "stalled",
            "camera_stalled",
            "error",
            f"sends no picture: {status.error}",
            status.hint,
        ),
        (
            status.state == "connecting" and uptime_s >= _START_S,
            "camera_down",
            "error",
            status.error or "has sent no picture yet",
            status.hint or "Check its power, network cable and address.",
        ),
        (
            status.ring_too_short,
            "gop_too_long",
            "warning",
            "sends so much that its last seconds don't fit in memory",
            "Set its I-frame interval to 1 s and its bit rate to 8 Mbit/s or less.",
        ),
        (
            status.gop_too_long,
            "gop_too_long",
            "warning",
            f"has an I-frame interval of {status.gop_s or 0:.0f} s",
            status.advice,
        ),
        of=f"camera {camera.name} ({camera.label}) ",
        subject=camera.name,
    )[:1]


def _gpio(now: Situation) -> list[Alert]:
    gpio = now.gpio
    if not gpio.enabled:
        return []
    if gpio.error is not None:
        return [Alert("gpio_unavailable", "error", f"GPIO: {gpio.error}", gpio.hint or "")]
    names = {camera.key: camera.name for camera in now.cameras}
    return [
        Alert(
            "stuck_low",
            "warning",
            f"pin {pin.pin} has been LOW for a long time",
            "Check the loop detector's relay and whether its wire is cut to ground.",
            names[pin.camera_key],
        )
        for pin in gpio.pins
        if pin.stuck_low
    ]


def _upload(now: Situation) -> list[Alert]:
    upload = now.upload
    offline = upload.enabled and upload.online is False and not upload.captive_portal
    return _raised(
        (
            upload.paused is not None,
            "upload_paused",
            "error",
            f"uploads are paused: {upload.paused}",
            upload.hint,
        ),
        (
            upload.captive_portal,
            "captive_portal",
            "warning",
            "a captive portal answers instead of the upload server",
            "Log in to the network's portal.",
        ),
        (
            offline,
            "upload_offline",
            "warning",
            f"offline: {now.pending} images wait for the upload server",
            "They are kept and sent when the connection is back. Check the internet access.",
        ),
        (
            now.rejected > 0,
            "rejected_images",
            "warning",
            f"{now.rejected} images were refused by the upload server",
            "Look at them and retry by hand.",
        ),
        (
            now.unknown > 0,
            "unknown_uploads",
            "warning",
            f"of {now.unknown} images it is not known whether they were uploaded",
            "Send them again or mark them as sent.",
        ),
    )


def _storage(now: Situation) -> list[Alert]:
    return _raised(
        (
            now.write_error is not None,
            "storage_error",
            "error",
            f"the storage can't be written: {now.write_error}",
            "New photos may be lost until that is solved.",
        ),
        (
            now.slow_save_s is not None and now.write_error is None,
            "storage_error",
            "warning",
            f"the disk is slow: the last photo took {now.slow_save_s or 0:.0f} s to save",
            "The card may be wearing out.",
        ),
        (
            now.nothing_left_to_delete,
            "storage_full",
            "error",
            "the disk is nearly full of images that are not uploaded yet",
            "Restore the upload or free some space.",
        ),
        (
            now.disk_low and not now.nothing_left_to_delete,
            "disk_low",
            "warning",
            "the disk is nearly full",
            "Use a larger card or a shorter IMAGE_RETENTION_DAYS.",
        ),
    )


def _rest(now: Situation) -> list[Alert]:
    return _raised(
        (
            now.clock_synchronized is False,
            "clock_unsynchronized",
            "warning",
            "the clock is not synchronised",
            "Check the network time (timedatectl); photo times may be wrong.",
        ),
        (
            now.default_password,
            "default_password",
            "warning",
            "the web password is still the default one",
            "Log in and choose another one.",
        ),
        (
            now.env_file_exposed,
            "env_permissions",
            "warning",
            "other users can read the .env file",
            "Run: chmod 600 .env",
        ),
    )
