"""When to try again: one image, and the backlog as a whole. Clock and random numbers are given."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from upload.outcomes import Deferred, Outcome

Jitter = Callable[[float, float], float]
"""Return a number between two others, at random except in tests."""

_BACKOFF_START_S: Final = 2.0
_BACKOFF_CAP_S: Final = 300.0
_BUSY_CAP_S: Final = 30.0
_REST_CAP_S: Final = 15.0


def backoff_s(
    failures: int, cap_s: float = _BACKOFF_CAP_S, jitter: Jitter = random.uniform
) -> float:
    """Return the wait after this many failures: exponential, capped, with full jitter."""
    return jitter(0, min(cap_s, _BACKOFF_START_S * 2.0 ** min(failures - 1, 16)))


def image_wait_s(outcome: Deferred, failures: int, jitter: Jitter) -> float:
    """Return how long an image waits after the server failed to take it `failures` times."""
    if outcome.retry_after_s is not None:
        return outcome.retry_after_s
    # That the server has too much to do says nothing about the image.
    return backoff_s(failures, _BUSY_CAP_S if outcome.busy else _BACKOFF_CAP_S, jitter)


class BacklogPace:
    """Decide how long to rest after each image of the backlog.

    `hurry` is for any thread, everything else for the one that sends.
    """

    def __init__(
        self,
        look_every_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Jitter = random.uniform,
    ) -> None:
        """Begin; `look_every_s` is the rest without a connection, and the most a server can ask."""
        self.look_every_s = look_every_s
        self._clock = clock
        self._jitter = jitter
        self._failures_in_a_row = 0
        self._not_before_s = 0.0
        self._waits_for_line = False
        self._hurried = False

    @property
    def failing(self) -> bool:
        """Tell whether the last outcome was `Deferred`."""
        return self._failures_in_a_row > 0

    def hurry(self) -> None:
        """End the rest, even one that an attempt under way is about to begin."""
        self._hurried = True

    def take_hurry(self) -> bool:
        """End the rest if `hurry` was called since the last time, and tell whether it was."""
        if not self._hurried:
            return False
        self._hurried = False
        self._not_before_s = 0.0
        return True

    def rest_s(self, *, online: bool) -> float:
        """Return how long to rest from now on; 0 or less: send."""
        if self._waits_for_line and online:
            self._waits_for_line = False
            self._failures_in_a_row = 0
            self._not_before_s = 0.0
        return self._not_before_s - self._clock()

    def after(self, outcome: Outcome) -> float:
        """Note an outcome and return how long to rest."""
        if not isinstance(outcome, Deferred):
            self._failures_in_a_row = 0
            return 0.0
        self._failures_in_a_row += 1
        if outcome.cause == "connection":
            self._waits_for_line = True
            return self.rest(self.look_every_s)
        asked_s = min(self.look_every_s, outcome.retry_after_s or 0.0)
        cap_s = min(self.look_every_s, _REST_CAP_S)
        # The backoff is added: else all sites that got the same answer would come back at once.
        return self.rest(asked_s + backoff_s(self._failures_in_a_row, cap_s, self._jitter))

    def rest(self, seconds: float) -> float:
        """Rest for a while, however often the worker is woken; return how long."""
        self._not_before_s = self._clock() + seconds
        return 0.0 if self._hurried else seconds
