"""Whether the system clock can be trusted, and the best known time when it can't.

The kernel runs the wall clock and the monotonic clock at one rate: within one boot only a step of
the wall clock changes their distance. So once the wall clock is right, the time of every earlier
moment of that boot is known. (Suspend stops the monotonic clock; it is not expected at a gate.)
"""

from __future__ import annotations

import ctypes
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
"""A smaller change of the clocks' distance is slewing, not a step of the wall clock."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment by the best known time; `trusted` tells whether the clock was right."""

    at: datetime
    trusted: bool


class Clock:
    """Tell when moments of the monotonic clock were. Any thread, except `settled_offset_s`."""

    def __init__(
        self,
        *,
        synchronized: Callable[[], bool | None] | None = None,
        wall_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
        released_at: datetime = _EPOCH,
        newest_at: datetime | None = None,
    ) -> None:
        """Start from what is known: it can't be earlier than the release or the newest image."""
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
        # Asked first: a clock set meanwhile is distrusted once more, never trusted too early.
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
    """Return the id of this boot as the kernel tells it, else a random one."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return uuid.uuid4().hex


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def is_synchronized() -> bool | None:
    """Ask the kernel whether the clock is disciplined by NTP; `None` when it can't say.

    Source: adjtimex(2), which answers TIME_ERROR while the clock is not synchronised.
    """
    if not hasattr(_libc(), "adjtimex"):
        return None
    state = int(_libc().adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    return None if state < 0 else state != _TIME_ERROR
