"""What others see of a camera: a pinned moment, its frame or an error, and the status.

Plain types: importing them loads neither decoder nor network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """A coded picture and what is needed to decode it.

    It is the one at `index` of `pictures`: its GOP in decoding order, from the keyframe at least
    to itself. `codec` is h264, h265 or mjpeg. `shot_s` is on the monotonic clock. It `stands_in`
    for a nearer picture that is damaged or lost.
    """

    codec: str
    pictures: tuple[bytes, ...]
    index: int
    shot_s: float
    damaged: bool
    timing_unsure: bool
    stands_in: bool = False


class Pin:
    """A moment somebody wants the picture of; the ring's trimming can't take that away.

    `choices` is empty until the pictures within `within_s` of the moment can no longer change;
    then it holds the nearest one, or with `within_s` all undamaged ones.
    """

    def __init__(self, wanted_s: float, within_s: float, fallback: Choice | None) -> None:
        self.wanted_s = wanted_s
        self.within_s = within_s
        self.fallback = fallback
        """The nearest picture of an earlier session, or the nearest when the pin was made."""
        self.choices: Sequence[Choice] = ()

    @property
    def settled_s(self) -> float:
        """Return when the last picture that matters is shot, in seconds of the monotonic clock."""
        return self.wanted_s + self.within_s


@dataclass(frozen=True)
class Frame:
    """A picture to be saved. `shot_s` is on the monotonic clock, sizes are in pixels."""

    jpeg: bytes
    thumbnail: bytes
    width: int
    height: int
    shot_s: float
    flags: tuple[str, ...]


class StreamError(Exception):
    """There is no frame; `reason` says why, `hint` what to do."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True)
class StreamStatus:
    """What is known of a camera right now; docs/architecture.md lists the states."""

    state: str
    error: str | None = None
    hint: str | None = None
    last_frame_age_s: float | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    codec: str | None = None
    gop_s: float | None = None
    gop_too_long: bool = False
    ring_too_short: bool = False
    """The seconds that captures may reach back don't fit into memory."""
    clock_ppm: int | None = None
    """By how much the camera's stamps run fast, in millionths; `None` while that is unsure."""
    advice: str | None = None
    """What to change in the camera's settings."""
