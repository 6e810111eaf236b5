"""When a picture was shot: the camera's own time, converted to this computer's.

A picture never arrives before it is shot, so the least recent delay is the distance of the two
clocks. Positions are the stream's own time, arrivals and shots are on the monotonic clock; all in
seconds.
"""

from __future__ import annotations

from collections import deque
from typing import Final

_RECENT: Final = 250
_EARLY_PICTURES: Final = 3  # a session's first pictures can come up to 39 ms early
_SETTLE_S: Final = 1.0
_JUMP_S: Final = 0.2  # a position that far ahead of its arrival: a new time base
_BURST_S: Final = 15.0  # at first a server may send everything since the last keyframe at once


class CameraClock:
    """Follow the distance between one stream's time and the monotonic clock."""

    def __init__(self) -> None:
        self._delays_s: deque[float] = deque(maxlen=_RECENT)
        self._seen = 0
        self._last_delay_s = 0.0
        self._first_arrival_s: float | None = None
        self._last_arrival_s = 0.0

    def note(self, position_s: float, arrival_s: float) -> None:
        """Learn from a picture's arrival."""
        self._last_delay_s = arrival_s - position_s
        self._last_arrival_s = arrival_s
        self._seen += 1
        if self._seen > _EARLY_PICTURES:
            if self._first_arrival_s is None:
                self._first_arrival_s = arrival_s
            self._delays_s.append(self._last_delay_s)

    def shot_s(self, position_s: float) -> float:
        """Return when the picture at a position was shot, on the monotonic clock."""
        return position_s + self.offset_s

    @property
    def offset_s(self) -> float:
        """Return monotonic time minus the stream's."""
        return min(self._delays_s, default=self._last_delay_s)

    @property
    def is_sure(self) -> bool:
        """Tell whether pictures have come for long enough to know the distance."""
        return (
            self._first_arrival_s is not None
            and self._last_arrival_s - self._first_arrival_s >= _SETTLE_S
        )

    def contradicts(self, position_s: float, arrival_s: float) -> bool:
        """Tell whether a picture would have come long before it was shot: a new time base."""
        ahead_s = self.offset_s - (arrival_s - position_s)
        return self._seen > 0 and ahead_s > (_JUMP_S if self.is_sure else _BURST_S)
