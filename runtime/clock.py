"""The time: whether the system clock can be trusted, and the best time known when it can't.

The kernel runs the wall clock and the monotonic clock at one rate: within one boot only a step of
the wall clock changes their distance. So once the wall clock is right, it is known what time it was
at any earlier moment of that boot. (Suspend, which stops the monotonic clock, is not expected of a
box at a gate.)
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

_TIME_ERROR: Final = 5
_TIMEX_BYTES: Final = 512  # struct timex is about 208 bytes; room for any ABI
_STEP_S: Final = 0.1
"""What the distance of the clocks changes by at least when the wall clock is set."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment by the best time known; `trusted` tells whether the clock was right."""

    at: datetime
    trusted: bool


class Clock:
    """Name moments of the monotonic clock, for any thread but for `settled_offset_s`."""

    def __init__(
        self,
        *,
        synchronized: Callable[[], bool | None] | None = None,
        wall_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
        released_at: datetime = _EPOCH,
        newest_at: datetime | None = None,
    ) -> None:
        """Begin with what is known: it can't be earlier than the release or the newest image."""
        self.synchronized = synchronized or is_synchronized
        self._wall_s = wall_s
        self.monotonic_s = monotonic_s
        self._released_s = released_at.timestamp()
        known_s = max(self._released_s, newest_at.timestamp() if newest_at else 0.0)
        self._known_offset_s = known_s - monotonic_s()
        self._settling_offset_s: float | None = None

    def wall(self) -> datetime:
        """Return what the wall clock shows, right or wrong."""
        return datetime.fromtimestamp(self._wall_s(), UTC)

    def at(self, monotonic_s: float) -> Moment:
        """Return when a moment of the monotonic clock was.

        A clock that is not to be trusted is followed unless it is behind what was known before.
        """
        trusted, offset_s = self._look()
        if not trusted:
            offset_s = max(offset_s, self._known_offset_s)
        return Moment(datetime.fromtimestamp(monotonic_s + offset_s, UTC), trusted)

    def settled_offset_s(self) -> float | None:
        """Return wall minus monotonic time when the clock was right at the last call and is now.

        A clock is often called synchronised a moment before it is stepped.
        """
        trusted, offset_s = self._look()
        last_s, self._settling_offset_s = self._settling_offset_s, offset_s if trusted else None
        if not trusted or last_s is None or abs(offset_s - last_s) >= _STEP_S:
            return None
        return offset_s

    def _look(self) -> tuple[bool, float]:
        # Asked first: a clock set just now is then distrusted once more, never trusted too early.
        is_synchronized = self.synchronized() is not False
        before_s = self.monotonic_s()
        wall_s = self._wall_s()
        offset_s = wall_s - (before_s + self.monotonic_s()) / 2
        trusted = is_synchronized and wall_s >= self._released_s
        if trusted:
            self._known_offset_s = offset_s
        return trusted, offset_s


@cache
def boot_id() -> str:
    """Return what all processes of one boot share, if the kernel tells, else something random."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return uuid.uuid4().hex


@cache
def _libc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    except OSError:
        return None


def is_synchronized() -> bool | None:
    """Ask the kernel whether the clock is disciplined by NTP; `None` when it can't say.

    Source: adjtimex(2), which answers TIME_ERROR while the clock is not synchronised.
    """
    libc = _libc()
    if libc is None or not hasattr(libc, "adjtimex") or os.uname().sysname != "Linux":
        return None
    state = int(libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    return None if state < 0 else state != _TIME_ERROR
