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
from tests.rigs.rtsp import RtspServer

MOUNT = "/cam"

EARLY_S, LATE_S = 0.01, 0.03
"""How long before and after its shot a picture may seem shot: with three busy loops beside two
cores it is below a millisecond, since the quickest picture of many tells. The bench measures it.
"""
TIE_S = 0.003  # so much nearer a picture may be that was not taken


@contextmanager
def stream_of(url: str, **settings: str) -> Iterator[CameraStream]:
    parsed = config.parse({"CAMERA_1_RTSP": url, **settings})
    stream = CameraStream(parsed.cameras[0], parsed.capture, threading.Semaphore(2))
    stream.start()
    try:
        yield stream
    finally:
        stream.stop()
        assert stream.join(60)


def wait_for_state(stream: CameraStream, state: str, timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while stream.status().state != state:
        assert time.monotonic() < deadline_s, f"{stream.status()}, wanted {state}"
        stream.pause(0.02)


def number_of(frame: Frame) -> int | None:
    bgr = cv2.imdecode(np.frombuffer(frame.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    assert bgr.shape[:2] == (frame.height, frame.width)
    return read_frame_number(np.asarray(bgr, np.uint8))


def true_shot_s(server: RtspServer, frame: Frame, latency_s: float = 0.0) -> float:
    """Return when the camera itself says it shot a picture, about when the stream says so."""
    number = number_of(frame)
    assert number is not None, "the picture is smeared"
    said_s = frame.shot_s + latency_s
    shot_s = said_s + server.offset_of(MOUNT, number, said_s)
    assert -EARLY_S <= said_s - shot_s <= LATE_S
    return shot_s


def check_moment(
    server: RtspServer, frame: Frame, wanted_s: float, *, latency_s: float = 0.0
) -> None:
    """Check that a picture is its moment's, however late a busy camera shoots and is heard.

    All pictures of a stream seem shot late by the same, the least time that one took to come. With
    that taken off, no picture in the camera's own log may be nearer to the moment.
    """
    shot_s = true_shot_s(server, frame, latency_s)
    wanted_s -= frame.shot_s - shot_s
    nearest = server.nearest_shot(MOUNT, wanted_s)
    assert abs(shot_s - wanted_s) <= abs(nearest.moment_s - wanted_s) + TIE_S


def check_about(server: RtspServer, frame: Frame, wanted_s: float, within_s: float) -> None:
    """Check that the camera shot nothing that is nearer to a moment by more than `within_s`."""
    number = number_of(frame)
    assert number is not None, "the picture is smeared"
    nearest = server.nearest_shot(MOUNT, wanted_s)
    off_s = abs(server.offset_of(MOUNT, number, wanted_s))
    assert off_s <= abs(nearest.moment_s - wanted_s) + within_s


def settle(stream: CameraStream, timeout_s: float = 60) -> None:
    """Wait until the timing of the stream is known."""
    wait_for_state(stream, "streaming")
    deadline_s = time.monotonic() + timeout_s
    while "timing_unsure" in stream.take(stream.pin(time.monotonic())).flags:
        assert time.monotonic() < deadline_s
