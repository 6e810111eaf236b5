"""When an image, and the backlog as a whole, are tried again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from upload.outcomes import Deferred, Delivered, Misconfigured, Outcome, Rejected
from upload.pacing import BacklogPace, backoff_s, image_wait_s

LOOK_EVERY_S = 60.0

DELIVERED = Delivered(None)
REJECTED = Rejected("the server answered 400")
WRONG = Misconfigured("the server answered 401", "Check UPLOAD_AUTH_TOKEN.")
FAILED = Deferred("the server answered 500", "server")
BUSY = replace(FAILED, busy=True)
SILENT = Deferred("there gave no answer within 5 s", "silent")
UNREACHABLE = Deferred("cannot reach there", "connection")


def asked(seconds: float) -> Deferred:
    return replace(BUSY, retry_after_s=seconds)


def longest(low: float, high: float) -> float:
    assert low == 0
    return high


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> BacklogPace:
    return BacklogPace(LOOK_EVERY_S, clock=clock, jitter=longest)


RESTS: list[tuple[list[Outcome], float]] = [
    ([DELIVERED], 0),
    ([REJECTED], 0),
    ([WRONG], 0),  # the line is paused by then; the probe has a rest of its own
    ([FAILED], 2),
    ([SILENT], 2),
    ([FAILED, SILENT, BUSY], 8),
    ([FAILED] * 4, 15),
    ([FAILED] * 100_000, 15),
    ([FAILED, FAILED, DELIVERED, FAILED], 2),
    ([FAILED, FAILED, REJECTED, FAILED], 2),
    ([FAILED, FAILED, WRONG, FAILED], 2),
    ([UNREACHABLE], 60),
    ([UNREACHABLE, UNREACHABLE], 60),
    ([FAILED, UNREACHABLE, FAILED], 8),
    ([asked(0)], 2),
    ([asked(20)], 22),
    ([asked(20), asked(20)], 24),
    ([asked(3600)], 62),  # that image waits for an hour, not the whole backlog
]


@pytest.mark.parametrize(("outcomes", "rest_s"), RESTS)
def test_the_backlog_rests(
    pace: BacklogPace, clock: Clock, outcomes: list[Outcome], rest_s: float
) -> None:
    *before, last = outcomes
    for outcome in before:
        pace.after(outcome)
    assert pace.after(last) == rest_s
    assert pace.failing is isinstance(last, Deferred)
    if rest_s:
        clock.now_s += rest_s - 1
        assert pace.rest_s(online=False) == pytest.approx(1)
        clock.now_s += 1
        assert pace.rest_s(online=False) <= 0


def test_no_rest_is_longer_than_what_the_settings_say(clock: Clock) -> None:
    pace = BacklogPace(5.0, clock=clock, jitter=longest)
    assert pace.after(UNREACHABLE) == 5
    assert pace.after(FAILED) == 4
    assert pace.after(FAILED) == 5
    assert pace.after(asked(3600)) == 5 + 5


@pytest.mark.parametrize(
    ("outcome", "online", "rests", "failing"),
    [
        (UNREACHABLE, True, False, False),
        (UNREACHABLE, False, True, True),
        (FAILED, True, True, True),
        (SILENT, True, True, True),
        (asked(20), True, True, True),
    ],
)
def test_coming_online_ends_a_rest_for_the_connection_only(
    pace: BacklogPace, outcome: Outcome, online: bool, rests: bool, failing: bool
) -> None:
    pace.after(outcome)
    assert (pace.rest_s(online=online) > 0) is rests
    assert pace.failing is failing


def test_a_rest_after_coming_online_is_kept(pace: BacklogPace) -> None:
    pace.after(UNREACHABLE)
    pace.rest_s(online=True)
    assert pace.after(FAILED) == 2
    assert pace.rest_s(online=True) == 2


@pytest.mark.parametrize("outcome", [FAILED, UNREACHABLE, asked(20)])
def test_to_hurry_ends_a_rest_and_forgets_no_failure(pace: BacklogPace, outcome: Outcome) -> None:
    pace.after(outcome)
    pace.hurry()
    assert pace.take_hurry()
    assert pace.rest_s(online=False) <= 0
    assert pace.failing
    assert not pace.take_hurry()


def test_to_hurry_during_an_attempt_ends_the_rest_that_follows(pace: BacklogPace) -> None:
    pace.hurry()
    assert pace.after(FAILED) == 0
    assert pace.rest(60) == 0
    assert pace.take_hurry()
    assert pace.rest_s(online=False) <= 0
    assert pace.rest(60) == 60


IMAGE_WAITS: list[tuple[Deferred, int, float]] = [
    *((FAILED, n + 1, wait) for n, wait in enumerate((2, 4, 8, 16, 32, 64, 128, 256, 300, 300))),
    (SILENT, 9, 300),
    (BUSY, 4, 16),
    (BUSY, 5, 30),
    (BUSY, 100_000, 30),
    (FAILED, 100_000, 300),
    (asked(0), 9, 0),
    (asked(500), 1, 500),
    (asked(3600), 9, 3600),
]


@pytest.mark.parametrize(("outcome", "failures", "wait_s"), IMAGE_WAITS)
def test_an_image_waits(outcome: Deferred, failures: int, wait_s: float) -> None:
    assert image_wait_s(outcome, failures, longest) == wait_s


def test_jitter_is_full_and_bounded() -> None:
    for failures in (1, 2, 5, 50, 100_000):
        bound = min(300.0, 2.0 ** min(failures, 20))
        waits = [backoff_s(failures) for _ in range(200)]
        assert 0 <= min(waits) < bound / 4
        assert bound / 2 < max(waits) <= bound
