"""The words on pages: lights with their causes, times in the site's zone, ages, sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from runtime.ages import since_words

_LIGHT_OF: Final = {
    "camera_down": "camera",
    "camera_stalled": "camera",
    "gop_too_long": "camera",
    "gpio_unavailable": "trigger",
    "stuck_low": "trigger",
    "upload_offline": "uploads",
    "upload_paused": "uploads",
    "captive_portal": "uploads",
    "rejected_images": "uploads",
    "unknown_uploads": "uploads",
    "disk_low": "disk",
    "storage_full": "disk",
    "storage_error": "disk",
    "clock_unsynchronized": "clock",
}
_LEVELS: Final = ("off", "ok", "warning", "error")
_LEVEL_WORDS: Final = {"off": "Off", "ok": "OK", "warning": "Look", "error": "Problem"}
_FLAG_WORDS: Final = {
    "stale": "another moment",
    "timing_unsure": "time not sure yet",
    "edge_late": "trigger noticed late",
    "damaged": "damaged",
    "black": "black",
    "smeared": "smeared",
    "frozen": "frozen",
    "blurred": "blurred",
    "untrusted_clock": "clock was not set",
}
_STATE_WORDS: Final = {
    "pending": "waiting for upload",
    "uploaded": "uploaded",
    "rejected": "refused by the server",
    "skipped": "not to be uploaded",
    "missing": "file is gone",
    "unknown": "upload not known",
}


@dataclass
class Light:
    """One line of the first screen; `alerts` are the causes of its level."""

    key: str
    title: str
    level: str
    text: str
    facts: list[str] = field(default_factory=list)
    alerts: list[Mapping[str, Any]] = field(default_factory=list)


def lights(status: Mapping[str, Any], zone: ZoneInfo) -> list[Light]:
    """Return the five lights, and a sixth when something about access is wrong."""
    found = {
        light.key: light
        for light in (
            _cameras(status["cameras"]),
            _trigger(status["gpio"], zone),
            _uploads(status["upload"], zone),
            _disk(status["storage"]),
            _clock(status, zone),
        )
    }
    for alert in status["alerts"]:
        key = _LIGHT_OF.get(alert["code"], "access")
        if key == "access" and key not in found:
            found[key] = Light("access", "Access", "ok", "see below")
        light = found[key]
        light.alerts.append(alert)
        light.level = max(light.level, alert["level"], key=_LEVELS.index)
    return list(found.values())


def flag(name: str) -> str:
    """Return what a flag of a photo means."""
    return _FLAG_WORDS.get(name, name)


def state(name: str) -> str:
    """Return what a state of a photo means."""
    return _STATE_WORDS.get(name, name)


def level(name: str) -> str:
    """Return the word for a light's level."""
    return _LEVEL_WORDS.get(name, name)


def ago(moment: datetime | str) -> str:
    """Return how long ago something was."""
    return since_words(_time(moment), datetime.now(UTC))


def clock_time(moment: datetime | str, zone: ZoneInfo) -> str:
    """Return a time of day, with the day unless it is today."""
    local, today = _time(moment).astimezone(zone), datetime.now(zone).date()
    if local.date() == today:
        return local.strftime("%H:%M:%S")
    year = "" if local.year == today.year else " %Y"
    return local.strftime(f"%-d %b{year} %H:%M:%S")


def day(moment: datetime | str, zone: ZoneInfo) -> str:
    """Return a day as a heading."""
    return _time(moment).astimezone(zone).strftime("%A, %-d %B %Y")


def size(size_bytes: float) -> str:
    """Return a size in the largest unit that fits: 1.5 MB, 12 MB."""
    for unit, step in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= step:
            value = size_bytes / step
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def duration(seconds: float) -> str:
    """Return how long something takes or has taken."""
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{max(1, minutes)} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} days"


def camera_line(camera: Mapping[str, Any]) -> tuple[str, str]:
    """Return the level and the words beneath a camera's live picture."""
    age_ms = camera["last_frame_age_ms"]
    if not camera["enabled"]:
        return "off", "switched off"
    if camera["state"] == "streaming":
        return "ok", "live" if age_ms is None or age_ms < 1500 else f"{age_ms / 1000:.0f} s old"
    if camera["state"] == "connecting":
        return "warning", "connecting"
    return "error", f"{camera['state']}: {camera['error'] or camera['state']}"


