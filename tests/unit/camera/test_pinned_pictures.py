"""Who gets which picture of a camera, on a clock that only the test moves."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from camera.frame import Choice, Pin
from camera.pinned_pictures import NoPictureError, PinnedPictures
from rtsp.rtp import CodedPicture

PERIOD_S = 0.04
NEAR_S = 0.25
PATIENCE_S = 5.0


class Camera:
    """Pictures of 25 a second, each handed over when it is shot; their content is their number."""

    def __init__(self, codec: str = "h265") -> None:
        self.now_s = 1000.0
        self.ending = False
        self.pictures = PinnedPictures(
            keep_s=4.0,
            near_s=NEAR_S,
            patience_s=PATIENCE_S,
            is_ending=lambda: self.ending,
            clock=lambda: self.now_s,
        )
        self.codec = codec
        self.number = 0
        self.began_s = self.now_s
        self.pictures.begin(codec)

    def shoot(self, count: int, *, torn: bool = False) -> None:
        """Let time pass and pictures come, a keyframe every 25."""
        for _ in range(count):
            self.now_s = self.began_s + self.number * PERIOD_S
            picture = CodedPicture(
                position_s=self.number * PERIOD_S,
                arrival_s=self.now_s,
                key=self.number % 25 == 0,
                data=str(self.number).encode(),
                torn=torn,
            )
            self.pictures.append(picture)
            self.number += 1

    def shot_s(self, number: int) -> float:
        return self.began_s + number * PERIOD_S

    def pin(self, number: float, within_s: float = 0.0) -> Pin:
        """Pin the moment of a picture, or one between two."""
        return self.pictures.pin(self.began_s + number * PERIOD_S, within_s)

    def hang_up_and_come_back(self, after_s: float) -> None:
        self.pictures.end()
        self.now_s += after_s
        self.pictures.begin(self.codec)
        self.began_s = self.now_s
        self.number = 0


@pytest.fixture
def camera() -> Camera:
    camera = Camera()
    camera.shoot(100)
    return camera


def number_of(choice: Choice) -> int:
    return int(choice.pictures[choice.index])


def numbers(pin: Pin) -> list[int]:
    return [number_of(choice) for choice in pin.choices]


def wait(camera: Camera, pin: Pin) -> Iterator[Choice | None]:
    return camera.pictures.until_settled(pin)


@pytest.mark.parametrize(("wanted", "taken"), [(60, 60), (60.4, 60), (60.6, 61), (99, 99)])
def test_a_moment_that_has_been_has_its_nearest_picture_at_once(
    camera: Camera, wanted: float, taken: int
) -> None:
    pin = camera.pin(wanted)
    assert numbers(pin) == [taken]
    assert pin.choices[0].codec == "h265"
    assert list(wait(camera, pin)) == []


@pytest.mark.parametrize(("wanted", "taken"), [(99.3, 99), (99.7, 100), (101, 101)])
def test_a_moment_is_settled_when_a_picture_at_or_after_it_has_come(
    camera: Camera, wanted: float, taken: int
) -> None:
    pin = camera.pin(wanted)
    assert numbers(pin) == []
    camera.shoot(3)
    assert numbers(pin) == [taken]


def test_a_pinned_picture_outlives_the_ring(camera: Camera) -> None:
    pin = camera.pin(99)
    camera.shoot(1000)
    assert numbers(camera.pin(99)) != [99], "the ring has forgotten it"
    assert numbers(pin) == [99]


def test_around_a_moment_all_undamaged_pictures_are_held(camera: Camera) -> None:
    pin = camera.pin(102, within_s=2.1 * PERIOD_S)
    camera.shoot(5)
    assert numbers(pin) == []
    camera.shoot(1)
    assert numbers(pin) == [100, 101, 102, 103, 104]


def test_who_waits_is_told_what_is_nearest_so_far(camera: Camera) -> None:
    pin = camera.pin(101.5)
    seen = wait(camera, pin)
    best = next(seen)
    assert best is not None
    assert number_of(best) == 99
    camera.shoot(1)
    best = next(seen)
    assert best is not None
    assert number_of(best) == 100
    camera.shoot(2)
    assert next(seen, "settled") == "settled"
    assert numbers(pin) == [101]


def test_who_waits_is_woken_by_the_picture(camera: Camera) -> None:
    pin = camera.pin(100)
    waiting = threading.Event()
    done = threading.Event()

    def taker() -> None:
        for _ in wait(camera, pin):
            waiting.set()
        done.set()

    thread = threading.Thread(target=taker)
    thread.start()
    assert waiting.wait(10)
    assert not done.is_set()
    camera.shoot(1)
    thread.join(10)
    assert done.is_set()


@pytest.mark.parametrize(("late_s", "given_up"), [(0.99, False), (1.01, True)])
def test_a_live_camera_s_picture_comes_within_a_second_or_never(
    camera: Camera, late_s: float, given_up: bool
) -> None:
    """A picture may be lost on the way while the others come."""
    pin = camera.pin(99.5)
    seen = wait(camera, pin)
    next(seen)
    camera.now_s = pin.settled_s + late_s
    assert (next(seen, "given up") == "given up") == given_up
    assert numbers(pin) == ([99] if given_up else [])


@pytest.mark.parametrize(("late_s", "given_up"), [(4.99, False), (5.01, True)])
def test_a_camera_that_sends_nothing_is_waited_for_as_long_as_the_settings_say(
    camera: Camera, late_s: float, given_up: bool
) -> None:
    pin = camera.pin(99.5)
    camera.now_s += 3.0
    assert not camera.pictures.live()
    seen = wait(camera, pin)
    assert next(seen) is None, "it is not live: there is nothing to decode meanwhile"
    camera.now_s = pin.settled_s + late_s
    assert (next(seen, "given up") == "given up") == given_up


def test_without_any_picture_there_is_none() -> None:
    camera = Camera()
    pin = camera.pin(0)
    camera.now_s += PATIENCE_S + 0.1
    with pytest.raises(NoPictureError):
        list(wait(camera, pin))


def test_a_picture_of_long_ago_is_none(camera: Camera) -> None:
    camera.now_s += 30.0
    pin = camera.pictures.pin(camera.now_s)
    camera.now_s += PATIENCE_S + 0.1
    with pytest.raises(NoPictureError):
        list(wait(camera, pin))


def test_nobody_waits_for_a_silent_camera_when_that_is_given_up(camera: Camera) -> None:
    pin = camera.pin(99.5)
    camera.now_s += 3.0
    seen = wait(camera, pin)
    next(seen)
    camera.pictures.give_up_waiting()
    assert list(seen) == []
    assert numbers(pin) == [99]


def test_a_live_camera_is_waited_for_all_the_same(camera: Camera) -> None:
    camera.pictures.give_up_waiting()
    pin = camera.pin(100)
    seen = wait(camera, pin)
    next(seen)
    assert next(seen, "given up") != "given up"
    camera.shoot(1)
    assert list(seen) == []
    assert numbers(pin) == [100]


def test_at_the_end_of_the_program_nobody_waits(camera: Camera) -> None:
    pin = camera.pin(100)
    seen = wait(camera, pin)
    next(seen)
    camera.ending = True
    assert list(seen) == []
    assert numbers(pin) == [99]


def test_a_session_s_end_keeps_the_nearest_picture_of_a_moment(camera: Camera) -> None:
    pin = camera.pin(100)
    camera.hang_up_and_come_back(after_s=0.5)
    camera.shoot(1)
    assert numbers(pin) == [99]


def test_the_next_session_s_picture_is_taken_when_it_is_nearer(camera: Camera) -> None:
    pin = camera.pictures.pin(camera.now_s + 0.4)
    camera.hang_up_and_come_back(after_s=0.45)
    camera.shoot(1)
    assert numbers(pin) == [0]


def test_a_dropped_pin_is_held_no_more(camera: Camera) -> None:
    pin = camera.pin(100)
    camera.pictures.drop(pin)
    camera.shoot(5)
    assert numbers(pin) == []


def test_a_pin_can_be_dropped_while_somebody_waits_for_it(camera: Camera) -> None:
    pin = camera.pin(100)
    seen = wait(camera, pin)
    next(seen)
    camera.pictures.drop(pin)
    camera.now_s = pin.settled_s + 1.1
    assert list(seen) == []
    assert numbers(pin) == [99]


def test_a_pin_that_has_its_picture_can_be_dropped(camera: Camera) -> None:
    pin = camera.pin(60)
    camera.pictures.drop(pin)
    assert numbers(pin) == [60]


def test_what_may_stand_in_for_a_picture_is_undamaged_and_near(camera: Camera) -> None:
    pin = camera.pin(99)
    [stand_in] = camera.pictures.around(pin)[-1:]
    assert number_of(stand_in) == 99
    camera.shoot(6, torn=True)
    pin = camera.pin(104)
    assert numbers(pin) == [99]
    assert not pin.choices[0].damaged
    assert {number_of(c) for c in camera.pictures.around(pin)} == {98, 99}


def test_the_last_resort_is_whatever_is_nearest(camera: Camera) -> None:
    assert [number_of(c) for c in camera.pictures.nearest(camera.pin(500))] == [99]
    assert Camera().pictures.nearest(Pin(1000.0, 0.0, None)) == ()


def test_a_camera_is_late_after_a_time_that_fits_its_rate(camera: Camera) -> None:
    assert not camera.pictures.is_late(1.5)
    assert camera.pictures.is_late(1.51)
    slow = Camera()
    for number in range(8):
        shot_s = slow.began_s + number * 2.0
        slow.pictures.append(CodedPicture(number * 2.0, shot_s, True, b"0", False))
    assert slow.pictures.period_s() == 2.0
    assert not slow.pictures.is_late(5.0)
    assert slow.pictures.is_late(5.1)


def test_the_pulse_tells_what_the_pictures_tell(camera: Camera) -> None:
    pulse = camera.pictures.pulse()
    assert pulse.newest_shot_s == pytest.approx(camera.shot_s(99))
    assert pulse.period_s == pytest.approx(PERIOD_S)
    assert pulse.gop_s == pytest.approx(25 * PERIOD_S)
    camera.pictures.end()
    assert camera.pictures.pulse().period_s is None
