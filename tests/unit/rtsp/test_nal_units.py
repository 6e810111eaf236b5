"""What the first bytes of NAL units tell, on units made up by hand and on the demo's clips."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtsp.nal_units import START_CODE, Unit, follows, identify, is_intra, may_hold_fields
from simulator import clip
from tests.rigs.gops import encode, moving_noise

CLIP = Path(__file__).parents[3] / "demo" / "clips" / "entry.h264"


@pytest.mark.parametrize(
    ("codec", "unit", "expected"),
    [
        ("h264", b"\x41\x9a\x10", Unit(is_slice=True, is_first=True)),
        ("h264", b"\x41\x44\x10", Unit(is_slice=True)),
        ("h264", b"\x65\x88\x80", Unit(is_slice=True, is_first=True, is_key=True)),
        ("h264", b"\x67\x42\x00", Unit(is_set=True, is_sps=True)),
        ("h264", b"\x68\xce\x38", Unit(is_set=True)),
        ("h264", b"\x09\xf0", Unit(is_delimiter=True)),
        ("h264", b"\x06\x06\x01\x06\x80", Unit()),  # 24 pictures later: intra refresh
        ("h264", b"\x06\x05\x02\xaa\xbb\x80", Unit()),
        ("h264", b"\x06\x06\x01\xc4\x80", Unit(is_key=True)),
        ("h264", b"\x06\x05\x01\xaa\x06\x01\xc4\x80", Unit(is_key=True)),
        ("h264", b"\x06\xff\xff\xff", Unit()),
        ("h264", b"\x65", Unit()),
        ("h264", b"", Unit()),
        ("h265", b"\x02\x01\xd0", Unit(is_slice=True, is_first=True)),
        ("h265", b"\x02\x01\x50", Unit(is_slice=True)),
        ("h265", b"\x26\x01\xaf", Unit(is_slice=True, is_first=True, is_key=True)),
        ("h265", b"\x2a\x01\xaf", Unit(is_slice=True, is_first=True, is_key=True)),
        ("h265", b"\x40\x01\x0c", Unit(is_set=True)),
        ("h265", b"\x42\x01\x01", Unit(is_set=True, is_sps=True)),
        ("h265", b"\x46\x01\x50", Unit(is_delimiter=True)),
        ("h265", b"\x4e\x01\x05", Unit()),
        ("h265", b"\x26\x01", Unit()),
    ],
)
def test_units(codec: str, unit: bytes, expected: Unit) -> None:
    found = identify(unit, codec)
    assert (found.is_slice, found.is_key, found.is_set, found.is_sps, found.is_delimiter) == (
        *(expected.is_slice, expected.is_key, expected.is_set, expected.is_sps),
        expected.is_delimiter,
    )
    assert not found.is_slice or found.is_first == expected.is_first


@pytest.mark.parametrize(
    ("slice_", "expected"),
    [
        (b"\x41\x88", True),  # first_mb 0 ("1"), slice_type 7 ("0001000")
        (b"\x41\xb0", True),  # 0, 2 ("011")
        (b"\x41\x9a", False),  # 0, 5 ("00110")
        (b"\x41\xc0", False),  # 0, 0 ("1")
        (b"\x41", False),
    ],
)
def test_intra_slices(slice_: bytes, expected: bool) -> None:
    assert is_intra(slice_) is expected


def test_keyframes_of_an_encoder() -> None:
    for picture in clip.load(CLIP).pictures:
        seen = [identify(nal, "h264") for nal in picture.nals]
        slices = [unit for unit in seen if unit.is_slice]
        assert [unit.is_first for unit in slices] == [True]
        assert any(unit.is_key for unit in seen) == picture.is_key


@pytest.mark.parametrize("name", ["entry", "exit", "aux"])
def test_pictures_that_were_encoded_next_to_each_other(name: str) -> None:
    path = Path(__file__).parents[3] / "demo" / "clips" / f"{name}.h264"
    pictures = [
        b"".join(START_CODE + nal for nal in picture.nals)
        for picture in clip.load(path).pictures[:24]
    ]
    key = pictures[0]
    for number in range(22):
        assert follows(key, pictures[number], pictures[number + 1])
        assert not follows(key, pictures[number], pictures[number + 2])


@pytest.mark.parametrize("broken", [b"", b"\0\0\0\1\x67\x64", b"\0\0\0\1\x41", b"noise"])
def test_what_cannot_be_told_does_not_follow(broken: bytes) -> None:
    assert not follows(broken, broken, broken)


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ("interlaced=1", True),
        ("interlaced=0", False),
        ("fake-interlaced=1", True),
        ("profile=high444:bframes=0", False),
        ("interlaced=1:cqm=jvt", True),
        ("interlaced=0:cqm=jvt", False),
    ],
)
def test_interlaced_streams_may_hold_fields(options: str, fields: bool) -> None:
    coded = encode("libx264", options, moving_noise(2))
    [sps] = [unit for unit in coded[0].split(START_CODE) if unit[:1] and unit[0] & 0x1F == 7]
    assert may_hold_fields(sps) == fields
    assert not may_hold_fields(sps[:6])