def count(number: int, word: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def bars(hours: Sequence[tuple[datetime, int]], zone: ZoneInfo) -> list[dict[str, Any]]:
    """Return the columns of the chart of captures per hour; heights are percent of the highest."""
    most = max((number for _, number in hours), default=0) or 1
    return [
        {
            "hour": begin.astimezone(zone).strftime("%H"),
            "count": number,
            "height": round(number / most * 100),
        }
        for begin, number in hours
    ]


def _time(moment: datetime | str) -> datetime:
    return datetime.fromisoformat(moment) if isinstance(moment, str) else moment


def _cameras(cameras: Sequence[Mapping[str, Any]]) -> Light:
    enabled = [camera for camera in cameras if camera["enabled"]]
    live = sum(camera["state"] == "streaming" for camera in enabled)
    if not enabled:
        return Light("camera", "Cameras", "off", "all switched off")
    level = "ok" if live == len(enabled) else "warning"
    facts = [
        f"{c['label']} ({c['name']}): {c['width']} x {c['height']}, {c['codec']}, {c['fps'] or '?'}"
        " pictures a second"
        for c in enabled
        if c["state"] == "streaming"
    ]
    return Light("camera", "Cameras", level, f"{live} of {len(enabled)} live", facts)


def _trigger(gpio: Mapping[str, Any], zone: ZoneInfo) -> Light:
    if not gpio["enabled"]:
        facts = ["Set GPIO_ENABLED=true in .env to use the pins."]
        return Light("trigger", "Trigger", "off", "pins not used", facts)
    if not gpio["available"]:
        return Light("trigger", "Trigger", "error", "pins can't be used")
    pins = gpio["pins"]
    levels = ", ".join(f"{pin['camera']} {pin['state'] or '?'}" for pin in pins)
    facts = [
        f"{pin['camera']}, pin {pin['pin']}: {pin['state'] or 'not read yet'}, "
        f"{count(pin['triggers'], 'trigger')}, "
        + (
            f"last edge {clock_time(pin['last_edge_at'], zone)}"
            if pin["last_edge_at"]
            else "no edge yet"
        )
        for pin in pins
    ]
    return Light("trigger", "Trigger", "ok", levels, facts)


def _uploads(upload: Mapping[str, Any], zone: ZoneInfo) -> Light:
    if not upload["enabled"]:
        facts = ["Set UPLOAD_ENABLED=true in .env to upload."]
        return Light("uploads", "Uploads", "off", "switched off", facts)
    pending, drain = upload["pending"], upload["drain"]
    waiting = f"{count(pending, 'photo')} waiting" if pending else "all sent"
    if upload["paused"]:
        return Light("uploads", "Uploads", "error", f"paused, {waiting}")
    state = {True: "online", False: "OFFLINE", None: "not tried yet"}[upload["online"]]
    facts = [f"To {upload['target']}"]
    if upload["oldest_pending_at"]:
        facts.append(f"The oldest waits since {clock_time(upload['oldest_pending_at'], zone)}")
    if drain and upload["online"] is not False:
        left = drain["minutes_left"]
        facts.append(
            f"Catching up: {drain['done']} of {drain['total']}"
            + (f", {round(drain['per_minute'])} a minute" if drain["per_minute"] else "")
            + (f", about {max(1, round(left))} min left" if left is not None else "")
        )
    level = "warning" if upload["online"] is False else "ok"
    return Light("uploads", "Uploads", level, f"{state}, {waiting}", facts)


def _disk(storage: Mapping[str, Any]) -> Light:
    free, total = storage["disk_free_bytes"], storage["disk_total_bytes"]
    days = storage["days_left"]
    text = f"{size(free)} free" + (f", {_about(days)}" if days is not None else "")
    facts = [
        f"{size(free)} of {size(total)} free",
        f"{count(storage['images'], 'photo')}, {size(storage['bytes'])}",
    ]
    if days is not None:
        facts.append(f"At today's traffic there is room for {_about(days).removeprefix('about ')}")
    return Light("disk", "Disk", "ok", text, facts)


def _about(days: int) -> str:
    return f"about {count(days, 'day')}" if days else "less than a day"


def _clock(status: Mapping[str, Any], zone: ZoneInfo) -> Light:
    local = _time(status["time"]).astimezone(zone)
    known = {True: "set", False: "not set", None: "set or not: unknown"}
    text = f"{local.strftime('%H:%M')}, {known[status['clock_synchronized']]}"
    return Light("clock", "Clock", "ok", text, [f"Zone {zone.key}, {local.strftime('%A %-d %B')}"])
