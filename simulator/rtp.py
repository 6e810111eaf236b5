"""H.264 in RTP, as RFC 6184 has it: single NAL units, and FU-A fragments of large ones."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

PAYLOAD_TYPE: Final = 96
CLOCK_RATE: Final = 90_000
_LARGEST_PAYLOAD: Final = 1400
_FU_A: Final = 28
_VERSION: Final = 0x80
_MARKER: Final = 0x80


def payloads(nals: Iterable[bytes]) -> list[bytes]:
    """Split the NAL units of one picture into payloads."""
    return [payload for nal in nals for payload in _split(nal)]


def packet(payload: bytes, *, last: bool, sequence: int, timestamp: int, ssrc: int) -> bytes:
    """Put the RTP header before a payload; `last` marks the end of the picture."""
    kind = PAYLOAD_TYPE | (_MARKER if last else 0)
    header = struct.pack(">BBHII", _VERSION, kind, sequence & 0xFFFF, timestamp & 0xFFFF_FFFF, ssrc)
    return header + payload


def _split(nal: bytes) -> Iterator[bytes]:
    if len(nal) <= _LARGEST_PAYLOAD:
        yield nal
        return
    indicator, kind = nal[0] & 0xE0 | _FU_A, nal[0] & 0x1F
    size = _LARGEST_PAYLOAD - 2
    for begin in range(1, len(nal), size):
        start = 0x80 if begin == 1 else 0
        end = 0x40 if begin + size >= len(nal) else 0
        yield bytes((indicator, start | end | kind)) + nal[begin : begin + size]
