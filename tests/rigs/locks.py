"""A lock that tells when a thread has to wait for it, so that a test need not guess."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import Protocol

PATIENCE_S = 20.0


class Lock(Protocol):
    """What `threading` makes."""

    def acquire(self, blocking: bool = ...) -> bool:
        """Take it."""

    def release(self) -> None:
        """Give it back."""


class WatchedLock:
    """Pass everything on to a lock, and tell when a thread finds it taken."""

    def __init__(self, lock: Lock, told: SimpleQueue[str]) -> None:
        self._lock = lock
        self._told = told

    def __enter__(self) -> None:
        """Take the lock; tell before waiting for it."""
        if not self._lock.acquire(blocking=False):
            self._told.put("waits")
            self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lock back."""
        self._lock.release()


class Rival:
    """Another thread that does `act`; it tells "through" when it has got that far unhindered."""

    def __init__(self, act: Callable[[], object], told: SimpleQueue[str]) -> None:
        self._act = act
        self._told = told
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.result: object = None

    def _run(self) -> None:
        try:
            self.result = self._act()
        except Exception as error:  # noqa: BLE001 - shown by the test
            self.result = error
        self._told.put("through")

    def start(self) -> str:
        """Let it begin; return what is told first: that it waits for a lock, or is through."""
        self._thread.start()
        return self._told.get(timeout=PATIENCE_S)

    def end(self) -> object:
        """Wait for its end and return what `act` gave."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "it still waits"
        return self.result
