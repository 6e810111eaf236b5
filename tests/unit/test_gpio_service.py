"""The pins, on a pretend RPi.GPIO: with a clock of the test's own, and on real threads."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import config
import gpio_service
from gpio import backend
from gpio.backend import GpioBackend
from gpio.pins import Edge, PinStatus
from gpio_service import GpioService
from runtime.clock import Clock
from runtime.worker import stop_all
from tests.rigs.gpio import FakeGpio

PINS = {18: "camera_1", 19: "camera_2", 20: "camera_3"}
SETTINGS = replace(config.parse({"GPIO_ENABLED": "true"}).gpio, pins=PINS)
PATIENCE_S = 5.0
BUSY = RuntimeError("'GPIO busy'")
BOOTED_AT = datetime(2026, 12, 1, 12, tzinfo=UTC)


class Time:
    def __init__(self) -> None:
        self.now_s = 5000.0

    def clock(self) -> Clock:
        return Clock(
            synchronized=lambda: True,
            wall_s=lambda: BOOTED_AT.timestamp() + self.now_s,
            monotonic_s=lambda: self.now_s,
        )


@dataclass
class Site:
    """A service without its thread; `run()` plays what the thread would do."""

    service: GpioService
    gpio: FakeGpio
    time: Time
    edges: list[Edge]

    def step(self) -> float | None:
        self.gpio.settle()
        return self.service.step()

    def run(self, seconds: float) -> None:
        end_s = self.time.now_s + seconds
        while True:
            wait_s = self.step()
            if wait_s is None or self.time.now_s + wait_s > end_s:
                self.time.now_s = end_s
                return
            self.time.now_s += wait_s

    def cameras(self) -> list[str]:
        return [edge.camera_key for edge in self.edges]

    def pin(self, number: int) -> PinStatus:
        return next(pin for pin in self.service.status().pins if pin.pin == number)


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site() -> Iterator[MakeSite]:
    sites: list[Site] = []

    def make(
        gpio: FakeGpio | None = None,
        settings: config.GpioConfig = SETTINGS,
        load: Callable[[], GpioBackend] | None = None,
    ) -> Site:
        time, edges = Time(), list[Edge]()
        fake = gpio or FakeGpio()
        service = GpioService(
            settings, on_edge=edges.append, load=load or (lambda: fake), clock=time.clock()
        )
        sites.append(Site(service, fake, time, edges))
        return sites[-1]

    yield make
    for site in sites:
        site.service.close()
        site.gpio.cleanup()


@pytest.fixture
def chips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Be a computer with a GPIO chip that may be used."""
    (tmp_path / "gpiochip0").touch()
    monkeypatch.setattr(backend, "_DEVICES", tmp_path)
    return tmp_path


# Edges.


def test_an_edge_becomes_a_trigger_with_its_own_time(make_site: MakeSite) -> None:
    site = make_site()
    site.step()
    site.time.now_s += 0.5
    edge_s = site.time.now_s
    site.gpio.drive_low(19)
    site.gpio.settle()
    site.time.now_s += 0.2
    site.step()
    [edge] = site.edges
    assert (edge.camera_key, edge.monotonic_s, edge.late) == ("camera_2", edge_s, False)
    assert edge.at == BOOTED_AT + timedelta(seconds=edge_s)
    assert site.pin(19).last_edge_at == edge.at


def test_simultaneous_edges_on_all_pins_trigger_each_camera(make_site: MakeSite) -> None:
    site = make_site()
    site.step()
    for pin in PINS:
        site.gpio.drive_low(pin)
    site.step()
    assert sorted(site.cameras()) == ["camera_1", "camera_2", "camera_3"]


def test_bounce_at_press_and_release_gives_one_trigger(make_site: MakeSite) -> None:
    site = make_site()
    site.step()
    site.gpio.bounce(18, 20)
    site.run(1.0)
    site.gpio.bounce(18, 20, ends_low=False)
    site.run(1.0)
    assert site.cameras() == ["camera_1"]
    assert site.pin(18).suppressed == 39
    site.gpio.drive_low(18)
    site.run(0.1)
    assert site.cameras() == ["camera_1", "camera_1"]


def test_a_lost_edge_is_found_within_about_a_second_and_flagged(make_site: MakeSite) -> None:
    site = make_site()
    site.run(3.5)
    site.gpio.lose_next_edge(20)
    site.gpio.drive_low(20)
    fell_s = site.time.now_s
    site.run(2.0)
    [edge] = site.edges
    assert (edge.camera_key, edge.late) == ("camera_3", True)
    assert 0 <= edge.monotonic_s - fell_s <= 1.02


