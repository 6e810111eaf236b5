"""Pretend GPIO pins and the induction loops that pull them.

The pins have the shape of RPi.GPIO and the habits of rpi-lgpio: one thread calls back for all of
them, and a pin that is LOW from the start never does. What must not be done to the real library
fails here: a `bouncetime`, a second `setup` of a pin.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from runtime.worker import Worker
from simulator.rtsp_camera import SimulatedCamera

_BOUNCES: Final = 3
_BOUNCE_S: Final = 0.002
_READY_S: Final = 2.0
_IDLE_S: Final = 0.2


class SimulatedPins:
    """Stand in for the module `RPi.GPIO`; loops, or tests, move the pins."""

    BCM = 11
    IN = 1
    PUD_UP = 22
    FALLING = 32
    LOW = 0
    HIGH = 1

    def __init__(self, low: Iterable[int] = ()) -> None:
        self.claimed: set[int] = set()
        self._mode: int | None = None
        self._low = set(low)
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._changed = threading.Condition()
        self._edges: deque[int] = deque()
        self._calling = False
        self._held_back = False
        self._ending = False
        self._thread: threading.Thread | None = None

    def setmode(self, mode: int, /) -> None:
        """Choose the numbering of the pins."""
        if mode != self.BCM:
            raise AssertionError("pins are BCM numbers")
        self._mode = mode

    def setup(self, channel: int, direction: int, /, *, pull_up_down: int) -> None:
        """Claim a pin, once."""
        if self._mode is None:
            raise RuntimeError("Please set pin numbering mode using GPIO.setmode(GPIO.BCM)")
        if (direction, pull_up_down) != (self.IN, self.PUD_UP):
            raise AssertionError("pins are inputs with a pull-up")
        if channel in self.claimed:
            raise AssertionError(f"pin {channel} was set up twice: its callbacks would stop")
        self.claimed.add(channel)

    def add_event_detect(
        self,
        channel: int,
        edge: int,
        /,
        callback: Callable[[int], None],
        bouncetime: int | None = None,
    ) -> None:
        """Call back for the edges to come."""
        if bouncetime is not None:
            raise AssertionError("bouncetime delays triggers and loses some")
        if edge != self.FALLING:
            raise AssertionError("only falling edges are triggers")
        self._need(channel)
        if channel in self._callbacks:
            raise RuntimeError("Conflicting edge detection already enabled for this GPIO channel")
        with self._changed:
            self._callbacks[channel] = callback
        if self._thread is None:
            self._ending = False
            self._thread = threading.Thread(target=self._call_back, name="pins", daemon=True)
            self._thread.start()

    def input(self, channel: int, /) -> int:
        """Read a level."""
        self._need(channel)
        with self._changed:
            return self.LOW if channel in self._low else self.HIGH

    def cleanup(self) -> None:
        """Give all pins back and end the callbacks."""
        with self._changed:
            self.claimed.clear()
            self._callbacks.clear()
            self._edges.clear()
            self._mode = None
            self._ending = True
            self._changed.notify_all()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def drive_low(self, pin: int) -> None:
        """Pull a pin LOW: an edge, unless it is LOW already. Returns at once, as a relay does."""
        with self._changed:
            if pin in self._low:
                return
            self._low.add(pin)
            if pin in self._callbacks:
                self._edges.append(pin)
                self._changed.notify_all()

    def drive_high(self, pin: int) -> None:
        """Let go of a pin: no edge that anybody is told of."""
        with self._changed:
            self._low.discard(pin)

    def _need(self, channel: int) -> None:
        if channel not in self.claimed:
            raise RuntimeError("You must setup() the GPIO channel first")

    def _call_back(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._ending or (self._edges and not self._held_back)
                )
                if self._ending:
                    return
                pin = self._edges.popleft()
                callback = self._callbacks[pin]
                self._calling = True
            try:
                callback(pin)
            except BaseException:  # noqa: BLE001 - the real thread ends as silently
                return
            finally:
                with self._changed:
                    self._calling = False
                    self._changed.notify_all()


class InductionLoop(Worker):
    """Pull `pin` while a car of the camera's clip stands at the line, with contact bounce.

    Cars come from the moment on that somebody has watched the camera for two seconds.
    """

    def __init__(
        self,
        pins: SimulatedPins,
        pin: int,
        camera: SimulatedCamera,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(f"loop-{pin}")
        self.pin = pin
        self.presses: list[float] = []
        """When the contact first closed for each car, on the monotonic clock."""
        self._pins = pins
        self._camera = camera
        self._clock = clock
        self._watched_since_s: float | None = None
        self._changes: deque[tuple[float, bool]] = deque()
        self._done_until_s = 0.0
        self._jammed = False

    def jam(self) -> None:
        """Let the contact stay closed."""
        self._jammed = True
        self._pins.drive_low(self.pin)

    def free(self) -> None:
        """Let it open and follow the cars again."""
        self._jammed = False
        self._pins.drive_high(self.pin)

    def step(self) -> float:
        """Move the contact when it is time and return the seconds until the next change."""
        now_s = self._clock()
        if not self._is_watched(now_s):
            return _IDLE_S
        if not self._changes:
            self._plan_visit()
        while self._changes and self._changes[0][0] <= self._clock():
            self._move(*self._changes.popleft())
        if not self._changes:
            return 0.0
        return max(0.0, self._changes[0][0] - self._clock())

    def _is_watched(self, now_s: float) -> bool:
        if self._watched_since_s is None and self._camera.viewers:
            self._watched_since_s = now_s
            self._done_until_s = now_s + _READY_S
        return self._watched_since_s is not None

    def _plan_visit(self) -> None:
        """Note every movement of the contact for the next car."""
        stops_s, leaves_s = self._next_visit()
        self._done_until_s = leaves_s
        closes = stops_s
        for _ in range(_BOUNCES):
            self._changes += ((closes, True), (closes + _BOUNCE_S, False))
            closes += 2 * _BOUNCE_S
        self._changes.append((closes, True))
        opens = leaves_s
        for _ in range(_BOUNCES):
            self._changes += ((opens, False), (opens + _BOUNCE_S, True))
            opens += 2 * _BOUNCE_S
        self._changes.append((opens, False))
        self._first_close_s = stops_s

    def _next_visit(self) -> tuple[float, float]:
        clip = self._camera.clip
        turn = self._camera.frame_at(self._done_until_s) // len(clip.pictures)
        while True:
            for visit in clip.visits:
                begin = turn * len(clip.pictures)
                stops_s = self._camera.moment_of(begin + visit.stops_at_frame)
                if stops_s > self._done_until_s:
                    return stops_s, self._camera.moment_of(begin + visit.leaves_at_frame)
            turn += 1

    def _move(self, at_s: float, closed: bool) -> None:
        if closed and at_s == self._first_close_s:
            self.presses.append(self._clock())
        if self._jammed:
            return
        if closed:
            self._pins.drive_low(self.pin)
        else:
            self._pins.drive_high(self.pin)
