"""What is known of the pins and of an edge: plain facts that others may hold."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Edge:
    """A trigger: which camera, and when on both clocks."""

    camera_key: str
    monotonic_s: float
    at: datetime
    late: bool


@dataclass(frozen=True)
class PinStatus:
    """What is known of one pin. `state` is HIGH, LOW, or None when it was never read."""

    camera_key: str
    pin: int
    state: str | None
    last_edge_at: datetime | None
    triggers: int
    suppressed: int
    stuck_low: bool


@dataclass(frozen=True)
class GpioStatus:
    """Whether the pins work, and each of them."""

    enabled: bool
    available: bool
    error: str | None
    hint: str | None
    pins: tuple[PinStatus, ...]