def test_a_level_newer_than_an_edge_on_its_way_is_not_a_lost_edge(make_site: MakeSite) -> None:
    site = make_site()
    site.step()
    with site.gpio.callbacks_held_back():
        site.gpio.drive_low(18)
        assert site.service.step() == pytest.approx(0.01)
        site.time.now_s += 0.002
    site.run(1.0)
    assert [edge.late for edge in site.edges] == [False]


def test_levels_are_looked_at_often_only_while_they_matter(make_site: MakeSite) -> None:
    site = make_site()
    assert site.step() == pytest.approx(1.0)
    site.gpio.drive_low(18)
    assert site.step() == pytest.approx(0.01)
    site.run(0.4)
    site.gpio.drive_high(18)
    site.run(0.2)
    assert site.step() == pytest.approx(1.0)


def test_edges_that_came_before_the_stop_are_still_taken(make_site: MakeSite) -> None:
    site = make_site()
    site.step()
    site.gpio.drive_low(18)
    site.gpio.settle()
    site.service.close()
    assert site.cameras() == ["camera_1"]
    assert site.gpio.claimed == set()


def test_a_callback_never_raises(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site()
    site.step()
    for error in (SystemExit(1), KeyboardInterrupt(), MemoryError()):

        def fail(error: BaseException = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(site.service, "wake", fail)
            site.gpio.drive_low(18)
            site.gpio.settle()
        assert site.gpio.calls_back
        site.gpio.drive_high(18)
        site.run(1.0)
    assert site.cameras() == ["camera_1"] * 3


# At start.


def test_low_at_start_is_shown_and_triggers_nothing(
    make_site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(FakeGpio(low=[18]))
    site.run(2.0)
    assert site.edges == []
    assert (site.pin(18).state, site.pin(19).state) == ("LOW", "HIGH")
    assert "pin 18 is LOW at start" in caplog.text
    site.gpio.drive_high(18)
    site.run(1.0)
    site.gpio.drive_low(18)
    site.run(0.1)
    assert [edge.late for edge in site.edges] == [False]


def test_low_at_start_triggers_once_when_that_is_asked_for(make_site: MakeSite) -> None:
    site = make_site(FakeGpio(low=[18]), replace(SETTINGS, trigger_on_start=True))
    site.run(2.0)
    assert [(e.camera_key, e.late) for e in site.edges] == [("camera_1", False)]


def test_a_pin_that_falls_while_it_is_claimed_is_no_low_at_start(make_site: MakeSite) -> None:
    gpio = FakeGpio()
    gpio.before_detect(lambda pin: gpio.drive_low(18) if pin == 18 else None)
    site = make_site(gpio)
    site.run(1.0)
    assert [(e.camera_key, e.late) for e in site.edges] == [("camera_1", True)]


def test_an_edge_between_detection_and_the_first_look_triggers(make_site: MakeSite) -> None:
    gpio = FakeGpio()
    site = make_site(gpio)
    detect = gpio.add_event_detect

    def detect_then_fall(channel: int, edge: int, callback: Callable[[int], None]) -> None:
        detect(channel, edge, callback)
        if channel == 18:
            gpio.drive_low(18)

    gpio.add_event_detect = detect_then_fall  # type: ignore[assignment, method-assign]
    site.run(1.0)
    assert [(e.camera_key, e.late) for e in site.edges] == [("camera_1", False)]


# Settings.


def test_without_triggering_pins_are_watched_and_nothing_is_captured(make_site: MakeSite) -> None:
    site = make_site(settings=replace(SETTINGS, trigger_enabled=False))
    site.step()
    site.gpio.drive_low(18)
    site.run(0.5)
    assert site.edges == []
    assert site.pin(18).state == "LOW"
    assert site.pin(18).last_edge_at is not None


def test_disabled_gpio_touches_no_library(make_site: MakeSite) -> None:
    def load() -> GpioBackend:
        raise AssertionError("loaded")

    site = make_site(settings=replace(SETTINGS, enabled=False), load=load)
    assert site.service.step() is None
    status = site.service.status()
    assert (status.enabled, status.available, status.error) == (False, False, None)


def test_only_the_pins_of_the_settings_are_claimed(make_site: MakeSite) -> None:
    site = make_site(settings=replace(SETTINGS, pins={5: "camera_2"}))
    site.step()
    assert site.gpio.claimed == {5}


def test_without_pins_there_is_nothing_to_wait_for(make_site: MakeSite) -> None:
    assert make_site(settings=replace(SETTINGS, pins={})).step() is None


# Status.


def test_the_status_tells_of_every_pin(make_site: MakeSite) -> None:
    site = make_site()
    assert [(p.camera_key, p.pin, p.state) for p in site.service.status().pins] == [
        ("camera_1", 18, None),
        ("camera_2", 19, None),
        ("camera_3", 20, None),
    ]
    site.step()
    site.gpio.drive_low(18)
    site.run(0.05)
    status = site.service.status()
    assert (status.enabled, status.available, status.error, status.hint) == (True, True, None, None)
    seen = status.pins[0]
    assert (seen.state, seen.triggers, seen.suppressed, seen.stuck_low) == ("LOW", 1, 0, False)
    assert seen.last_edge_at is not None
    assert [p.state for p in status.pins[1:]] == ["HIGH", "HIGH"]
    assert [p.last_edge_at for p in status.pins[1:]] == [None, None]


def test_a_pin_low_for_long_is_stuck_until_it_is_high(
    make_site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(settings=replace(SETTINGS, stuck_low_s=120))
    site.step()
    site.gpio.drive_low(18)
    site.run(119.9)
    assert not site.pin(18).stuck_low
    site.run(0.5)
    assert site.pin(18).stuck_low
    assert site.step() == pytest.approx(0.1)
    with caplog.at_level(logging.INFO):
        site.gpio.drive_high(18)
        site.run(0.3)
    assert not site.pin(18).stuck_low
    assert "pin 18 is HIGH again" in caplog.text
    site.gpio.drive_low(18)
    site.run(0.1)
    assert site.cameras() == ["camera_1", "camera_1"]


# Errors, in words, and trying again.


def test_a_busy_pin_is_named_and_tried_again(
    make_site: MakeSite, chips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site()
    site.gpio.fail_setup(BUSY, 19)
    assert site.step() == 30.0
    status = site.service.status()
    assert (status.enabled, status.available) == (True, False)
    assert status.error == "pin 19 can't be used ('GPIO busy')"
    assert "Another program may hold it" in (status.hint or "")
    assert (site.gpio.claimed, site.gpio.cleanups) == (set(), 1)
    site.step()
    assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 1
    site.gpio.fail_setup(None, 19)
    with caplog.at_level(logging.INFO):
        assert site.step() == pytest.approx(1.0)
    assert "GPIO recovered" in caplog.text
    assert site.service.status().error is None
    site.gpio.drive_low(18)
    site.step()
    assert site.cameras() == ["camera_1"]


def test_edges_before_a_later_pin_fails_are_taken_at_once(make_site: MakeSite, chips: Path) -> None:
    gpio = FakeGpio()

    def act(pin: int) -> None:
        if pin == 19:
            gpio.drive_low(18)
            gpio.settle()

    gpio.before_detect(act)
    gpio.fail_setup(BUSY, 20)
    site = make_site(gpio)
    fell_s = site.time.now_s
    site.step()
    assert [(e.camera_key, e.monotonic_s) for e in site.edges] == [("camera_1", fell_s)]
    gpio.fail_setup(None, 20)
    gpio.before_detect(lambda pin: None)
    site.time.now_s += 30
    site.run(5.0)
    assert len(site.edges) == 1


@pytest.mark.parametrize("error", [RuntimeError("Cannot determine SOC"), OSError("no chip")])
def test_a_computer_without_pins(make_site: MakeSite, chips: Path, error: Exception) -> None:
    (chips / "gpiochip0").unlink()
    site = make_site()
    site.gpio.fail_setmode(error)
    assert site.step() == 30.0
    status = site.service.status()
    assert status.error == f"this computer has no GPIO chip ({error})"
    assert "GPIO_ENABLED=false" in (status.hint or "")


def test_no_permission_is_told_from_no_chip(
    make_site: MakeSite, chips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *args: False)
    site = make_site()
    site.gpio.fail_setmode(RuntimeError("can not open gpiochip"))
    site.step()
    status = site.service.status()
    assert "no permission to use" in (status.error or "")
    assert "usermod -aG gpio" in (status.hint or "")


def test_any_other_error_keeps_its_own_words(make_site: MakeSite, chips: Path) -> None:
    site = make_site()
    site.gpio.fail_setmode(ValueError("A different mode has already been set!"))
    site.step()
    assert site.service.status().error == (
        "GPIO does not work (A different mode has already been set!)"
    )


# On real threads.


@pytest.fixture
def live() -> Iterator[tuple[FakeGpio, list[Edge], Callable[[int], bool]]]:
    gpio, edges = FakeGpio(), list[Edge]()
    came = threading.Semaphore(0)

    def on_edge(edge: Edge) -> None:
        edges.append(edge)
        came.release()

    settings = replace(SETTINGS, hold_off_ms=0, rearm_ms=0)
    service = GpioService(settings, on_edge=on_edge, load=lambda: gpio, clock=Clock())
    detecting = threading.Semaphore(0)
    gpio.before_detect(lambda pin: detecting.release())
    service.start()

    def wait_for(count: int) -> bool:
        return all(came.acquire(timeout=PATIENCE_S) for _ in range(count))

    assert all(detecting.acquire(timeout=PATIENCE_S) for _ in PINS)
    yield gpio, edges, wait_for
    assert stop_all([service], PATIENCE_S) == []
    assert gpio.claimed == set()


def test_live_edges_on_all_pins_at_once(
    live: tuple[FakeGpio, list[Edge], Callable[[int], bool]],
) -> None:
    gpio, edges, wait_for = live
    start = threading.Barrier(len(PINS))

    def fall(pin: int) -> None:
        start.wait(PATIENCE_S)
        gpio.drive_low(pin)

    threads = [threading.Thread(target=fall, args=(pin,)) for pin in PINS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wait_for(3)
    assert sorted(edge.camera_key for edge in edges) == sorted(PINS.values())


def test_live_edges_of_one_pin_after_the_other(
    live: tuple[FakeGpio, list[Edge], Callable[[int], bool]],
) -> None:
    gpio, edges, wait_for = live
    for pin in PINS:
        gpio.drive_low(pin)
        assert wait_for(1)
    assert [edge.camera_key for edge in edges] == list(PINS.values())
    moments = [edge.monotonic_s for edge in edges]
    assert moments == sorted(moments)


def test_an_edge_wakes_a_worker_that_would_not_look_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpio_service, "_LEVEL_CHECK_S", 100 * PATIENCE_S)
    gpio, edges = FakeGpio(), queue.SimpleQueue[Edge]()
    waits_s = queue.SimpleQueue[float | None]()

    class Told(GpioService):
        def step(self) -> float | None:
            wait_s = super().step()
            waits_s.put(wait_s)
            return wait_s

    service = Told(SETTINGS, on_edge=edges.put, load=lambda: gpio, clock=Clock())
    service.start()
    try:
        assert waits_s.get(timeout=PATIENCE_S) == 100 * PATIENCE_S
        gpio.drive_low(19)
        assert edges.get(timeout=PATIENCE_S).camera_key == "camera_2"
    finally:
        assert stop_all([service], PATIENCE_S) == []


# The pretend library itself.


def test_the_rig_refuses_what_breaks_the_real_one() -> None:
    gpio = FakeGpio()
    with pytest.raises(RuntimeError, match="setmode"):
        gpio.setup(18, gpio.IN, pull_up_down=gpio.PUD_UP)
    gpio.setmode(gpio.BCM)
    with pytest.raises(RuntimeError, match="setup"):
        gpio.input(18)
    gpio.setup(18, gpio.IN, pull_up_down=gpio.PUD_UP)
    with pytest.raises(AssertionError, match="twice"):
        gpio.setup(18, gpio.IN, pull_up_down=gpio.PUD_UP)
    with pytest.raises(AssertionError, match="bouncetime"):
        gpio.add_event_detect(18, gpio.FALLING, print, bouncetime=300)


def test_the_rig_loses_its_thread_to_an_escaping_exit() -> None:
    gpio = FakeGpio()
    gpio.setmode(gpio.BCM)
    gpio.setup(18, gpio.IN, pull_up_down=gpio.PUD_UP)
    gpio.add_event_detect(18, gpio.FALLING, lambda pin: sys.exit())
    assert gpio.calls_back
    gpio.drive_low(18)
    gpio.settle()
    gpio.drive_high(18)
    gpio.drive_low(18)
    gpio.settle()
    assert not gpio.calls_back
    gpio.cleanup()
