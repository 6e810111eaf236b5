"""What is known of the way to the upload server, shared by all upload workers."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Final

from upload.outcomes import Misconfigured
from upload.pacing import Jitter

_log = logging.getLogger(__name__)

_HERD_DELAY_S: Final = 3.0


class Line:
    """Whether uploads are online and paused; logs each change once. For any thread."""

    def __init__(
        self,
        on_return: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Jitter = random.uniform,
    ) -> None:
        """Call `on_return` whenever the server can be reached again and whenever a pause ends."""
        self._on_return = on_return
        self._clock = clock
        self._jitter = jitter
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
                # 200 gates that come back together must not all send at once.
                delay_s = self._jitter(0, _HERD_DELAY_S)
                self._held_until_s = self._clock() + delay_s
                follows = f"; the backlog follows in {delay_s:.1f} s"
        if before is not True:
            _log.info("online: the upload server can be reached%s", follows)
            self._on_return()

    def note_unreachable(self, reason: str) -> None:
        """Note that no connection could be made."""
        with self._lock:
            before, self.online = self.online, False
        if before is not False:
            _log.warning("offline: %s; images are kept and sent later", reason)

    def note_portal(self, seen: bool) -> None:
        """Note whether a captive portal answers instead of the server."""
        with self._lock:
            before, self.captive_portal = self.captive_portal, seen
        if seen and not before:
            _log.warning("a captive portal answers instead of the upload server")

    def pause(self, why: Misconfigured) -> None:
        """Stop all sending except a probe now and then."""
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
        """Return how long the backlog has to wait after coming online; 0 or less: no longer."""
        with self._lock:
            return self._held_until_s - self._clock()
