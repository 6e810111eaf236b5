"""What the bytes of an H.264 or H.265 packet tell without decoding: its NAL units.

Source: ITU-T H.264 and H.265, annex B (byte stream) and 7.3.1 (NAL unit header).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_START: Final = b"\0\0\1"
_PARAMETER_SETS: Final = {"h264": frozenset({7, 8, 9}), "h265": frozenset({32, 33, 34, 35})}
_H264_SLICES: Final = frozenset({1, 2, 5})
_H265_SLICES_END: Final = 32
_HEADER_BYTES: Final = {"h264": 1, "h265": 2}


def slices_of(packet: bytes, codec: str) -> tuple[int, bool]:
    """Return how many slices a packet holds and whether a picture's first one is missing.

    A picture of a codec without NAL units is one slice.
    """
    header_bytes = _HEADER_BYTES.get(codec)
    if header_bytes is None:
        return 1, False
    slices, headless = 0, False
    for kind, at in _units(packet, codec):
        if kind in _H264_SLICES if codec == "h264" else kind < _H265_SLICES_END:
            # Both codecs set the bit after the header for the first slice of a picture: it is
            # first_mb_in_slice = 0 or first_slice_segment_in_pic_flag.
            following = packet[at + header_bytes : at + header_bytes + 1]
            if not slices and following:
                headless = not following[0] & 0x80
            slices += 1
    return slices, headless


def without_parameter_sets(packet: bytes, codec: str) -> bytes:
    """Return a packet without the parameter sets and delimiters it begins with."""
    if codec not in _PARAMETER_SETS:
        return packet
    for kind, at in _units(packet, codec):
        if kind not in _PARAMETER_SETS[codec]:
            start = at - len(_START)
            return packet[start - 1 if start and packet[start - 1] == 0 else start :]
    return b"" if packet.startswith((_START, b"\0" + _START)) else packet


def _units(packet: bytes, codec: str) -> Iterator[tuple[int, int]]:
    """Yield each NAL unit's type and where its header is."""
    at = packet.find(_START)
    while 0 <= at < len(packet) - len(_START):
        at += len(_START)
        header = packet[at]
        yield header & 0x1F if codec == "h264" else header >> 1 & 0x3F, at
        at = packet.find(_START, at)
