"""What is known of the way to the upload server, shared by all upload workers."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from upload.http_target import Misconfigured

_log = logging.getLogger(__name__)

_HERD_DELAY_S: Final = 3.0
_BACKLOG_FROM: Final = 10  # fewer images are no backlog worth a progress report
_RATE_WINDOW_S: Final = 60.0


class Line:
    """Online or not, paused or not; logs each change once. Every method is for any thread."""

    def __init__(self, on_return: Callable[[], None]) -> None:
        """Begin; `on_return` is called when there is a way again after none, or after a pause."""
        self._on_return = on_return
        self._lock = threading.Lock()
        self._held_until_s = 0.0
        self.online: bool | None = None
        """None until something was tried."""
        self.paused: Misconfigured | None = None
        self.captive_portal = False

    def note_reached(self) -> None:
        """Note that the server can be reached."""
        follows = ""
        with self._lock:
            before, self.online = self.online, True
            if before is False:
                # 200 gates that come back together shall not call together
                delay_s = random.uniform(0, _HERD_DELAY_S)  # noqa: S311
                self._held_until_s = time.monotonic() + delay_s
                follows = f"; the backlog follows in {delay_s:.1f} s"
        if before is not True:
            _log.info("online: the upload server can be reached%s", follows)
            self._on_return()

    def note_unreachable(self, reason: str) -> None:
        """Note that no connection came about."""
        with self._lock:
            before, self.online = self.online, False
        if before is not False:
            _log.warning("offline: %s; images are kept and sent later", reason)

    def note_portal(self, seen: bool) -> None:
        """Note whether a captive portal answers in the server's place."""
        with self._lock:
            before, self.captive_portal = self.captive_portal, seen
        if seen and not before:
            _log.warning("a captive portal answers instead of the upload server")

    def pause(self, why: Misconfigured) -> None:
        """Stop all sending but a slow probe."""
        with self._lock:
            before, self.paused = self.paused, why
        if before is None or before.reason != why.reason:
            _log.error("uploads paused: %s. %s", why.reason, why.hint)

    def resume(self) -> None:
        """Send again."""
        with self._lock:
            before, self.paused = self.paused, None
        if before is not None:
            _log.info("uploads go on")
            self._on_return()

    def hold_s(self) -> float:
        """Return how many seconds the backlog still waits after the line came back."""
        with self._lock:
            return self._held_until_s - time.monotonic()


class Claims:
    """Who sends which image: never two workers the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: set[int] = set()

    def take(self, image_id: int) -> bool:
        """Claim an image and tell whether it was free."""
        with self._lock:
            if image_id in self._ids:
                return False
            self._ids.add(image_id)
            return True

    def has(self, image_id: int) -> bool:
        """Tell whether somebody sends an image."""
        with self._lock:
            return image_id in self._ids

    def release(self, image_id: int) -> None:
        """Give an image back."""
        with self._lock:
            self._ids.discard(image_id)

    def count(self) -> int:
        """Return how many images are claimed."""
        with self._lock:
            return len(self._ids)


@dataclass(frozen=True)
class Drain:
    """Progress through a backlog."""

    total: int
    done: int
    per_minute: float
    minutes_left: float | None


class Progress:
    """How far a backlog is drained and how fast."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._left = 0
        self._done = 0
        self._started_s = 0.0
        self._delivered: deque[tuple[int, int]] = deque()
        """Seconds of the clock, and how many images went in each."""

    def set_left(self, left: int) -> None:
        """Note how many images are still to be sent."""
        with self._lock:
            self._left = max(0, left)
            if not self._left:
                self._done = 0

    def note(self) -> None:
        """Count an image of the backlog that needs no sending any more."""
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
        """Return the progress; `None` when there is no backlog under way."""
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
