"""When pictures were shot, told from their stamps and arrivals, on cameras made up for it.

A camera shoots at regular times; its stamps run at a rate of their own, its pictures arrive 5 ms
after the shot at least, keyframes 30 ms later, and one in two hundred 400 ms later.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtsp.camera_clock import CameraClock

LEAST_DELAY_S = 0.005
SETTLED = 40


@dataclass(frozen=True)
class Picture:
    position_s: float
    arrival_s: float
    shot_s: float
    """With the least delay, which nobody can know of."""


def camera(
    rate: float = 1.0,
    *,
    count: int = 600,
    fps: float = 25,
    unit: float = 1.0,
    stamp_noise_s: float = 0.0,
    jitter_s: float = 0.003,
    burst: int = 0,
    seed: int = 1,
) -> Iterator[Picture]:
    """Yield pictures; `rate` is of the stamps, `burst` so many come at once at first."""
    chance = random.Random(seed)
    for number in range(count):
        shot_s = 1000 + number / fps
        noise_s = chance.uniform(-stamp_noise_s, stamp_noise_s)
        arrival_s = shot_s + LEAST_DELAY_S + chance.expovariate(1 / jitter_s)
        arrival_s += 0.03 * (number % 50 == 0) + 0.4 * (chance.random() < 0.005)
        if number < burst:
            arrival_s = 1000 + burst / fps + 0.001
        position_s = (number / fps * rate + noise_s) * unit
        yield Picture(position_s, arrival_s, shot_s + LEAST_DELAY_S)


@dataclass
class Followed:
    """What came of following a camera: errors of each picture, those while it was sure apart."""

    clock: CameraClock
    errors_s: list[float]
    sure_errors_s: list[float]

    @property
    def p95_s(self) -> float:
        return sorted(self.sure_errors_s)[int(len(self.sure_errors_s) * 0.95)]


def follow(pictures: Iterator[Picture]) -> Followed:
    found = Followed(CameraClock(), [], [])
    for picture in pictures:
        assert not found.clock.contradicts(picture.position_s, picture.arrival_s)
        found.clock.note(picture.position_s, picture.arrival_s)
        error_s = abs(found.clock.shot_s(picture.position_s) - picture.shot_s)
        found.errors_s.append(error_s)
        if found.clock.is_sure:
            found.sure_errors_s.append(error_s)
    return found


@pytest.mark.parametrize("rate", [1.0, 0.99, 0.96, 1.04, 0.7, 1.4, 0.6, 1.0001])
@pytest.mark.parametrize("fps", [8, 25, 60])
@pytest.mark.parametrize("burst", [0, 45])
def test_the_moment_is_exact_at_any_rate(rate: float, fps: float, burst: int) -> None:
    found = follow(camera(rate, fps=fps, burst=burst))
    assert found.p95_s < 0.005
    assert max(found.sure_errors_s) < 0.015
    assert found.clock.rate == pytest.approx(1 / rate, abs=0.002)
    assert len(found.sure_errors_s) > 600 - burst - 3 * fps - SETTLED


@settings(max_examples=30, deadline=None)
@given(rate=st.floats(0.6, 1.4), seed=st.integers(0, 1000), burst=st.integers(0, 60))
def test_it_is_never_sure_and_wrong(rate: float, seed: int, burst: int) -> None:
    found = follow(camera(rate, seed=seed, burst=burst, count=300))
    assert max(found.sure_errors_s) < 0.025


def test_a_usual_camera_s_time_is_taken_as_it_is() -> None:
    assert follow(camera()).clock.rate == 1.0
    assert follow(camera(1.00005)).clock.rate == 1.0


@pytest.mark.parametrize("rate", [0.97, 1.0, 1.03])
def test_milliseconds_that_are_called_90_khz_are_understood(rate: float) -> None:
    found = follow(camera(rate, unit=1 / 90))
    assert found.clock.rate == pytest.approx(90 / rate, rel=0.002)
    assert found.p95_s < 0.005


@pytest.mark.parametrize("rate", [0.7, 1.0, 1.04])
def test_noise_of_the_stamps_shifts_no_moment(rate: float) -> None:
    """The least delay alone would be that of the stamp that is furthest ahead."""
    found = follow(camera(rate, stamp_noise_s=0.015))
    shifts = [
        found.clock.shot_s(p.position_s) - p.shot_s for p in camera(rate, stamp_noise_s=0.015)
    ][-200:]
    assert abs(sum(shifts) / len(shifts)) < 0.007
    assert found.p95_s < 0.025


def test_noise_that_repeats_shifts_no_moment_either() -> None:
    clock = CameraClock()
    errors_s = []
    for number in range(300):
        noise_s = (number * 14 % 31 - 15) / 1000
        clock.note(number / 25 + noise_s, 1000 + number / 25)
        errors_s.append(clock.shot_s(number / 25) - 1000 - number / 25)
    assert max(map(abs, errors_s[50:])) < 0.003


@pytest.mark.parametrize("rate", [0.96, 1.0, 1.04])
def test_b_frames_are_not_taken_for_noise(rate: float) -> None:
    """Each P-frame comes before the two B-frames that are shown before it, at even times."""
    clock = CameraClock()
    errors_s = []
    for number in range(600):
        place = number // 3 * 3 + (2, 0, 1)[number % 3]
        clock.note(place / 25 * rate, 1000 + number / 25)
        if clock.is_sure:
            errors_s.append(abs(clock.shot_s(place / 25 * rate) - (1000 + (place - 2) / 25)))
    assert max(errors_s) < 0.005
    assert len(errors_s) > 500


def test_pictures_shot_at_irregular_times_are_not_taken_for_noise() -> None:
    chance = random.Random(1)
    clock = CameraClock()
    shot_s = 0.0
    for _ in range(400):
        shot_s += chance.choice((0.04, 0.08, 0.12))
        clock.note(shot_s, 1000 + shot_s + LEAST_DELAY_S + chance.expovariate(1 / 0.002))
    assert clock.shot_s(shot_s) == pytest.approx(1000 + shot_s + LEAST_DELAY_S, abs=0.006)


def test_it_is_unsure_for_a_second_and_eight_pictures() -> None:
    for fps, first in ((25, 25), (2, 10)):
        clock = CameraClock()
        sure = []
        for picture in camera(fps=fps, count=40):
            clock.note(picture.position_s, picture.arrival_s)
            sure.append(clock.is_sure)
        assert first <= sure.index(True) <= first + 6
        assert all(sure[sure.index(True) :])


@pytest.mark.parametrize("rate", [0.96, 0.9, 1.04])
def test_a_rate_that_changes_is_unsure_until_the_new_one_is_known(rate: float) -> None:
    clock = CameraClock()
    position_s = 0.0
    for number in range(900):
        shot_s = number / 25
        position_s += 0.04 * (1.0 if number < 300 else rate)
        clock.note(position_s, shot_s + LEAST_DELAY_S)
        error_s = abs(clock.shot_s(position_s) - shot_s - LEAST_DELAY_S)
        assert error_s < 0.03 + abs(1 - rate) / 3 or not clock.is_sure, number
    assert clock.rate == pytest.approx(1 / rate, abs=0.002)
    assert clock.is_sure


@pytest.mark.parametrize("step_s", [100.0, 1.0])
def test_a_jump_ahead_contradicts(step_s: float) -> None:
    found = follow(camera(count=100))
    position_s, arrival_s = 100 / 25 + step_s, 1004.0
    assert found.clock.contradicts(position_s, arrival_s)
    assert not found.clock.contradicts(100 / 25, arrival_s)


def test_what_no_rate_explains_is_never_sure() -> None:
    clock = CameraClock()
    for number in range(200):
        clock.note(5.0 + number * 1e-5, 1000 + number / 25)
    assert not clock.is_sure
    assert clock.rate == 1.0
