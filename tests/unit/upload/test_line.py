"""Online or not, paused or not, who sends what, and how far a backlog is drained."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace

import pytest

from upload import line as upload_line
from upload.http_target import Misconfigured
from upload.line import Claims, Drain, Line, Progress

WRONG_TOKEN = Misconfigured("the server answered 401: not allowed", "Check UPLOAD_AUTH_TOKEN.")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(upload_line, "time", SimpleNamespace(monotonic=clock))
    return clock


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


def test_a_return_is_told_once_and_held_for_a_random_while(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return 2.5

    monkeypatch.setattr(upload_line, "random", SimpleNamespace(uniform=uniform))
    returns = Returns()
    line = Line(returns)
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


def test_one_of_many_threads_gets_a_claim() -> None:
    claims = Claims()
    ready = threading.Barrier(8)
    won: list[int] = []

    def take() -> None:
        ready.wait()
        won.extend(n for n in range(100) if claims.take(n))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(100))
    assert (claims.count(), claims.has(7)) == (100, True)
    claims.release(7)
    claims.release(7)
    assert (claims.count(), claims.has(7)) == (99, False)
    assert claims.take(7)


def drained(progress: Progress, left: int, images: int, clock: Clock, each_s: float = 0.0) -> None:
    """Deliver some images of a backlog, of which `left` are left in the end."""
    progress.set_left(left + images)
    for _ in range(images):
        progress.note()
        clock.now_s += each_s


def test_progress_through_a_backlog() -> None:
    clock = Clock()
    progress = Progress(clock)
    assert progress.drain() is None
    drained(progress, 80, 20, clock, each_s=1)
    assert progress.drain() == Drain(total=100, done=20, per_minute=60.0, minutes_left=1.3)


def test_new_images_join_a_backlog() -> None:
    clock = Clock()
    progress = Progress(clock)
    drained(progress, 80, 20, clock)
    progress.set_left(85)
    drain = progress.drain()
    assert drain is not None
    assert (drain.total, drain.done) == (105, 20)


def test_a_few_images_are_no_backlog() -> None:
    progress = Progress(Clock())
    progress.set_left(9)
    for _ in range(9):
        progress.note()
        assert progress.drain() is None


def test_a_drained_backlog_is_over_and_a_new_one_counts_anew() -> None:
    clock = Clock()
    progress = Progress(clock)
    drained(progress, 0, 50, clock)
    progress.set_left(0)
    assert progress.drain() is None
    clock.now_s += 3600
    drained(progress, 30, 1, clock)
    drain = progress.drain()
    assert drain is not None
    assert (drain.total, drain.done) == (31, 1)


def test_the_rate_of_a_fast_drain_takes_little_memory() -> None:
    clock = Clock()
    progress = Progress(clock)
    drained(progress, 100, 120_000, clock, each_s=0.001)
    drain = progress.drain()
    assert drain is not None
    assert drain.per_minute == pytest.approx(60_000, rel=0.03)
    assert len(progress._delivered) <= 62


def test_a_stuck_backlog_has_no_end_in_sight() -> None:
    clock = Clock()
    progress = Progress(clock)
    drained(progress, 50, 1, clock)
    clock.now_s += 120
    assert progress.drain() == Drain(total=51, done=1, per_minute=0.0, minutes_left=None)
