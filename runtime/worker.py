"""One thread lifecycle for everything that runs in the background."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

_log = logging.getLogger(__name__)

_BACKOFF_START_S: Final = 0.5
_BACKOFF_CAP_S: Final = 30.0


class Worker:
    """Run `step()` on a thread until stopped.

    A subclass overrides `step()`, which does one piece of work and returns the seconds to wait
    before the next one (`None`: until woken). Tests call `step()` without any thread.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.failures = 0
        """How many steps in a row have raised."""
        self.died: Callable[[], None] | None = None
        """Called on the worker's thread when that ends without `stop()` having been called."""
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def step(self) -> float | None:
        """Do one piece of work and return the seconds until the next (`None`: when woken)."""
        raise NotImplementedError

    def close(self) -> None:
        """Release what the steps hold; called on the worker's thread when it ends."""

    @property
    def stopping(self) -> bool:
        """Tell whether `stop()` was called."""
        return self._stop.is_set()

    def pause(self, seconds: float) -> None:
        """Wait inside a step, at most `seconds`, ended early by `stop()`."""
        self._stop.wait(seconds)

    def start(self) -> None:
        """Start the thread. A worker is started once."""
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Let the next step happen now. Callable from any thread."""
        self._wake.set()

    def stop(self) -> None:
        """Ask the thread to end, without waiting for it. Callable from any thread."""
        self._stop.set()
        self._wake.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end and tell whether it has."""
        if self._thread is None:
            return True
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def is_alive(self) -> bool:
        """Tell whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._loop()
        finally:
            if not self.stopping:
                _log.critical("worker %s died", self.name)
                if self.died is not None:
                    self.died()

    def _loop(self) -> None:
        try:
            while True:
                self._wake.clear()
                if self._stop.is_set():
                    return
                self._wake.wait(self._guarded_step())
        finally:
            self.close()

    def _guarded_step(self) -> float | None:
        try:
            wait_s = self.step()
        except Exception as error:  # noqa: BLE001 - the one place that survives any failure
            self.failures += 1
            if self.failures == 1:
                _log.exception("%s failed; trying again", self.name)
            elif self.failures.bit_count() == 1:  # 2, 4, 8, ...: it may go on for days
                _log.warning("%s failed again (%d times): %s", self.name, self.failures, error)
            return min(_BACKOFF_CAP_S, _BACKOFF_START_S * 2.0 ** min(self.failures - 1, 10))
        if self.failures:
            _log.info("%s recovered after %d failures", self.name, self.failures)
            self.failures = 0
        return wait_s


def stop_all(workers: Iterable[Worker], timeout_s: float) -> list[str]:
    """Stop workers in their order, join them all within one deadline, name the survivors."""
    deadline = time.monotonic() + timeout_s
    workers = list(workers)
    for worker in workers:
        worker.stop()
    survivors = [w.name for w in workers if not w.join(deadline - time.monotonic())]
    for name in survivors:
        _log.error("%s did not end within %.0f s", name, timeout_s)
    return survivors
