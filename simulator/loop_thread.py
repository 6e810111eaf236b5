"""An asyncio loop on a thread of its own, for servers whose methods are for any thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

_PATIENCE_S: Final = 3.0


class LoopThread:
    """Run one server's coroutines, from `start` until `stop`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to run the loop."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, None]) -> None:
        """Let the loop do this and wait for its end; what it raises is raised here."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE_S)

    def soon(self, callback: Callable[[], object]) -> None:
        """Let the loop call this, without waiting for it."""
        self._loop.call_soon_threadsafe(callback)

    def stop(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Let the loop end the server, cancel what still runs and end; does nothing twice."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self.call(_end(end))
        self._loop.call_soon_threadsafe(self._loop.stop)
        thread.join(_PATIENCE_S)
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()


async def _end(end: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await end()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
