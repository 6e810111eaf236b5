"""A deadline for a whole HTTP request.

The timeouts of urllib3 are for each read: a server that sends a byte a second never ends.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class Deadline:
    """Cut the connection when a request takes too long. For one request at a time.

    Use as `with deadline.within(seconds): ...` around a request that a pool made of
    `pool_classes()` sends. One thread watches over all requests; it ends when none came for as
    long as a request may take, or by `close()`.
    """

    def __init__(self) -> None:
        self.passed = False
        """Whether the last request was cut."""
        self._socket: socket.socket | None = None
        self._changing = threading.Lock()
        self._seconds = 0.0
        self._due_s: float | None = None
        self._watcher: threading.Thread | None = None
        self._closed = threading.Event()

    def within(self, seconds: float) -> Deadline:
        """Set the time that the next `with` block may take."""
        self._seconds = seconds
        return self

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
            try:
                # Not the method of a TLS socket: that one goes on in the clear.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            except OSError:
                return

    def _watch_requests(self, left_s: float) -> None:
        """Sleep until the request under way must end, cut it, or sleep on for the next one.

        Later requests must end later, so nobody needs to wake this thread.
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

    def __enter__(self) -> None:
        with self._changing:
            self.passed = False
            self._due_s = time.monotonic() + self._seconds
            if self._watcher is None and not self._closed.is_set():
                self._watcher = threading.Thread(
                    target=self._watch_requests,
                    args=(self._seconds,),
                    name="upload-deadline",
                    daemon=True,
                )
                self._watcher.start()

    def __exit__(self, *_: object) -> None:
        with self._changing:
            self._due_s = None
