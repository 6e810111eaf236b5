"""The video that a camera's session description (SDP) offers.

Source: RFC 8866; RFC 6184 8.2.1 and RFC 7798 7.1 for the parameter sets.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SUPPORTED: Final = ("H264", "H265", "JPEG")

_SECTION: Final = re.compile(r"^(?=[ \t]*m=)", re.MULTILINE)
_CONTROL: Final = re.compile(r"^[ \t]*a=control:[ \t]*(\S*)", re.IGNORECASE | re.MULTILINE)
_FMTP: Final = re.compile(r"a=fmtp:\s*(\d+)\s+(.*)", re.IGNORECASE)
_RTPMAP: Final = re.compile(r"a=rtpmap:\s*(\d+)\s+([^/\s]+)(?:/(\d+))?", re.IGNORECASE)
_SIZE: Final = re.compile(
    r"a=(?:x-dimensions:|framesize:\s*\d+\s)\s*(\d{1,5})[,-](\d{1,5})", re.IGNORECASE
)
_STATIC: Final = {"26": "JPEG", "31": "H261", "32": "MPV", "33": "MP2T", "34": "H263"}
_SETS: Final = ("sprop-vps", "sprop-sps", "sprop-pps", "sprop-parameter-sets")
_CLOCK_HZ: Final = 90_000


@dataclass(frozen=True)
class Video:
    """A video section. `control` is as written, empty when missing.

    `codec` is one of `SUPPORTED`, or what the camera calls it. `parameter_sets` are NAL units.
    """

    codec: str
    payload_type: int
    clock_hz: int
    control: str
    session_control: str
    parameter_sets: tuple[bytes, ...]
    size: tuple[int, int] = (0, 0)
    """Width and height in pixels; 0 when not given."""
    has_order_numbers: bool = False
    """H.265 payloads carry decoding order numbers."""


def first_video(sdp: str) -> Video | None:
    """Return the first video section that can be received, else the first; `None` without any."""
    session, *sections = _SECTION.split(sdp)
    found = (_video(section, _control(session)) for section in sections)
    videos = [video for video in found if video is not None]
    return next((video for video in videos if video.codec in SUPPORTED), next(iter(videos), None))


def _control(section: str) -> str:
    """Return the URL of a section, the last one it gives; empty when missing."""
    return next(iter(_CONTROL.findall(section)[-1:]), "")


def _video(section: str, session_control: str) -> Video | None:
    first, *lines = map(str.strip, section.splitlines())
    words = first.removeprefix("m=").split()
    if not words or words[0].lower() != "video":
        return None
    payload = words[3] if len(words) > 3 else "?"
    names = dict(_STATIC)
    clocks: dict[str, str | None] = {}
    parameters: dict[str, str] = {}
    size = (0, 0)
    for line in lines:
        if rtpmap := _RTPMAP.match(line):
            names[rtpmap[1]], clocks[rtpmap[1]] = rtpmap[2], rtpmap[3]
        elif told := _SIZE.match(line):
            size = (int(told[1]), int(told[2]))
        elif (fmtp := _FMTP.match(line)) and fmtp[1] == payload:
            parts = (part.partition("=") for part in fmtp[2].split(";"))
            parameters = {name.strip().lower(): value.strip() for name, _, value in parts}
    codec = names.get(payload, f"payload type {payload}")
    return Video(
        codec=codec.upper() if codec.upper() in SUPPORTED else codec,
        payload_type=int(payload) if payload.isdecimal() else -1,
        clock_hz=int(clocks.get(payload) or 0) or _CLOCK_HZ,
        control=_control(section),
        session_control=session_control,
        parameter_sets=_parameter_sets(parameters),
        size=size,
        has_order_numbers=parameters.get("sprop-max-don-diff", "0").strip("0") != "",
    )


def _parameter_sets(parameters: Mapping[str, str]) -> tuple[bytes, ...]:
    """Return the NAL units in a format's parameters; ignore what is not base64."""
    units = []
    for name in _SETS:
        for word in parameters.get(name, "").split(","):
            try:
                units.append(base64.b64decode(word + "=" * (-len(word) % 4), validate=True))
            except (binascii.Error, ValueError):  # not ASCII
                continue
    return tuple(unit for unit in units if unit)
