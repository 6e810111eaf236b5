"""What a camera said and sent, written down so that it can be played back.

A recording is a text file of JSON, one entry a line. The first line is the head:
`{"format": "rtsprec", "version": 1, "transport": "tcp", "recorded": "2026-01-31T12:00:00+00:00"}`.
Every other one has `at`, in seconds since the beginning on the monotonic clock, and one of:

- `connected`: the number of the connection, from 1 on; `tls` tells whether it is encrypted
- `asked`: a request of ours, or an answer to one of the camera's
- `said`: a message of the camera's, head and body, when its last byte had come
- `packet`: base64 of a packet inside the connection, without its four bytes; `channel` is its own
- `datagram`: base64 of a packet over UDP; `track` is 0 for RTP and 1 for RTCP, `port` the sender's
  and `stranger` true when it is of another address than the camera
- `bytes`: base64 of what came inside the connection and is neither
- `sent`: base64 of a packet of ours, with its four bytes; over UDP with `track`
- `hung_up`: the camera has ended the connection; the text says how
- `end`: the last line: why the camera failed, with `hint`, or why it ends early, or empty

Text is Latin-1, so that every byte is a character. To read it:

    with open(path, encoding="ascii") as file:
        for line in file:
            entry = json.loads(line)  # a last line without an end was cut off: leave it out
            if "said" in entry:
                print(entry["at"], entry["said"])
            elif "packet" in entry:
                print(entry["at"], len(base64.b64decode(entry["packet"])), "bytes")

Logins and addresses are taken out before anything is written, see `redaction`.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final, cast

from rtsp.dialogue import ASKED, ENDED, body_bytes
from rtsp.errors import Diagnosis
from rtsp.redaction import HEAD_END, Redaction

MOST_BYTES: Final = 64_000_000
_NOTHING_YET: Final = (BlockingIOError, TimeoutError, ssl.SSLWantReadError)
_FRAME_HEAD_BYTES: Final = 4  # "$", channel, length: RFC 2326, 10.12
_MOST_CHANNELS: Final = 16
_MOST_WAITING_BYTES: Final = 1 << 17  # twice what the dialogue takes for a reply
_MESSAGES: Final = (b"RTSP/1.0 ", *ASKED, *ENDED)
_BEGINNING: Final = re.compile(
    rb"\$[\x00-\x0f]..[\x80-\xbf]|" + b"|".join(map(re.escape, _MESSAGES)), re.DOTALL
)
_PRINTABLE: Final = re.compile(rb"[\t\r\n -~]*")


class Recorder:
    """Write down what goes through the sockets that it taps. For one thread.

    What can't be written ends the recording, never the session: see `problem`.
    """

    def __init__(
        self,
        file: BinaryIO,
        url: str,
        transport: str,
        most_bytes: int = MOST_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.packets = 0
        self.received_bytes = 0
        self.problem = ""
        """Why nothing more is written down; empty while all is well."""
        self.peer = ""
        """The camera's IP address."""
        self.redaction = Redaction(url)
        self._file = file
        self._left_bytes = most_bytes
        self._most_bytes = most_bytes
        self._clock = clock
        self._began_s = clock()
        self._connections = self._tracks = 0
        recorded = datetime.now(UTC).isoformat(timespec="seconds")
        head = {"format": "rtsprec", "version": 1, "transport": transport, "recorded": recorded}
        self._write(head)

    def tap(self, sock: socket.socket) -> socket.socket:
        """Return what takes the socket's place; each connection comes before its UDP sockets."""
        with suppress(OSError):  # it has hung up already
            self.peer = self.peer if sock.type == socket.SOCK_DGRAM else sock.getpeername()[0]
            self.redaction.add_host(self.peer)
            self.redaction.add_host(sock.getsockname()[0], own=True)
        if sock.type == socket.SOCK_DGRAM:
            self._tracks += 1
            return cast("socket.socket", _TappedDatagrams(sock, self, self._tracks - 1))
        self._connections += 1
        self._tracks = 0
        self.note(connected=self._connections, tls=isinstance(sock, ssl.SSLSocket))
        return cast("socket.socket", _TappedStream(sock, self))

    def note(self, at_s: float | None = None, **entry: object) -> None:
        """Write an entry down, which holds nothing secret any more."""
        at_s = self.now_s() if at_s is None else at_s
        self._write({"at": round(at_s, 6), **entry})

    def now_s(self) -> float:
        """Return the seconds since the beginning."""
        return self._clock() - self._began_s

    def packed(self, data: bytes) -> str:
        """Return bytes as entries hold them, without what must not be in them."""
        return base64.b64encode(self.redaction.data(data)).decode()

    def flush(self) -> None:
        """Hand what was noted to the system."""
        try:
            self._file.flush()
        except OSError as error:
            self._fail(error)

    def end(self, failure: Diagnosis | None) -> None:
        """Write the last line, also when nothing else could be written any more."""
        reason = self.redaction.reason(failure.reason) if failure else self.problem
        hint = self.redaction.reason(failure.hint) if failure else ""
        self._left_bytes = self._most_bytes
        with suppress(OSError):
            self._put({"at": round(self.now_s(), 6), "end": reason, "hint": hint})
        self.flush()

    def _write(self, entry: dict[str, Any]) -> None:
        if not self.problem:
            try:
                self._put(entry)
            except OSError as error:
                self._fail(error)

    def _put(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        self._left_bytes -= len(line)
        if self._left_bytes < 0:
            self.problem = f"the largest size is reached ({self._most_bytes / 1e6:g} MB)"
        else:
            self._file.write(line)

    def _fail(self, error: OSError) -> None:
        self.problem = self.problem or f"cannot be written: {error.strerror or error}"


class _Tapped:
    """Stand for a socket; what is not told here goes straight to it."""

    def __init__(self, sock: socket.socket, recorder: Recorder) -> None:
        self._sock = sock
        self._recorder = recorder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _TappedDatagrams(_Tapped):
    """A UDP socket, of RTP when `track` is 0, of RTCP when it is 1."""

    def __init__(self, sock: socket.socket, recorder: Recorder, track: int) -> None:
        super().__init__(sock, recorder)
        self._track = track

    def recvfrom(self, size: int, flags: int = 0) -> tuple[bytes, Any]:
        data, sender = self._sock.recvfrom(size, flags)
        recorder = self._recorder
        recorder.packets += 1
        recorder.received_bytes += len(data)
        recorder.note(
            datagram=recorder.packed(data),
            track=self._track,
            port=sender[1],
            stranger=sender[0] != recorder.peer,
        )
        return data, sender

    def sendto(self, data: bytes, address: Any) -> int:
        self._recorder.note(sent=self._recorder.packed(data), track=self._track)
        return self._sock.sendto(data, address)


class _TappedStream(_Tapped):
    """A connection, in which messages and packets are told apart."""

    def __init__(self, sock: socket.socket, recorder: Recorder) -> None:
        super().__init__(sock, recorder)
        self._waiting = bytearray()
        self._at_s = 0.0
        self._has_ended = False

    def recv(self, size: int) -> bytes:
        try:
            chunk = self._sock.recv(size)
        except _NOTHING_YET:
            raise
        except OSError as error:
            self._end(error.strerror or type(error).__name__)
            raise
        if chunk:
            self._recorder.received_bytes += len(chunk)
            self._at_s = self._recorder.now_s()
            self._waiting += chunk
            self._take()
        else:
            self._end("closed")
        return chunk

    def sendall(self, data: bytes) -> None:
        if data.startswith(b"$"):
            self._recorder.note(sent=self._recorder.packed(data))
        else:
            if HEAD_END.search(self._waiting) and self._waiting.startswith(_MESSAGES):
                self._flush()  # its body is shorter than announced, and we have given up on it
            self._recorder.note(asked=self._recorder.redaction.request(data))
        self._sock.sendall(data)

    def close(self) -> None:
        self._flush()
        self._sock.close()

    def _end(self, how: str) -> None:
        self._flush()
        if not self._has_ended:
            self._has_ended = True
            self._recorder.note(hung_up=how)

    def _take(self) -> None:
        """Write down all that is complete."""
        while size := self._size():
            self._note(bytes(self._waiting[:size]))
            del self._waiting[:size]

    def _flush(self) -> None:
        """Write down what is left, complete or not."""
        if self._waiting:
            self._note(bytes(self._waiting))
            self._waiting.clear()

    def _size(self) -> int:
        """Return the size of what comes first, 0 while it is incomplete."""
        waiting = self._waiting
        left = len(waiting)
        if waiting.startswith(b"$"):
            if left < _FRAME_HEAD_BYTES:
                return 0
            if waiting[1] < _MOST_CHANNELS:
                size = _FRAME_HEAD_BYTES + int.from_bytes(waiting[2:4], "big")
                return size if size <= left else 0
        elif waiting.startswith(_MESSAGES):
            end = HEAD_END.search(waiting)
            size = end.end() + body_bytes(bytes(waiting[: end.end()])) if end else left + 1
            if size <= left or left <= _MOST_WAITING_BYTES:
                return size if size <= left else 0
        elif any(word.startswith(waiting) for word in _MESSAGES):
            return 0
        # Kept until it is known where it ends: what must be found in it may come in two parts.
        following = _BEGINNING.search(waiting, 1)
        if following:
            return following.start()
        return left if left > _MOST_WAITING_BYTES else 0

    def _note(self, item: bytes) -> None:
        recorder = self._recorder
        if item.startswith(_MESSAGES):
            recorder.note(self._at_s, said=recorder.redaction.message(item))
        elif self._is_packet(item):
            recorder.packets += 1
            packet = recorder.packed(item[_FRAME_HEAD_BYTES:])
            recorder.note(self._at_s, packet=packet, channel=item[1])
        elif _PRINTABLE.fullmatch(item):  # a web server's answer, for instance
            text = recorder.redaction.text(item.decode("latin-1")).encode("latin-1")
            recorder.note(self._at_s, bytes=base64.b64encode(text).decode())
        else:
            recorder.note(self._at_s, bytes=recorder.packed(item))

    @staticmethod
    def _is_packet(item: bytes) -> bool:
        size = len(item) - _FRAME_HEAD_BYTES
        return item[:1] == b"$" and size >= 0 and int.from_bytes(item[2:4], "big") == size
