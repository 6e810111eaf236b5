"""A camera's stream, its pictures handed over by a pretend session."""

from __future__ import annotations

import threading
import time

import pytest

import config
from camera import frame_maker
from camera import stream as rtsp_stream
from camera.frame_maker import EarlyFrame, FrameMaker, Held
from camera.pinned_pictures import Pin
from camera.stream import CameraStream
from rtsp.rtp import CodedPicture
from tests.rigs.gops import h265

PERIOD_S = 0.04


class Session:
    """Has received pictures at a rate until some time ago, and nothing since."""

    codec = "h264"

    def __init__(self, period_s: float, age_s: float) -> None:
        last_s = time.monotonic() - age_s
        moments_s = [last_s - n * period_s for n in reversed(range(12))]
        self._pictures = [CodedPicture(s, s, n == 0, b"x", False) for n, s in enumerate(moments_s)]

    def read(self, _timeout_s: float) -> list[CodedPicture]:
        pictures, self._pictures = self._pictures, []
        return pictures

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("fps", "age_s", "state"),
    [
        (25, 0.2, "streaming"),
        (25, 1.7, "stalled"),
        (25, 4.5, "down"),
        (1, 1.2, "streaming"),
        (1, 2.7, "stalled"),
        (0.5, 2.2, "streaming"),
        (0.5, 4.4, "streaming"),
        (0.5, 5.4, "down"),
    ],
)
def test_a_slow_camera_is_given_the_time_that_it_takes(
    monkeypatch: pytest.MonkeyPatch, fps: float, age_s: float, state: str
) -> None:
    session = Session(1 / fps, 0.0)
    monkeypatch.setattr(rtsp_stream, "RtspSession", lambda *_: session)
    parsed = config.parse({"CAMERA_1_RTSP": "rtsp://camera/x"})
    stream = CameraStream(parsed.cameras[0], parsed.capture, threading.Semaphore(1))
    stream.step()
    stream.step()
    assert stream.status().state == "streaming"
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + age_s)
    stream.step()
    assert stream.status().state == state
    stream.close()


class Gop:
    """Has received the first pictures of a GOP at 25 a second, the last of them just now."""

    codec = "h265"

    def __init__(self, count: int) -> None:
        self.began_s = time.monotonic() - (count - 1) * PERIOD_S
        self._pictures = [self._picture(number) for number in range(count)]
        self._next = count

    def _picture(self, number: int) -> CodedPicture:
        shot_s = self.began_s + number * PERIOD_S
        return CodedPicture(number * PERIOD_S, shot_s, number == 0, h265()[number], False)

    def send(self) -> None:
        self._pictures.append(self._picture(self._next))
        self._next += 1

    def read(self, _timeout_s: float) -> list[CodedPicture]:
        pictures, self._pictures = self._pictures, []
        return pictures

    def close(self) -> None:
        pass


class Site:
    """A camera with 45 pictures of a GOP; whatever is over 2 ms of decoding is done ahead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
        monkeypatch.setattr(frame_maker, "_LEFT_S", 0.002)
        monkeypatch.setattr(frame_maker, "_WORTH", 0.0)
        monkeypatch.setattr(frame_maker, "_SLOWEST_S", 10.0)
        monkeypatch.setattr(frame_maker, "_AHEAD_SHARE", 100.0)
        monkeypatch.setattr(frame_maker, "_TURN_S", 100.0)
        self.slots = threading.Semaphore(1)
        self.session = Gop(45)
        monkeypatch.setattr(rtsp_stream, "RtspSession", lambda *_: self.session)
        parsed = config.parse({"CAMERA_1_RTSP": "rtsp://camera/x", **settings})
        self.stream = CameraStream(parsed.cameras[0], parsed.capture, self.slots)
        self.stream.step()
        self.stream.step()
        self.ahead: list[int] = []
        begin_early = FrameMaker.begin_early

        def spy(maker: FrameMaker, held: Held, wait_s: float | None = None) -> EarlyFrame | None:
            early = begin_early(maker, held, wait_s)
            if early is not None:
                self.ahead.append(early.fed)
            return early

        monkeypatch.setattr(FrameMaker, "begin_early", spy)
        self.stream.take(self.pin(30))  # that tells how long a picture takes
        assert self.ahead.pop() == 0

    def pin(self, number: int) -> Pin:
        return self.stream.pin(self.session.began_s + number * PERIOD_S)

    def get_ready(self) -> float | None:
        return self.stream.get_ready(time.monotonic())


def test_a_picture_that_is_there_goes_on_from_what_was_decoded_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site(monkeypatch)
    assert site.get_ready() == 0.05
    frame = site.stream.take(site.pin(44))
    assert site.ahead[0] > 20
    assert "damaged" not in frame.flags


def test_so_does_one_that_waited_for_another_camera_s(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch)
    site.get_ready()
    frames = []
    with site.slots:
        pin = site.pin(45)
        taker = threading.Thread(target=lambda: frames.append(site.stream.take(pin)))
        taker.start()
        site.session.send()
        site.session.send()
        site.stream.step()
        taker.join(0.3)
        assert taker.is_alive()
    taker.join(10)
    assert len(frames) == 1
    assert site.ahead[0] > 20


def test_a_look_at_the_camera_leaves_it_for_the_next_capture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site(monkeypatch)
    site.get_ready()
    site.stream.take(site.pin(44), urgent=False)
    site.stream.take(site.pin(44))
    assert site.ahead[0] > 20


def test_what_is_decoded_ahead_is_what_an_offset_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, CAMERA_1_CAPTURE_OFFSET_MS="-800")
    site.get_ready()
    site.stream.take(site.pin(38))
    assert 10 < site.ahead[0] <= 38


@pytest.mark.parametrize("why", ["no car for long", "the camera hangs", "the session ended"])
def test_what_was_decoded_ahead_is_given_up(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    site = Site(monkeypatch)
    site.get_ready()
    captured_s = decoded_s = site.stream.decoded_s
    if why == "no car for long":
        captured_s -= 31
        assert site.stream.get_ready(captured_s) is None
    elif why == "the camera hangs":
        now_s = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now_s + 3)
        assert site.stream.get_ready(captured_s) == 0.05
    else:
        site.stream.close()
        assert site.stream.get_ready(captured_s) == 0.05
    assert site.stream.decoded_s > decoded_s, "else its memory would not be given back"
    decoded_s = site.stream.decoded_s
    site.stream.get_ready(captured_s)
    assert site.stream.decoded_s == decoded_s


def test_the_best_frame_is_never_decoded_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, CAPTURE_BEST_WITHIN_MS="120")
    decoded_s = site.stream.decoded_s
    assert site.get_ready() is None
    assert site.stream.decoded_s == decoded_s
