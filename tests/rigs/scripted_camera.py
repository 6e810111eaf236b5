"""A tiny server on loopback that plays a script to everyone who connects."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

WAIT_S = 60.0

Script = Callable[["Peer"], None]


class Peer:
    """The server's end of one connection, and what all connections were asked."""

    def __init__(self, sock: socket.socket, requests: list[str], done: threading.Event) -> None:
        self.sock = sock
        self.requests = requests
        self.done = done

    def request(self) -> str:
        """Read one request; empty at the end of the connection."""
        text = b""
        while not text.endswith(b"\r\n\r\n"):
            chunk = self.sock.recv(4096)
            if not chunk:
                return ""
            text += chunk
        self.requests.append(text.decode("latin-1"))
        return self.requests[-1]

    def reply(self, status: str, *headers: str, body: str = "") -> None:
        length = [f"Content-Length: {len(body)}"] if body else []
        head = "\r\n".join([f"RTSP/1.0 {status}", "CSeq: 1", *headers, *length, "", ""])
        self.send((head + body).encode("latin-1"))

    def send(self, text: bytes) -> None:
        self.sock.sendall(text)


class Server:
    """Play a script to every connection, until closed."""

    def __init__(self, script: Script, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[str] = []
        self.connections = 0
        self.done = threading.Event()
        self._script = script
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self.done.is_set():
                sock.close()
                return
            self.connections += 1
            sock.settimeout(WAIT_S)
            try:
                if self._context:
                    sock = self._context.wrap_socket(sock, server_side=True)
                self._script(Peer(sock, self.requests, self.done))
            except OSError:
                pass  # the client has hung up
            finally:
                sock.close()

    def close(self) -> None:
        self.done.set()
        socket.create_connection(("127.0.0.1", self.port), WAIT_S).close()  # wakes accept()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        self._listener.close()


Serve = Callable[..., Server]


@contextmanager
def serving() -> Iterator[Serve]:
    """Give a function that starts servers, all of which end with the context."""
    servers: list[Server] = []

    def start(script: Script, context: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(script, context))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def certified(folder: Path) -> ssl.SSLContext:
    """Return a server's TLS settings, with a certificate that it signed itself."""
    key, chain = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=camera",
         "-days", "2", "-keyout", str(key), "-out", str(chain)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    return context
