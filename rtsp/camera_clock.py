"""When a picture was shot: the camera's own time, converted to this computer's.

Cameras stamp at another rate than they shoot (24 pictures a second with the stamps of 25), count
in another unit than they say, and jump. A picture never arrives before it is shot, so the line
below all arrivals, plotted over positions, tells offset and rate. Positions are the stream's own
time, arrivals and shots are on the monotonic clock; all in seconds.

Source: Moon, Skelly, Towsley, "Estimation and Removal of Clock Skew from Network Delay
Measurements" (INFOCOM 1999), which finds that line by the lower convex hull as here.
"""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise
from statistics import median
from typing import Final

_RECENT: Final = 250  # pictures
_NEWEST: Final = 8
_EARLY_PICTURES: Final = 3  # can come up to 39 ms early; more may come out of a buffer at once
_SETTLE_S: Final = 1.0
_ENOUGH: Final = 8  # pictures; fewer tell no rate
_REFIT_S: Final = 0.2
_REFIT_SHARE: Final = 0.1
_JUMP_S: Final = 0.2  # a position that far ahead of its arrival: a new time base
_BURST_S: Final = 15.0  # at first a server may send everything since the last keyframe at once
_UNITS: Final = (1.0, 90.0)  # some cameras count milliseconds and say 90 kHz
_AT_PACE: Final = 0.5  # of the time between two positions; less comes out of a buffer
_RATES: Final = (0.55, 1.8)
_NOTICED_S: Final = 0.008  # less than that over all that is remembered is jitter, not rate
_DRIFT_S: Final = 0.025  # more than that, and the rate is another one than it was


class CameraClock:
    """Follow offset and rate between one stream's time and the monotonic clock."""

    def __init__(self) -> None:
        self.rate = 1.0
        """Seconds of the monotonic clock in one second of the stream's."""
        self.offset_s = 0.0
        """Monotonic time minus the stream's, at its rate."""
        self._seen: deque[tuple[float, float]] = deque(maxlen=_RECENT)
        """Positions and arrivals."""
        self._delays_s: deque[float] = deque(maxlen=_RECENT)
        """Arrivals less positions, these at the present rate."""
        self._early = _EARLY_PICTURES
        self._last: tuple[float, float] | None = None
        self._fitted_s = 0.0
        self._fits = True
        self._noise_s = 0.0
        """How far stamps lie from their pictures' moments, either way."""

    def note(self, position_s: float, arrival_s: float) -> None:
        """Learn from a picture's arrival."""
        last, self._last = self._last, (position_s, arrival_s)
        if self._early:
            self.offset_s = arrival_s - position_s * self.rate
            is_at_pace = last is not None and arrival_s - last[1] > _AT_PACE * (
                position_s - last[0]
            )
            if self._early > 1 or is_at_pace:
                self._early -= 1
            return
        self._seen.append(self._last)
        self._delays_s.append(arrival_s - position_s * self.rate)
        span_s = self._span_s()
        is_due = arrival_s >= self._fitted_s + max(_REFIT_S, _REFIT_SHARE * span_s)
        if is_due and self._is_settled():
            self._fit(span_s)
            self._fitted_s = arrival_s
        self.offset_s = min(self._delays_s) + self._noise_s

    def shot_s(self, position_s: float) -> float:
        """Return when the picture at a position was shot, on the monotonic clock."""
        return position_s * self.rate + self.offset_s

    @property
    def is_sure(self) -> bool:
        """Tell whether offset and rate are known, and still hold."""
        return self._is_settled() and self._fits and self._drift_s() < _DRIFT_S

    def contradicts(self, position_s: float, arrival_s: float) -> bool:
        """Tell whether a picture would have come long before it was shot: a new time base."""
        if self._last is None:
            return False
        if self._is_settled():
            return self.shot_s(position_s) - arrival_s > _JUMP_S
        return position_s - self._last[0] - (arrival_s - self._last[1]) > _BURST_S

    def _is_settled(self) -> bool:
        return len(self._seen) >= _ENOUGH and self._span_s() >= _SETTLE_S

    def _span_s(self) -> float:
        return self._seen[-1][1] - self._seen[0][1] if self._seen else 0.0

    def _drift_s(self) -> float:
        """Return how late even the promptest of the newest pictures was."""
        newest = islice(reversed(self._delays_s), _NEWEST)
        return min(newest) - min(self._delays_s)

    def _fit(self, span_s: float) -> None:
        """Take the rate of the line below all arrivals; that of real time as long as it will do."""
        slope = _support_slope(self._seen)
        low, high = _RATES
        self._fits = any(low <= slope / unit <= high for unit in _UNITS)
        noticed = abs(slope - 1) * span_s / max(slope, 1.0) >= _NOTICED_S
        self.rate = slope if self._fits and noticed else 1.0
        delays_s = (arrival_s - position_s * self.rate for position_s, arrival_s in self._seen)
        self._delays_s = deque(delays_s, maxlen=_RECENT)
        self._noise_s = self._stamp_noise_s()

    def _stamp_noise_s(self) -> float:
        """Return about how far a stamp is off its picture's moment at most, either way.

        Noise of a stamp is in its delay too, the other way round. Pictures shot at irregular times
        are irregular in their stamps, not in their delays; a network's jitter only in delays. The
        median keeps single jumps and late pictures out. In the order they are shown, since B-frames
        come in another one.
        """
        shown = sorted((position_s * self.rate, arrival_s) for position_s, arrival_s in self._seen)
        stamps = _bends([position_s for position_s, _ in shown])
        delays = _bends([arrival_s - position_s for position_s, arrival_s in shown])
        shared = map(operator.mul, stamps, delays)
        noise_s = math.sqrt(max(0.0, -median(shared)))
        return min(noise_s, median(self._delays_s) - min(self._delays_s))  # as many early as late


def _support_slope(points: Iterable[tuple[float, float]]) -> float:
    """Return the slope of the edge of the lower convex hull that spans the points' mean."""
    ordered = sorted(points)
    hull: list[tuple[float, float]] = []
    for x, y in ordered:
        while len(hull) > 1 and _turns_right(hull[-2], hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    mean = sum(x for x, _ in ordered) / len(ordered)
    for (x0, y0), (x1, y1) in pairwise(hull):
        if x1 >= mean and x1 > x0:
            return (y1 - y0) / (x1 - x0)
    return 0.0


def _bends(values: Sequence[float]) -> list[float]:
    """Return second differences: zero for what goes on evenly."""
    return [c - 2 * b + a for a, b, c in zip(values, values[1:], values[2:], strict=False)]


def _turns_right(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[0] - a[0]) * (c[1] - a[1]) <= (b[1] - a[1]) * (c[0] - a[0])
