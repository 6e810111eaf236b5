"""A deadline for a whole HTTP request.

The timeouts of urllib3 are for each read: a server that sends a byte a second never ends.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class Deadline:
    """Cut the connection when a request takes too long. For one request at a time.

    Use as `with deadline.within(seconds): ...` around a request that a pool made of
    `pool_classes()` sends.
    """

    def __init__(self) -> None:
        self.passed = False
        """Whether the last request was cut."""
        self._socket: socket.socket | None = None
        self._timer: threading.Timer | None = None

    def within(self, seconds: float) -> Deadline:
        """Set the time that the next `with` block may take."""
        self.passed = False
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        return self

    def pool_classes(self) -> dict[str, Any]:
        """Return classes for a pool manager whose connections can be cut."""
        deadline = self

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                deadline._watch(self.sock)

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                deadline._watch(self.sock)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        return {"http": PlainPool, "https": SecurePool}

    def _watch(self, connected: socket.socket | None) -> None:
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

    def __enter__(self) -> None:
        assert self._timer is not None  # noqa: S101 - within() made it
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
