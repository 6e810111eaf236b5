"""From a bouncing contact's edges and levels to single triggers: pure rules, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from config import GpioConfig


@dataclass(frozen=True)
class Trigger:
    """A trigger and the time of its edge. `late`: the edge was missed, only the LOW level seen."""

    edge_s: float
    late: bool


class _State(Enum):
    ARMED = auto()
    CONFIRMING = auto()  # an edge came; is the line still LOW after the glitch time?
    HELD = auto()  # triggered; waits for the hold-off and for a HIGH that lasts


class Debouncer:
    """Trigger on the first falling edge, and again only after hold-off and re-arm time.

    `edge()` takes falling edges, `level()` the level that was read. While `watching` is true the
    level must be read often, otherwise now and then.
    """

    def __init__(self, config: GpioConfig) -> None:
        self._hold_off_s = config.hold_off_ms / 1000
        self._rearm_s = config.rearm_ms / 1000
        self._glitch_s = config.glitch_ms / 1000
        self._state = _State.ARMED
        self._edge_s = 0.0
        self._late = False
        self._high_since_s: float | None = None
        self._seen_low_s: float | None = None
        self.suppressed = 0
        """Edges that were a bounce or a glitch, or came within the hold-off."""

    @property
    def watching(self) -> bool:
        """Tell whether the next level matters soon."""
        return self._state is not _State.ARMED or self._seen_low_s is not None

    def hold(self, now_s: float) -> None:
        """Treat the line as LOW since before the start: no trigger until it was HIGH."""
        self._state = _State.HELD
        self._edge_s = now_s - self._hold_off_s
        self._high_since_s = None

    def edge(self, edge_s: float) -> Trigger | None:
        """Take a falling edge."""
        self._rearm(edge_s)
        self._seen_low_s = None
        if self._state is not _State.ARMED:
            self.suppressed += 1
            self._high_since_s = None
            return None
        return self._accept(edge_s, late=False)

    def level(self, now_s: float, is_low: bool) -> Trigger | None:
        """Take the level of the line as it was read."""
        if self._state is _State.CONFIRMING:
            return self._confirm(now_s, is_low)
        if self._state is _State.ARMED:
            return self._look_for_lost_edge(now_s, is_low)
        if is_low:
            self._high_since_s = None
        elif self._high_since_s is None:
            self._high_since_s = now_s
        self._rearm(now_s)
        return None

    def _accept(self, edge_s: float, *, late: bool) -> Trigger | None:
        self._edge_s = edge_s
        self._late = late
        self._high_since_s = None
        if self._glitch_s:
            self._state = _State.CONFIRMING
            return None
        self._state = _State.HELD
        return Trigger(edge_s, late)

    def _confirm(self, now_s: float, is_low: bool) -> Trigger | None:
        if not is_low:
            self._state = _State.ARMED
            self.suppressed += 1
            return None
        if now_s - self._edge_s < self._glitch_s:
            return None
        self._state = _State.HELD
        return Trigger(self._edge_s, self._late)

    def _look_for_lost_edge(self, now_s: float, is_low: bool) -> Trigger | None:
        """Trigger on the second LOW in a row without an edge: at the first it may be on its way."""
        first_seen_s = self._seen_low_s
        self._seen_low_s = now_s if is_low and first_seen_s is None else None
        if not is_low or first_seen_s is None:
            return None
        return self._accept(first_seen_s, late=True)

    def _rearm(self, now_s: float) -> None:
        if (
            self._state is _State.HELD
            and self._high_since_s is not None
            and now_s - self._high_since_s >= self._rearm_s
            and now_s - self._edge_s >= self._hold_off_s
        ):
            self._state = _State.ARMED
