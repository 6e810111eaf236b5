"""The video that a camera's session description (SDP) offers.

Source: RFC 8866; RFC 6184 8.2.1 and RFC 7798 7.1 for the parameter sets.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

SUPPORTED: Final = ("H264", "H265", "JPEG")

_RTPMAP: Final = re.compile(r"a=rtpmap:\s*(\d+)\s+([^/\s]+)(?:/(\d+))?", re.IGNORECASE)
_SIZE: Final = re.compile(
    r"a=(?:x-dimensions:|framesize:\s*\d+\s)\s*(\d{1,5})[,-](\d{1,5})", re.IGNORECASE
)
_STATIC: Final = {"26": "JPEG", "31": "H261", "32": "MPV", "33": "MP2T", "34": "H263"}
_SETS: Final = ("sprop-vps", "sprop-sps", "sprop-pps", "sprop-parameter-sets")
_CLOCK_HZ: Final = 90_000


@dataclass(frozen=True)
class Video:
    """The first video section. `control` is as written, empty where it is missing.

    `codec` is one of `SUPPORTED`, or what the camera calls it. `parameter_sets` are NAL units.
    """

    codec: str
    payload_type: int
    clock_hz: int
    control: str
    session_control: str
    parameter_sets: tuple[bytes, ...]
    size: tuple[int, int] = (0, 0)
    """Width and height in pixels where they are told."""


def first_video(sdp: str) -> Video | None:
    """Return the first video section; `None` without any."""
    names = dict(_STATIC)
    clocks: dict[str, str | None] = {}
    payload: str | None = None
    control = session_control = ""
    sets: tuple[bytes, ...] = ()
    size = (0, 0)
    in_media = False
    for line in map(str.strip, sdp.splitlines()):
        if line.startswith("m="):
            if payload is not None:
                break
            in_media = True
            words = line[2:].split()
            if words and words[0].lower() == "video":
                payload = words[3] if len(words) > 3 else "?"
        elif line.lower().startswith("a=control:"):
            value = line.partition(":")[2].strip()
            if payload is not None:
                control = value
            elif not in_media:
                session_control = value
        elif payload is not None and (rtpmap := _RTPMAP.match(line)):
            names[rtpmap[1]], clocks[rtpmap[1]] = rtpmap[2], rtpmap[3]
        elif payload is not None and (told := _SIZE.match(line)):
            size = (int(told[1]), int(told[2]))
        elif payload is not None and line.startswith(f"a=fmtp:{payload} "):
            sets = _parameter_sets(line.partition(" ")[2])
    if payload is None:
        return None
    codec = names.get(payload, f"payload type {payload}")
    return Video(
        codec=codec.upper() if codec.upper() in SUPPORTED else codec,
        payload_type=int(payload) if payload.isdecimal() else -1,
        clock_hz=int(clocks.get(payload) or 0) or _CLOCK_HZ,
        control=control,
        session_control=session_control,
        parameter_sets=sets,
        size=size,
    )


def _parameter_sets(fmtp: str) -> tuple[bytes, ...]:
    """Return the NAL units in a format's parameters; what is not base64 is left out."""
    parts = (part.partition("=") for part in fmtp.split(";"))
    found = {name.strip().lower(): value.strip() for name, _, value in parts}
    units = []
    for name in _SETS:
        for word in found.get(name, "").split(","):
            try:
                units.append(base64.b64decode(word + "=" * (-len(word) % 4), validate=True))
            except binascii.Error:
                continue
    return tuple(unit for unit in units if unit)
