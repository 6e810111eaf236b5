"""The network line between the program and one RTSP camera, with all that can go wrong on it.

A TCP relay on 127.0.0.1. What the camera sends is taken apart into RTSP replies and interleaved
RTP packets (RFC 2326, 10.12), so that single packets can be lost or altered.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

_POLL_S: Final = 0.05
_CHUNK_BYTES: Final = 65536
_RTP_CHANNEL: Final = 0
_NOISE_BYTES: Final = 700

RtpPacket = bytes
Alter = Callable[[RtpPacket], RtpPacket | None]


class Line:
    """Relay connections to `target_port` while the context lasts. For any thread."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.connections = 0
        """How many were made so far."""
        self._ended = threading.Event()
        self._flowing = threading.Event()
        self._flowing.set()
        self._rate_bytes_s: float | None = None
        self._noise = False
        self._alter: Alter | None = None
        self._sockets: set[socket.socket] = set()
        self._changing = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = self._listen(0)
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._flowing.set()
        self.unplug()
        while self._threads:
            self._threads.pop().join()

    def url(self, path: str) -> str:
        """Return the address of a camera's stream at this end of the line."""
        return f"rtsp://127.0.0.1:{self.port}{path}"

    def cut(self) -> None:
        """Let nothing through any more; nobody is told, as with a cable cut far away."""
        self._flowing.clear()

    def unplug(self) -> None:
        """Reset all connections and refuse new ones, as a camera that is switched off."""
        with self._changing:
            if self._listener is not None:
                self._listener.close()
                self._listener = None
        self.reset()

    def reset(self) -> None:
        """Reset all connections."""
        with self._changing:
            sockets = list(self._sockets)
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.shutdown(socket.SHUT_RDWR)

    def trickle(self, bytes_s: float) -> None:
        """Let only so many bytes a second through from the camera."""
        self._rate_bytes_s = bytes_s

    def talk_noise(self) -> None:
        """Reset all connections and answer new ones with bytes that mean nothing."""
        self._noise = True
        self.reset()

    def alter(self, change: Alter | None) -> None:
        """Hand every video RTP packet to `change`, which returns it, another one or none."""
        self._alter = change

    def mend(self) -> None:
        """Be a good line again; connections cut before are gone by then."""
        self._rate_bytes_s = None
        self._noise = False
        self._alter = None
        if not self._flowing.is_set():
            self.reset()
            self._flowing.set()
        with self._changing:
            if self._listener is None:
                self._listener = self._listen(self.port)

    @staticmethod
    def _listen(port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        listener.settimeout(_POLL_S)
        return listener

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, name="line", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            with self._changing:
                listener = self._listener
            if listener is None or not self._flowing.is_set():
                self._ended.wait(_POLL_S)
                continue
            with contextlib.suppress(OSError):
                client, _ = listener.accept()
                self.connections += 1
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client:
            if self._noise:
                with contextlib.suppress(OSError):
                    client.recv(_CHUNK_BYTES)
                    client.sendall(random.Random(self.connections).randbytes(_NOISE_BYTES))
                return
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.target_port), 2) as camera,
            ):
                self._relay(client, camera)

    def _relay(self, client: socket.socket, camera: socket.socket) -> None:
        with self._changing:
            self._sockets |= {client, camera}
        try:
            back = threading.Thread(target=self._forward, args=(client, camera), daemon=True)
            back.start()
            self._forward(camera, client, _Parts())
            back.join()
        finally:
            with self._changing:
                self._sockets -= {client, camera}

    def _forward(
        self, source: socket.socket, sink: socket.socket, parts: _Parts | None = None
    ) -> None:
        source.settimeout(_POLL_S)
        while not self._ended.is_set():
            try:
                chunk = source.recv(_CHUNK_BYTES)
            except TimeoutError:
                continue
            except OSError:
                break
            if not chunk:
                break
            self._flowing.wait()
            if parts is not None:
                chunk = b"".join(map(self._altered, parts.feed(chunk)))
            with contextlib.suppress(OSError):
                self._send(sink, chunk)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _send(self, sink: socket.socket, chunk: bytes) -> None:
        sink.settimeout(5)
        while chunk and self._rate_bytes_s is not None:
            sink.sendall(chunk[:64])
            chunk = chunk[64:]
            time.sleep(64 / self._rate_bytes_s)
        sink.sendall(chunk)

    def _altered(self, part: bytes) -> bytes:
        alter = self._alter
        if alter is None or part[:1] != b"$" or part[1] != _RTP_CHANNEL:
            return part
        packet = alter(part[4:])
        if packet is None:
            return b""
        return b"$" + bytes([_RTP_CHANNEL]) + len(packet).to_bytes(2, "big") + packet


class _Parts:
    """Take a camera's bytes apart into replies and interleaved packets."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        self._rest += chunk
        found = []
        while size := self._size_of_next():
            found.append(self._rest[:size])
            self._rest = self._rest[size:]
        return found

    def _size_of_next(self) -> int:
        rest = self._rest
        if rest[:1] == b"$":
            size = 4 + int.from_bytes(rest[2:4], "big") if len(rest) >= 4 else 0
            return size if 0 < size <= len(rest) else 0
        head = rest.find(b"\r\n\r\n")
        if head < 0:
            return 0
        size = head + 4
        for line in rest[:head].lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                size += int(line.partition(b":")[2])
        return size if size <= len(rest) else 0
