"""The moments that captures wait for, and the pictures kept for them across a camera's sessions."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from camera.frame import Choice, Pin
from camera.packet_ring import PacketRing
from rtsp.nal_units import follows
from rtsp.rtp import CodedPicture

_STALLED_S: Final = 1.5
_MISSED_PERIODS: Final = 2.5  # for cameras that send less than a picture a second
_NEXT_PERIODS: Final = 1.5
_LIVE_WAIT_S: Final = 1.0
_LOOK_S: Final = 0.1


class NoPictureError(Exception):
    """There is no picture near a moment, and none will come."""


@dataclass(frozen=True)
class Pulse:
    """What is known of a session from its pictures; times in seconds, `None` while unknown."""

    newest_shot_s: float | None = None
    period_s: float | None = None
    gop_s: float | None = None
    b_frames: bool = False
    ring_too_short: bool = False
    clock_ppm: int | None = None
    stamps_stuck: bool = False


class PinnedPictures:
    """Hold a camera's recent pictures and give out the one of any moment. Thread-safe.

    Moments are in seconds of the monotonic clock, with the camera's latency added. Pictures are
    kept for `keep_s`; one at most `near_s` away replaces a damaged one; a camera that sends
    nothing is waited for `patience_s`.
    """

    def __init__(
        self,
        *,
        keep_s: float,
        near_s: float,
        patience_s: float,
        is_ending: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keep_s = keep_s
        self._near_s = near_s
        self._patience_s = patience_s
        self._is_ending = is_ending
        self._clock = clock
        self._changed = threading.Condition()
        self._ring: PacketRing | None = None
        self._began_s = 0.0
        self._waiting: list[Pin] = []
        self._patient = True

    # The reader thread.

    def begin(self, codec: str) -> None:
        """Begin a new session; `codec` is h264, h265 or mjpeg."""
        with self._changed:
            self._began_s = self._clock()
            self._ring = PacketRing(
                codec=codec, keep_s=self._keep_s, follows=follows if codec == "h264" else None
            )

    def end(self) -> None:
        """Forget the session's pictures except the nearest to each moment that is waited for."""
        with self._changed:
            for pin in self._waiting:
                pin.fallback = _nearest_of(pin, self._choose(pin.wanted_s))
            self._ring = None
            self._changed.notify_all()

    def append(self, picture: CodedPicture) -> None:
        """Take a picture and settle the pins that waited for it."""
        with self._changed:
            ring = self._ring
            if ring is None:
                return
            ring.append(picture)
            for pin in self._waiting:
                if ring.covers(pin.settled_s):
                    pin.choices = self._choose_for(pin)
            if any(pin.choices for pin in self._waiting):
                self._waiting = [pin for pin in self._waiting if not pin.choices]
                self._changed.notify_all()

    # Any thread.

    def pin(self, wanted_s: float, within_s: float = 0.0) -> Pin:
        """Keep the picture of a moment, past or to come, or all within `within_s` of it."""
        with self._changed:
            nearest = self._choose(wanted_s)
            pin = Pin(wanted_s, within_s, nearest[0] if nearest else None)
            if self._ring is not None and self._ring.covers(pin.settled_s):
                pin.choices = self._choose(wanted_s, within_s) if within_s else nearest
            if not pin.choices:
                self._waiting.append(pin)
            return pin

    def drop(self, pin: Pin) -> None:
        """Forget a pin that nobody will take; does nothing when it has its picture."""
        with self._changed:
            if pin in self._waiting:
                self._waiting.remove(pin)

    def until_settled(self, pin: Pin) -> Iterator[Choice | None]:
        """Wait until the pin has its picture, or the best one there is when that does not come.

        Meanwhile yields now and then the nearest so far, `None` when the camera sends nothing, so
        that the caller can use the time. A live camera's picture is waited for until 1 s or 1.5
        periods after its moment.

        Raises:
            NoPictureError: no picture within `patience_s` of that moment has ever come.
        """
        while not pin.choices:
            with self._changed:
                live = self.live()
                best = _nearest_of(pin, self._choose(pin.wanted_s)) if live else None
            yield best
            with self._changed:
                if pin.choices:
                    return
                live = self.live()
                patience_s = self._patience_s
                if live:
                    patience_s = min(patience_s, max(_LIVE_WAIT_S, _NEXT_PERIODS * self.period_s()))
                wait_s = pin.settled_s + patience_s - self._clock()
                if wait_s <= 0 or self._is_ending() or not (live or self._patient):
                    self.drop(pin)
                    pin.choices = (self._best_late(pin),)
                else:
                    self._changed.wait(min(wait_s, _LOOK_S))

    def give_up_waiting(self) -> None:
        """Stop waiting for a camera that sends nothing."""
        with self._changed:
            self._patient = False
            self._changed.notify_all()

    def around(self, pin: Pin) -> tuple[Choice, ...]:
        """Return what may replace a pinned picture that proves damaged."""
        with self._changed:
            return self._choose(pin.wanted_s, self._near_s)

    def nearest(self, pin: Pin) -> tuple[Choice, ...]:
        """Return the nearest undamaged picture, however far away."""
        with self._changed:
            found = self._ring.nearest(pin.wanted_s, math.inf) if self._ring else None
            return (found,) if found else ()

    def has_pictures(self) -> bool:
        """Tell whether this session's pictures can be decoded: a keyframe has come, and is kept."""
        with self._changed:
            return self._ring is not None and self._ring.has_pictures

    def live(self) -> bool:
        """Tell whether pictures that can be decoded are coming."""
        with self._changed:
            return self.has_pictures() and not self.is_late(self.age_s())

    def age_s(self) -> float:
        """Return how long ago the newest picture was shot; without one, the session began."""
        with self._changed:
            shot_s = self._ring.newest_shot_s if self._ring is not None else None
            return self._clock() - (self._began_s if shot_s is None else shot_s)

    def is_late(self, age_s: float) -> bool:
        """Tell whether a camera whose newest picture has this age has stopped."""
        return age_s > _STALLED_S and age_s > _MISSED_PERIODS * self.period_s()

    def period_s(self) -> float:
        """Return the time between two pictures, 0 while it is not known."""
        with self._changed:
            return (self._ring.period_s if self._ring is not None else None) or 0.0

    def pulse(self) -> Pulse:
        """Return what is known of this session from its pictures."""
        with self._changed:
            ring = self._ring
            if ring is None:
                return Pulse()
            return Pulse(
                newest_shot_s=ring.newest_shot_s,
                period_s=ring.period_s,
                gop_s=ring.gop_s,
                b_frames=ring.b_frames,
                ring_too_short=ring.too_short,
                clock_ppm=ring.clock_ppm,
                stamps_stuck=ring.stamps_stuck,
            )

    # With the lock held.

    def _choose(self, wanted_s: float, within_s: float = 0.0) -> tuple[Choice, ...]:
        """Return the picture nearest to a moment, or all undamaged ones around it."""
        if self._ring is None:
            return ()
        around = self._ring.around(wanted_s, within_s) if within_s else ()
        nearest = self._ring.nearest(wanted_s, self._near_s)
        return tuple(around) or ((nearest,) if nearest else ())

    def _choose_for(self, pin: Pin) -> Sequence[Choice]:
        """Return the ring's pictures for a pin, or the fallback where that is nearer."""
        found = self._choose(pin.wanted_s, pin.within_s)
        fallback = pin.fallback
        if not found or fallback is None or _nearest_of(pin, found) is not fallback:
            return found
        distance_s = min(abs(choice.shot_s - pin.wanted_s) for choice in found)
        return found if distance_s <= self._near_s else (fallback,)

    def _best_late(self, pin: Pin) -> Choice:
        """Return the nearest picture that ever came to a moment whose own did not."""
        best = _nearest_of(pin, self._choose(pin.wanted_s))
        if best is None or abs(best.shot_s - pin.wanted_s) > self._patience_s:
            raise NoPictureError
        return best


def _nearest_of(pin: Pin, choices: Sequence[Choice]) -> Choice | None:
    """Return the nearest of these and the pin's fallback."""
    found = [one for one in (pin.fallback, *choices) if one is not None]
    return min(found, key=lambda one: abs(one.shot_s - pin.wanted_s), default=None)
