"""What bytes tell of slices, on units made up by hand and on the demo's clips."""

from __future__ import annotations

from pathlib import Path

import pytest

from nal_units import slices_of, without_parameter_sets
from simulator import clip

CLIP = Path(__file__).parents[2] / "demo" / "clips" / "entry.h264"
SPS, PPS, SEI, DELIMITER = (b"\0\0\0\1" + bytes([kind, 1, 2]) for kind in (0x67, 0x68, 0x06, 0x09))
FIRST, LATER = b"\0\0\1\x41\x9a\x10", b"\0\0\1\x41\x44\x10"
H265_SETS = b"\0\0\0\1\x40\x01\xaa" + b"\0\0\1\x42\x01\xaa" + b"\0\0\1\x44\x01\xaa"
H265_FIRST, H265_LATER = b"\0\0\1\x26\x01\xaf\x10", b"\0\0\1\x26\x01\x2f\x10"


@pytest.mark.parametrize(
    ("codec", "packet", "expected"),
    [
        ("h264", FIRST, (1, False)),
        ("h264", DELIMITER + SPS + PPS + SEI + FIRST + LATER + LATER, (3, False)),
        ("h264", LATER, (1, True)),
        ("h264", SPS + PPS, (0, False)),
        ("h264", b"", (0, False)),
        ("h264", b"\0\0\1", (0, False)),
        ("h264", b"\0\0\1\x41", (1, False)),
        ("h264", b"\xff" * 50, (0, False)),
        ("h265", H265_SETS + H265_FIRST + H265_LATER, (2, False)),
        ("h265", H265_LATER, (1, True)),
        ("mjpeg", b"\xff\xd8\0\0\1\x41\x44", (1, False)),
    ],
)
def test_slices_are_counted(codec: str, packet: bytes, expected: tuple[int, bool]) -> None:
    assert slices_of(packet, codec) == expected


def test_every_picture_of_an_encoder_begins_with_its_first_slice() -> None:
    pictures = clip.load(CLIP).pictures
    found = {slices_of(b"".join(b"\0\0\1" + unit for unit in p.nals), "h264") for p in pictures}
    assert found == {(1, False)}


@pytest.mark.parametrize(
    ("codec", "packet", "expected"),
    [
        ("h264", SPS + PPS + FIRST, FIRST),
        ("h264", DELIMITER + SPS + b"\0" + FIRST + LATER, b"\0" + FIRST + LATER),
        ("h264", FIRST + SPS, FIRST + SPS),
        ("h264", SPS + PPS, b""),
        ("h264", b"no units", b"no units"),
        ("h265", H265_SETS + H265_LATER, H265_LATER),
        ("mjpeg", SPS, SPS),
    ],
)
def test_leading_parameter_sets_are_taken_off(codec: str, packet: bytes, expected: bytes) -> None:
    assert without_parameter_sets(packet, codec) == expected
