"""A web server on a thread: waitress on a loop that can be stopped."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any, Final

import waitress
from waitress import wasyncore

from runtime.worker import Worker

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_log = logging.getLogger(__name__)

_BIND_RETRY_S: Final = 5.0


class WebServer(Worker):
    """Serve the application with waitress; `what` names it in the log.

    Binding an address that this host does not have yet is tried again.
    """

    def __init__(
        self, app: WSGIApplication, host: str, port: int, what: str = "web interface"
    ) -> None:
        super().__init__("web")
        self._app = app
        self._what = what
        self._address = (host, port)
        self._sockets: dict[int, Any] = {}
        self._server: Any = None
        self._failed = False

    def step(self) -> float:
        """Wait for the network for a second at most and serve what came."""
        if self._server is None and not self._bind():
            return _BIND_RETRY_S
        wasyncore.loop(timeout=1.0, use_poll=True, map=self._sockets, count=1)
        return 0.0

    def stop(self) -> None:
        """End the loop without waiting for its second to pass."""
        super().stop()
        server = self._server
        if server is not None:
            server.pull_trigger()

    def close(self) -> None:
        """Close all connections and end waitress' own threads."""
        if self._server is None:
            return
        self._server.close()
        for channel in list(self._sockets.values()):
            channel.close()
        self._server.task_dispatcher.shutdown(cancel_pending=True, timeout=3)
        self._server = None

    def _bind(self) -> bool:
        host, port = self._address
        try:
            listener = _listen(host, port)
        except OSError as error:
            if not self._failed:
                _log.error(
                    "%s: cannot listen on %s:%d: %s; trying again every %.0f s",
                    self._what,
                    host,
                    port,
                    error.strerror,
                    _BIND_RETRY_S,
                )
            self._failed = True
            return False
        self._server = waitress.create_server(
            self._app,
            sockets=[listener],
            map=self._sockets,
            threads=6,
            connection_limit=500,
            channel_timeout=30,
            asyncore_use_poll=True,
            ident=None,
        )
        _log.info("%s: http://%s:%d", self._what, host, port)
        return True


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener
