"""What is wrong, in words with a next step, and the verdict in one sentence: pure rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from camera.frame import StreamStatus
from gpio.pins import GpioStatus
from upload.progress import UploadStatus

_LEVELS: Final = ("starting", "ok", "warning", "error")
_START_S: Final = 10.0


@dataclass(frozen=True)
class Alert:
    """One thing that is wrong. `level` is warning or error, `subject` a camera's name or empty.

    Code and subject tell alerts apart: numbers in the message change while one stands.
    """

    code: str
    level: str
    message: str
    hint: str
    subject: str = ""


@dataclass(frozen=True)
class CameraView:
    """An enabled camera for the rules."""

    key: str
    name: str
    label: str
    status: StreamStatus


@dataclass(frozen=True)
class Situation:
    """All that the rules look at."""

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
    found = [
        *(alert for alert in of_cameras if alert is not None),
        *_gpio(now),
        *_upload(now),
        *_storage(now),
        *_rest(now),
    ]
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


def _camera(camera: CameraView, uptime_s: float) -> Alert | None:
    status, name = camera.status, f"camera {camera.name} ({camera.label})"

    def alert(code: str, level: str, text: str, hint: str | None) -> Alert:
        return Alert(code, level, f"{name} {text}", hint or "", camera.name)

    if status.state == "down":
        return alert("camera_down", "error", f"is down: {status.error}", status.hint)
    if status.state == "stalled":
        return alert("camera_stalled", "error", f"sends no picture: {status.error}", status.hint)
    if status.state == "connecting" and uptime_s >= _START_S:
        hint = "Check its power, network cable and address."
        return alert("camera_down", "error", "has sent no picture yet", hint)
    if status.ring_too_short:
        text = "sends so much that its last seconds don't fit in memory"
        hint = "Set its I-frame interval to 1 s and its bit rate to 8 Mbit/s or less."
        return alert("gop_too_long", "warning", text, hint)
    if status.gop_too_long:
        text = f"has an I-frame interval of {status.gop_s or 0:.0f} s"
        return alert("gop_too_long", "warning", text, status.advice)
    return None


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
    found = []
    if upload.paused is not None:
        text = f"uploads are paused: {upload.paused}"
        found.append(Alert("upload_paused", "error", text, upload.hint or ""))
    if upload.captive_portal:
        text = "a captive portal answers instead of the upload server"
        found.append(Alert("captive_portal", "warning", text, "Log in to the network's portal."))
    elif upload.enabled and upload.online is False:
        text = f"offline: {now.pending} images wait for the upload server"
        hint = "They are kept and sent when the connection is back. Check the internet access."
        found.append(Alert("upload_offline", "warning", text, hint))
    if now.rejected:
        text = f"{now.rejected} images were refused by the upload server"
        found.append(Alert("rejected_images", "warning", text, "Look at them and retry by hand."))
    if now.unknown:
        text = f"of {now.unknown} images it is not known whether they were uploaded"
        hint = "Send them again or mark them as sent."
        found.append(Alert("unknown_uploads", "warning", text, hint))
    return found


def _storage(now: Situation) -> list[Alert]:
    found = []
    if now.write_error is not None:
        text = f"the storage can't be written: {now.write_error}"
        hint = "New photos may be lost until that is solved."
        found.append(Alert("storage_error", "error", text, hint))
    elif now.slow_save_s is not None:
        text = f"the disk is slow: the last photo took {now.slow_save_s:.0f} s to save"
        found.append(Alert("storage_error", "warning", text, "The card may be wearing out."))
    if now.nothing_left_to_delete:
        text = "the disk is nearly full of images that are not uploaded yet"
        found.append(Alert("storage_full", "error", text, "Restore the upload or free some space."))
    elif now.disk_low:
        hint = "Use a larger card or a shorter IMAGE_RETENTION_DAYS."
        found.append(Alert("disk_low", "warning", "the disk is nearly full", hint))
    return found


def _rest(now: Situation) -> list[Alert]:
    found = []
    if now.clock_synchronized is False:
        hint = "Check the network time (timedatectl); photo times may be wrong."
        found.append(
            Alert("clock_unsynchronized", "warning", "the clock is not synchronised", hint)
        )
    if now.default_password:
        text = "the web password is still the default one"
        found.append(Alert("default_password", "warning", text, "Log in and choose another one."))
    if now.env_file_exposed:
        text = "other users can read the .env file"
        found.append(Alert("env_permissions", "warning", text, "Run: chmod 600 .env"))
    return found
