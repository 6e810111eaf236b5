"""The pretend site's parts: frame numbers, clips, RTP, and the loops' contact."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo import frame_number
from simulator import clip, rtp
from simulator.pins import InductionLoop, SimulatedPins
from simulator.rtsp_camera import SimulatedCamera
from tests.rigs.gates import CLIPS, NAMES
from tests.rigs.gpio import FakeGpio


@given(st.integers(0, 65535), st.integers(0, 255))
def test_a_frame_number_is_read_again(number: int, ground: int) -> None:
    picture = np.full((720, 1280, 3), ground, np.uint8)
    frame_number.draw(picture, number)
    assert frame_number.read(picture) == number


@pytest.mark.parametrize("shade", [0, 127, 255])
def test_a_picture_without_a_number_has_none(shade: int) -> None:
    assert frame_number.read(np.full((720, 1280, 3), shade, np.uint8)) is None


def test_a_damaged_number_is_not_another_number() -> None:
    picture = np.zeros((720, 1280, 3), np.uint8)
    frame_number.draw(picture, 1234)
    picture[-8:, -8:] = 255 - picture[-8:, -8:]
    assert frame_number.read(picture) is None


def test_the_clips_are_small_and_differ() -> None:
    files = [CLIPS / f"{name}.h264" for name in NAMES]
    assert sum(path.stat().st_size for path in files) <= 5_000_000
    clips = [clip.load(path) for path in files]
    plates = [visit.plate for found in clips for visit in found.visits]
    assert len(set(plates)) == len(plates) >= 2 * len(clips)
    assert len({found.label for found in clips}) == len(clips)


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_has_a_keyframe_a_second_and_cars_that_stand(name: str) -> None:
    found = clip.load(CLIPS / f"{name}.h264")
    keys = [number for number, picture in enumerate(found.pictures) if picture.is_key]
    assert keys == list(range(0, len(found.pictures), found.fps))
    for visit in found.visits:
        assert 0 < visit.stops_at_frame < visit.leaves_at_frame < len(found.pictures)
        assert visit.leaves_at_frame - visit.stops_at_frame >= found.fps


def test_a_clip_that_is_cut_is_refused(tmp_path: Path) -> None:
    source = CLIPS / "entry.h264"
    about = json.loads(source.with_suffix(".json").read_text())
    (tmp_path / "entry.json").write_text(json.dumps(about))
    (tmp_path / "entry.h264").write_bytes(source.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="pictures"):
        clip.load(tmp_path / "entry.h264")


@given(st.lists(st.binary(min_size=2, max_size=5000), min_size=1, max_size=4))
def test_nal_units_come_out_of_their_payloads_again(nals: list[bytes]) -> None:
    nals = [bytes((0x65,)) + nal for nal in nals]
    found, parts = [], b""
    for payload in rtp.payloads(nals):
        assert len(payload) <= 1400
        if payload[0] & 0x1F != 28:
            found.append(payload)
            continue
        if payload[1] & 0x80:
            parts = bytes((payload[0] & 0xE0 | payload[1] & 0x1F,))
        parts += payload[2:]
        if payload[1] & 0x40:
            found.append(parts)
    assert found == nals


def test_rtp_headers_wrap_and_mark_the_last_packet() -> None:
    packet = rtp.packet(b"x", last=True, sequence=65537, timestamp=(1 << 32) + 5, ssrc=7)
    assert packet[:2] == bytes((0x80, 0x80 | 96))
    assert packet[2:] == b"\x00\x01" + b"\x00\x00\x00\x05" + b"\x00\x00\x00\x07" + b"x"


class StillCamera(SimulatedCamera):
    """A camera whose clip is at hand and which somebody watches."""

    def __init__(self) -> None:
        super().__init__(clip.load(CLIPS / "entry.h264"), user="u", password="p")

    @property
    def viewers(self) -> int:
        return 1


class Clock:
    """The monotonic clock of the loop and its camera."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_contact_follows_the_cars_and_bounces() -> None:
    clock, edges = Clock(), list[int]()
    pins, camera = FakeGpio(), StillCamera()
    pins.setmode(pins.BCM)
    pins.setup(18, pins.IN, pull_up_down=pins.PUD_UP)
    pins.add_event_detect(18, pins.FALLING, edges.append)
    loop = InductionLoop(pins, 18, camera, clock)
    levels = []
    while clock.now_s < 12:
        wait_s = loop.step()
        levels.append((round(clock.now_s, 3), pins.input(18)))
        clock.now_s += max(wait_s, 0.001)
    pins.settle()
    pins.cleanup()
    low = [at_s for at_s, level in levels if level == pins.LOW]
    visit = camera.clip.visits[0]
    assert low[0] == pytest.approx(visit.stops_at_frame / 25, abs=0.01)
    assert low[-1] == pytest.approx(visit.leaves_at_frame / 25, abs=0.03)
    changes = sum(a[1] != b[1] for a, b in pairwise(levels))
    assert changes >= 6, "a contact bounces"
    assert len(edges) == 7, "four while it closes, three while it opens"
    assert len(loop.presses) == 1


def test_no_car_comes_before_somebody_has_watched_for_two_seconds() -> None:
    clock, camera = Clock(), StillCamera()
    first_stop_s = camera.clip.visits[0].stops_at_frame / 25
    clock.now_s = first_stop_s - 1.0
    loop = InductionLoop(SimulatedPins(), 18, camera, clock)
    wait_s = loop.step()
    assert wait_s > 5, "the car that stops in a second is left out"


def test_a_jammed_contact_stays_closed_until_it_is_freed() -> None:
    pins = SimulatedPins()
    pins.setmode(pins.BCM)
    pins.setup(18, pins.IN, pull_up_down=pins.PUD_UP)
    loop = InductionLoop(pins, 18, StillCamera())
    loop.jam()
    assert pins.input(18) == pins.LOW
    loop.free()
    assert pins.input(18) == pins.HIGH
