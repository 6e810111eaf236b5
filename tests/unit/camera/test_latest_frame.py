"""The newest picture is decoded once for all who look."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from camera.frame import Frame, StreamError
from camera.latest_frame import LiveView


class FakeStream:
    def __init__(self) -> None:
        self.taken = 0
        self.state = "streaming"
        self.slow = threading.Event()
        self.slow.set()

    def status(self) -> Any:
        return SimpleNamespace(state=self.state, error="wrong password (401)", hint="Check it.")

    def pin(self, wanted_s: float) -> float:
        return wanted_s

    def take(self, pin: float, *, urgent: bool) -> Frame:
        assert not urgent, "captures come first"
        self.slow.wait(5)
        self.taken += 1
        return Frame(b"jpeg", b"small", 4, 3, pin, ())


class Clock:
    def __init__(self) -> None:
        self.now_s = 10.0

    def __call__(self) -> float:
        return self.now_s


def test_one_decode_in_half_a_second_none_when_nobody_looks() -> None:
    stream, clock = FakeStream(), Clock()
    live = LiveView({"camera_1": stream}, clock)  # type: ignore[dict-item]
    assert stream.taken == 0
    for _ in range(20):
        live.frame("camera_1")
        clock.now_s += 0.02
    assert stream.taken == 1
    clock.now_s += 0.5
    frame = live.frame("camera_1")
    assert stream.taken == 2
    clock.now_s += 0.25
    assert live.age_ms(frame) == 250


def test_all_who_wait_together_get_the_same_picture() -> None:
    stream = FakeStream()
    stream.slow.clear()
    live = LiveView({"camera_1": stream})  # type: ignore[dict-item]
    found: list[Frame] = []
    threads = [
        threading.Thread(target=lambda: found.append(live.frame("camera_1"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    stream.slow.set()
    for thread in threads:
        thread.join(5)
    assert len(found) == 8
    assert stream.taken == 1


@pytest.mark.parametrize("state", ["connecting", "stalled", "down"])
def test_a_camera_that_sends_nothing_is_not_waited_for(state: str) -> None:
    stream = FakeStream()
    stream.state = state
    with pytest.raises(StreamError, match="wrong password"):
        LiveView({"camera_1": stream}).frame("camera_1")  # type: ignore[dict-item]
    assert stream.taken == 0
