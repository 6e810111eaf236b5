"""One camera's stream under test, and the frame number that is read off its pictures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np

import config
from camera.frame import Frame
from camera.stream import CameraStream
from tests.rigs.clips import read_frame_number

PERIOD_S = 0.04
JITTER_S = 0.03  # of a loaded test machine; how exact it is on a quiet one, the bench tells


@contextmanager
def stream_of(url: str, **settings: str) -> Iterator[CameraStream]:
    parsed = config.parse({"CAMERA_1_RTSP": url, **settings})
    stream = CameraStream(parsed.cameras[0], parsed.capture, threading.Semaphore(2))
    stream.start()
    try:
        yield stream
    finally:
        stream.stop()
        assert stream.join(10)


def wait_for_state(stream: CameraStream, state: str, timeout_s: float = 20) -> None:
    deadline_s = time.monotonic() + timeout_s
    while stream.status().state != state:
        assert time.monotonic() < deadline_s, f"{stream.status()}, wanted {state}"
        stream.pause(0.02)


def number_of(frame: Frame) -> int | None:
    bgr = cv2.imdecode(np.frombuffer(frame.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    assert bgr.shape[:2] == (frame.height, frame.width)
    return read_frame_number(np.asarray(bgr, np.uint8))


def settle(stream: CameraStream, timeout_s: float = 10) -> None:
    """Wait until the timing of the stream is known."""
    wait_for_state(stream, "streaming")
    deadline_s = time.monotonic() + timeout_s
    while "timing_unsure" in stream.take(stream.pin(time.monotonic())).flags:
        assert time.monotonic() < deadline_s
