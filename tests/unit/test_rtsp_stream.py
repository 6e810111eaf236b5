"""The state of a camera's stream, told from pictures that a pretend session hands over."""

from __future__ import annotations

import threading
import time

import pytest

import config
import rtsp_stream
from rtp import CodedPicture
from rtsp_stream import CameraStream


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
