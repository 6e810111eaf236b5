"""The catalog's types: shots, images, events, totals, and how rows become them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNTRUSTED: Final = "untrusted_clock"
_NAME: Final = re.compile(
    r"(?P<camera>[a-z0-9-]{1,16})_(?P<epoch>\d{1,11})(?:_\d{1,6})?(?:_b\d{1,3})?\.jpg", re.ASCII
)
IMAGE_STATES: Final = ("pending", "uploaded", "rejected", "skipped", "missing", "unknown")


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture to be saved. `offset_ms` is the moment of the shot minus the edge."""

    jpeg: bytes
    thumbnail: bytes
    width: int
    height: int
    offset_ms: float
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Image:
    """A row of the catalog. Times are aware UTC, `captured_at` is the edge."""

    id: int
    event_id: int | None
    filename: str
    camera: str
    source: str
    captured_at: datetime
    offset_ms: float | None
    flags: tuple[str, ...]
    clock_trusted: bool
    width: int | None
    height: int | None
    size_bytes: int
    sha256: str | None
    state: str
    attempts: int
    next_attempt_at: datetime | None
    wait_for: str | None
    last_error: str | None
    uploaded_at: datetime | None
    remote_location: str | None

    @property
    def named_at(self) -> datetime | None:
        """Return the time in the file's name; it stays when `captured_at` is corrected."""
        found = parse_name(self.filename)
        return found and datetime.fromtimestamp(found[1], UTC)


@dataclass(frozen=True, slots=True)
class Event:
    """An accepted edge and what became of it."""

    id: int
    camera: str
    source: str
    edge_at: datetime
    flags: tuple[str, ...]
    state: str
    reason: str | None
    filenames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts kept by the database itself. `images` and `bytes` leave out missing images."""

    images: int
    bytes: int
    by_state: dict[str, int]
    events: dict[str, int]


@dataclass(frozen=True, slots=True)
class ImageFilter:
    """Which images a listing shows; `None` means any. Times are aware, `until` is exclusive."""

    camera: str | None = None
    state: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class AdoptedFile:
    """A file that gets a row in `state`; `event_id` and `edge_us` are those in the picture."""

    name: str
    camera: str
    epoch: int
    size_bytes: int
    state: str
    event_id: int | None = None
    edge_us: int | None = None


def parse_name(name: str) -> tuple[str, int] | None:
    """Return the camera and epoch second of an image's file name, `None` for other names."""
    match = _NAME.fullmatch(name)
    return (match["camera"], int(match["epoch"])) if match else None


def to_us(moment: datetime) -> int:
    """Return an aware time as microseconds since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_us(microseconds: int) -> datetime:
    """Return the aware UTC time of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=microseconds)


def day_bounds(day: date, timezone: ZoneInfo) -> tuple[datetime, datetime]:
    """Return the first moment of a day in a zone, and of the day after.

    Raises:
        OverflowError: the calendar ends there.
    """
    following = day + timedelta(days=1)
    return datetime.combine(day, time(), timezone), datetime.combine(following, time(), timezone)


def iso(moment: datetime | None) -> str | None:
    """Return an aware time as ISO 8601 in UTC, or `None`."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def image_of(row: sqlite3.Row) -> Image:
    """Return the image of a row of the table `images`."""
    return Image(
        id=row["id"],
        event_id=row["event_id"],
        filename=row["filename"],
        camera=row["camera"],
        source=row["source"],
        captured_at=from_us(row["edge_us"]),
        offset_ms=row["offset_ms"],
        flags=_with_clock(row["flags"], trusted=bool(row["clock_trusted"])),
        clock_trusted=bool(row["clock_trusted"]),
        width=row["width"],
        height=row["height"],
        size_bytes=row["size_bytes"],
        sha256=row["sha256"],
        state=row["state"],
        attempts=row["attempts"],
        next_attempt_at=from_us(row["next_attempt_us"]) if row["next_attempt_us"] else None,
        wait_for=row["wait_for"],
        last_error=row["last_error"],
        uploaded_at=from_us(row["uploaded_us"]) if row["uploaded_us"] else None,
        remote_location=row["remote_location"],
    )


def join_flags(event_flags: str, flags: Sequence[str]) -> str:
    """Return the flags of an event and of its picture as one column."""
    return ",".join((*split_flags(event_flags), *flags))


def split_flags(text: str) -> tuple[str, ...]:
    """Return the flags in a column."""
    return tuple(text.split(",")) if text else ()


def _with_clock(text: str, *, trusted: bool) -> tuple[str, ...]:
    """Return the flags in a column, with `untrusted_clock` until the time is corrected."""
    flags = tuple(flag for flag in split_flags(text) if flag != _UNTRUSTED)
    return flags if trusted else (*flags, _UNTRUSTED)


def event_of(row: sqlite3.Row) -> Event:
    """Return the event of a row of `events` with the columns `filenames` and `clock_trusted`."""
    return Event(
        id=row["id"],
        camera=row["camera"],
        source=row["source"],
        edge_at=from_us(row["edge_us"]),
        flags=_with_clock(row["flags"], trusted=bool(row["clock_trusted"])),
        state=row["state"],
        reason=row["reason"],
        filenames=split_flags(row["filenames"] or ""),
    )
