"""How far a backlog is drained, and how fast."""

from __future__ import annotations

import pytest

from upload.progress import Drain, Progress


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


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
