"""Online or not, paused or not."""

from __future__ import annotations

import logging

import pytest

from upload.line import Line
from upload.outcomes import Misconfigured

WRONG_TOKEN = Misconfigured("the server answered 401: not allowed", "Check UPLOAD_AUTH_TOKEN.")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Returns:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def test_each_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    line = Line(Returns())
    assert line.online is None
    for _ in range(3):
        line.note_unreachable("cannot reach there: no route")
    assert line.online is False
    for _ in range(3):
        line.note_reached()
    assert line.online is True
    assert [r.message.split(":")[0] for r in caplog.records] == ["offline", "online"]


def test_a_return_is_told_once_and_held_for_a_random_while() -> None:
    clock = Clock()
    bounds: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return 2.5

    returns = Returns()
    line = Line(returns, clock=clock, jitter=uniform)
    line.note_reached()
    assert (returns.count, line.hold_s() > 0) == (1, False)
    line.note_unreachable("no route")
    line.note_reached()
    line.note_reached()
    assert returns.count == 2
    [(low, high)] = bounds
    assert low == 0
    assert 1 <= high <= 10
    assert line.hold_s() == pytest.approx(2.5)
    clock.now_s += 3
    assert line.hold_s() < 0


def test_pause_and_resume_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    line = Line(Returns())
    line.resume()
    line.pause(WRONG_TOKEN)
    line.pause(WRONG_TOKEN)
    assert line.paused == WRONG_TOKEN
    line.pause(Misconfigured("the server answered 404: no such address", "Check S3_API_URL."))
    line.resume()
    line.resume()
    assert line.paused is None
    words = [record.message for record in caplog.records]
    assert len(words) == 3
    assert "Check UPLOAD_AUTH_TOKEN." in words[0]
    assert "404" in words[1]
    assert words[2] == "uploads go on"


def test_a_captive_portal_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    line = Line(Returns())
    for seen in (True, True, False, False):
        line.note_portal(seen)
    assert not line.captive_portal
    assert len(caplog.records) == 1
