"""An upload server that does next to nothing, so that clients are measured and not it.

`python -m tests.torture.sink PORT` answers every POST with 200 and any GET with its figures; it
says `listening` when it does.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from tests.rigs.daemon import ROOT

_CHUNK: Final = 65_536
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_KEY: Final = re.compile(rb"\r\nidempotency-key: *([0-9a-f]+)", re.IGNORECASE)
_TAKEN: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Sink:
    """Count uploads and throw them away."""

    def __init__(self) -> None:
        self.uploads = 0
        self.first_at: float | None = None
        self.keys: set[bytes] = set()

    def serve(self, connection: socket.socket) -> None:
        """Answer the requests of one client until it leaves."""
        buffer = bytearray(_CHUNK)
        head = b""
        with connection:
            while True:
                while b"\r\n\r\n" not in head:
                    received = connection.recv(_CHUNK)
                    if not received:
                        return
                    head += received
                head, _, body = head.partition(b"\r\n\r\n")
                length = _LENGTH.search(head)
                left = (int(length[1]) if length else 0) - len(body)
                while left > 0:
                    taken = connection.recv_into(buffer, min(left, _CHUNK))
                    if not taken:
                        return
                    left -= taken
                connection.sendall(self._answer(head))
                head = b""

    def _answer(self, head: bytes) -> bytes:
        if head.startswith(b"GET "):
            figures = {
                "uploads": self.uploads,
                "distinct": len(self.keys),
                "first_at": self.first_at,
            }
            body = json.dumps(figures).encode()
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        self.uploads += 1
        if self.first_at is None:
            self.first_at = time.time()
        key = _KEY.search(head)
        if key:
            self.keys.add(bytes.fromhex(key[1].decode()))
        return _TAKEN


@contextmanager
def sink(port: int) -> Iterator[str]:
    """Run one as its own process and give its URL."""
    command = [sys.executable, "-m", "tests.torture.sink", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or process.stdout.readline() != "listening\n":
                raise RuntimeError("the upload server did not start")
            yield f"http://127.0.0.1:{port}/api"
        finally:
            process.kill()


def figures(url: str) -> dict[str, Any]:
    """Ask one for its figures."""
    with urllib.request.urlopen(url, timeout=10) as reply:  # noqa: S310
        found: dict[str, Any] = json.loads(reply.read())
        return found


def main() -> None:
    """Serve until killed."""
    counter = Sink()
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listening:
        print("listening", flush=True)
        while True:
            connection, _ = listening.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=counter.serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
