"""A deadline for a whole HTTP request.

The timeouts of urllib3 are for each read: a server that sends a byte a second never ends.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class Deadline:
    """Cut the connection when a request takes too long. For one request at a time.

    Use as `with deadline.within(seconds): ...` around a request that a pool made of
    `pool_classes()` sends. One thread watches all requests; it ends when none came for as long as
    a request may take, or by `close()`.
    """

    def __init__(self) -> None:
        self.passed = False
        """Whether the last request was cut."""
        self._socket: socket.socket | None = None
        self._changing = threading.Lock()
        self._due_s: float | None = None
        self._watcher: threading.Thread | None = None
        self._closed = threading.Event()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Cut the connection when the `with` block takes longer than this."""
        with self._changing:
            self.passed = False
            self._due_s = time.monotonic() + seconds
            if self._watcher is None and not self._closed.is_set():
                self._watcher = threading.Thread(
                    target=self._watch_requests,
                    args=(seconds,),
                    name="upload-deadline",
                    daemon=True,
                )
                self._watcher.start()
        try:
            yield
        finally:
            with self._changing:
                self._due_s = None

    def close(self) -> None:
        """End the thread; requests sent later have no deadline."""
        self._closed.set()
        with self._changing:
            watcher = self._watcher
        if watcher is not None:
            watcher.join()

    def pool_classes(self) -> dict[str, Any]:
        """Return classes for a pool manager whose connections can be cut."""
        deadline = self

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                deadline._note(self.sock)

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                deadline._note(self.sock)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        return {"http": PlainPool, "https": SecurePool}

    def _note(self, connected: socket.socket | None) -> None:
        self._socket = connected
        if self.passed:
            self._cut()

    def _cut(self) -> None:
        self.passed = True
        if self._socket is not None:
            with suppress(OSError):
                # The method of a TLS socket would also drop the encryption and go on without it.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _watch_requests(self, left_s: float) -> None:
        """Sleep until the request under way must end; cut it, or sleep on for a later one.

        A later request always ends later, so nobody needs to wake this thread.
        """
        while not self._closed.wait(left_s):
            with self._changing:
                if self._due_s is None:
                    self._watcher = None
                    return
                left_s = self._due_s - time.monotonic()
                if left_s <= 0:
                    self._due_s = None
                    self._cut()
