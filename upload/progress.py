"""The state of the uploads, and the progress through a backlog."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_BACKLOG_FROM: Final = 10  # images; fewer need no progress report
_RATE_WINDOW_S: Final = 60.0


@dataclass(frozen=True)
class Drain:
    """Progress through a backlog; `total` and `done` count images."""

    total: int
    done: int
    per_minute: float
    minutes_left: float | None


@dataclass(frozen=True)
class UploadStatus:
    """The state of the uploads; `online` is `None` until something was tried."""

    enabled: bool
    online: bool | None
    paused: str | None
    hint: str | None
    captive_portal: bool
    queue_size: int
    target: str
    drain: Drain | None


class Progress:
    """Count how far a backlog is drained and how fast. Every method is for any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._left = 0
        self._done = 0
        self._started_s = 0.0
        self._delivered: deque[tuple[int, int]] = deque()
        """Whole seconds of the clock, and the number of images done in each."""

    def set_left(self, left: int) -> None:
        """Note how many images are still to be sent."""
        with self._lock:
            self._left = max(0, left)
            if not self._left:
                self._done = 0

    def note(self) -> None:
        """Count an image of the backlog as done."""
        with self._lock:
            now_s = self._clock()
            if not self._done:
                self._started_s = now_s
            self._left = max(0, self._left - 1)
            self._done += 1
            second, count = int(now_s), 1
            if self._delivered and self._delivered[-1][0] == second:
                count += self._delivered.pop()[1]
            self._delivered.append((second, count))
            while self._delivered[0][0] < now_s - _RATE_WINDOW_S:
                self._delivered.popleft()

    def drain(self) -> Drain | None:
        """Return the progress; `None` when no backlog is being drained."""
        with self._lock:
            total = self._done + self._left
            if not self._done or total < _BACKLOG_FROM:
                return None
            now_s = self._clock()
            since_s = now_s - _RATE_WINDOW_S
            recent = sum(count for second, count in self._delivered if second >= since_s)
            seconds = min(_RATE_WINDOW_S, max(1.0, now_s - self._started_s))
            per_minute = recent * 60 / seconds
            minutes_left = round(self._left / per_minute, 1) if per_minute else None
            return Drain(total, self._done, round(per_minute, 1), minutes_left)
