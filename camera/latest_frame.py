"""A camera's newest picture for everyone who looks, with one decode however many they are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from camera.frame import Frame, StreamError
from camera.stream import CameraStream

_KEEP_S: Final = 0.5


@dataclass
class _Latest:
    lock: threading.Lock = field(default_factory=threading.Lock)
    frame: Frame | None = None
    made_s: float = 0.0


class LiveView:
    """Share each camera's newest picture among all who ask within half a second."""

    def __init__(
        self, streams: Mapping[str, CameraStream], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._streams = streams
        self._clock = clock
        self._latest = {key: _Latest() for key in streams}

    def frame(self, camera_key: str) -> Frame:
        """Return a picture that is at most about half a second old.

        Raises:
            StreamError: the camera sends nothing right now.
        """
        stream, latest = self._streams[camera_key], self._latest[camera_key]
        with latest.lock:
            now_s = self._clock()
            if latest.frame is not None and now_s - latest.made_s < _KEEP_S:
                return latest.frame
            status = stream.status()
            if status.state != "streaming":
                reason = status.error or f"the camera is {status.state}"
                raise StreamError(reason, status.hint or "")
            latest.frame = stream.take(stream.pin(now_s), urgent=False)
            latest.made_s = self._clock()
            return latest.frame

    def age_ms(self, frame: Frame) -> int:
        """Return how old a picture is."""
        return max(0, round((self._clock() - frame.shot_s) * 1000))
