"""What a photo says of itself: an EXIF segment added to a finished JPEG, its scan untouched."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from PIL import Image
from PIL.ExifTags import IFD, Base

from runtime.version import __version__

_START: Final = b"\xff\xd8"
_APP1: Final = b"\xff\xe1"
_IDS_END: Final = 1 << 62  # above all ids of SQLite
_ASCII: Final = b"ASCII\0\0\0"
_HEAD_BYTES: Final = 65_539  # the longest first segment


@dataclass(frozen=True)
class Facts:
    """The facts written. `edge_at` is aware; `offset_ms` is the shot's moment minus the edge."""

    edge_at: datetime
    offset_ms: float
    site_id: str
    camera: str
    event_id: int


def with_exif(jpeg: bytes, facts: Facts) -> bytes:
    """Return the JPEG with the facts in a segment before all others.

    DateTimeOriginal is the edge in UTC, with its fraction; UserComment holds all facts as JSON.

    Raises:
        ValueError: it is not a JPEG.
    """
    edge = facts.edge_at.astimezone(UTC)
    stamp = edge.strftime("%Y:%m:%d %H:%M:%S")
    everything = {
        "edge_at": edge.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "offset_ms": facts.offset_ms,
        "site": facts.site_id,
        "camera": facts.camera,
        "event": facts.event_id,
        "software": f"camera-capture {__version__}",
    }
    exif = Image.Exif()
    exif[Base.Software] = everything["software"]
    exif[Base.ImageDescription] = f"{facts.site_id} {facts.camera} event {facts.event_id}"
    exif[Base.DateTime] = stamp
    details = exif.get_ifd(IFD.Exif)
    details[Base.DateTimeOriginal] = stamp
    details[Base.OffsetTimeOriginal] = "+00:00"
    details[Base.SubsecTimeOriginal] = f"{edge.microsecond:06d}"
    details[Base.UserComment] = _ASCII + json.dumps(everything).encode("ascii")
    body = exif.tobytes()
    if not jpeg.startswith(_START):
        raise ValueError("not a JPEG")
    segment = _APP1 + (len(body) + 2).to_bytes(2, "big") + body
    return _START + segment + jpeg[len(_START) :]


def event_in_file(path: Path) -> tuple[int, datetime] | None:
    """Return what `event_in` finds in a file; `None` when it can't be read."""
    try:
        with path.open("rb") as file:
            return event_in(file.read(_HEAD_BYTES))
    except OSError:
        return None


def event_in(head: bytes) -> tuple[int, datetime] | None:
    """Return the event's id and edge that `with_exif` wrote, from a JPEG's first 65,539 bytes."""
    size = int.from_bytes(head[4:6])
    text = head[: 4 + size].partition(_ASCII)[2].decode("ascii", "replace")
    try:
        facts, _ = json.JSONDecoder().raw_decode(text)
        event_id, edge_at = int(facts["event"]), datetime.fromisoformat(facts["edge_at"])
        edge_at = edge_at.astimezone(UTC)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return (event_id, edge_at) if 0 < event_id < _IDS_END else None
