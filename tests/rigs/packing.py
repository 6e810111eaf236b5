"""Pictures put into RTP packets as cameras do it, for all codecs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from simulator import rtp

MOST_BYTES = 1400
JPEG_TYPE = 1
JPEG_HEAD_BYTES = 8


def fragments(unit: bytes, codec: str, sizes: Iterable[int]) -> list[bytes]:
    """Split a NAL unit into fragments (FU-A, FU) of these sizes; the last one takes the rest."""
    head, body = (unit[:1], unit[1:]) if codec == "h264" else (unit[:2], unit[2:])
    pieces = []
    for size in sizes:
        if len(body) > size > 0:
            pieces.append(body[:size])
            body = body[size:]
    pieces.append(body)
    found = []
    for number, piece in enumerate(pieces):
        flags = (number == 0) << 7 | (number == len(pieces) - 1) << 6
        if codec == "h264":
            start = bytes([head[0] & 0xE0 | 28, flags | head[0] & 0x1F])
        else:
            start = bytes([head[0] & 0x81 | 49 << 1, head[1], flags | head[0] >> 1 & 0x3F])
        found.append(start + piece)
    return found


def aggregate(units: Sequence[bytes], codec: str) -> bytes:
    """Put several NAL units into one payload (STAP-A, AP)."""
    head = b"\x18" if codec == "h264" else bytes([48 << 1, 1])
    return head + b"".join(len(unit).to_bytes(2, "big") + unit for unit in units)


def payloads(units: Sequence[bytes], codec: str) -> list[bytes]:
    """Split a picture's NAL units, or its one JPEG, into filled-up payloads."""
    if codec == "mjpeg":
        return jpeg_payloads(units[0])
    found = []
    for unit in units:
        whole = len(unit) <= MOST_BYTES
        size = MOST_BYTES - (2 if codec == "h264" else 3)
        sizes = [size] * (len(unit) // size + 1)
        found += [unit] if whole else fragments(unit, codec, sizes)
    return found


def jpeg_payloads(jpeg: bytes) -> list[bytes]:
    """Split a JPEG's scan; its tables go along in the first payload (RFC 2435)."""
    tables, size, at = b"", (0, 0), 2
    while jpeg[at + 1] != 0xDA:
        length = int.from_bytes(jpeg[at + 2 : at + 4], "big")
        segment = jpeg[at + 4 : at + 2 + length]
        if jpeg[at + 1] == 0xDB:
            tables += b"".join(segment[n + 1 : n + 65] for n in range(0, len(segment), 65))
        elif jpeg[at + 1] == 0xC0:
            size = int.from_bytes(segment[3:5], "big"), int.from_bytes(segment[1:3], "big")
        at += 2 + length
    scan = jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]
    found = []
    offset = 0
    while offset < len(scan):
        head = b"\0" + offset.to_bytes(3, "big")
        head += bytes([JPEG_TYPE, 255, size[0] // 8, (size[1] + 7) // 8])
        if not offset:
            head += b"\0\0" + len(tables).to_bytes(2, "big") + tables
        piece = scan[offset : offset + MOST_BYTES - len(head)]
        found.append(head + piece)
        offset += len(piece)
    return found


def packets(
    parts: Sequence[bytes], *, start: int, ticks: int, markers: Sequence[bool] | None = None
) -> list[bytes]:
    """Number a picture's payloads from `start`; the last one is marked, or those told."""
    return [
        rtp.packet(
            part,
            last=markers[place] if markers else place == len(parts) - 1,
            sequence=start + place,
            timestamp=ticks,
            ssrc=7,
        )
        for place, part in enumerate(parts)
    ]
