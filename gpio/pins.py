"""What others get to know of the pins and of a trigger: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Edge:
    """A trigger: its camera, and its time on both clocks. `late`: see `Trigger`."""

    camera_key: str
    monotonic_s: float
    at: datetime
    late: bool


@dataclass(frozen=True)
class PinStatus:
    """What is known of one pin. `state` is HIGH, LOW, or `None` before it was read."""

    camera_key: str
    pin: int
    state: str | None
    last_edge_at: datetime | None
    triggers: int
    suppressed: int
    stuck_low: bool


@dataclass(frozen=True)
class GpioStatus:
    """Whether GPIO works, and the state of each pin."""

    enabled: bool
    available: bool
    error: str | None
    hint: str | None
    pins: tuple[PinStatus, ...]
