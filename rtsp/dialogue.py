"""Speak RTSP with a camera, and say in words why it does not deliver its video.

A login is tried once, since cameras lock accounts out. Text is handled as Latin-1, so that the
bytes of names and passwords reach the digest unchanged.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import urlsplit

from rtsp.address import Address, parse_url
from rtsp.auth import Challenges, authorization, parse_challenges
from rtsp.connection import Tap, connect, remaining_s, untapped
from rtsp.errors import RtspError
from rtsp.sdp import SUPPORTED, Video, first_video

REPLY_MAX_BYTES: Final = 64 * 1024

ASKED: Final = (b"OPTIONS ", b"GET_PARAMETER ", b"SET_PARAMETER ", b"ANNOUNCE ")
"""Requests of cameras; some end the session when they get no answer."""
ENDED: Final = (b"TEARDOWN ", b"REDIRECT ")
BEGINNINGS: Final = (b"RTSP/1.0 ", *ASKED, *ENDED)
_CSEQ: Final = re.compile(rb"^cseq:\s*(\d{1,9})", re.IGNORECASE | re.MULTILINE)
_BODY_BYTES: Final = re.compile(
    rb"^content-length:[ \t]*(\d{1,9})\s*$", re.IGNORECASE | re.MULTILINE
)
_TRIES: Final = 4  # redirects, hang-ups after a 401 and cameras that want OPTIONS first
_MISCOUNTED: Final = 16  # so many bytes may be missing of what a camera announced
_MISCOUNTED_S: Final = 0.5
_FRAME_HEAD_BYTES: Final = 4  # "$", channel, length: RFC 2326, 10.12
HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_STATUS: Final = re.compile(r"RTSP/1\.0 +([0-9]{3})(?![0-9])([^\r\n]*)")
_CONNECT_S: Final = 2.0  # enough on a LAN: the kernel's second SYN goes out after 1 s
_TURN_S: Final = 0.5

_STATUS_WORDS: Final = {
    401: ("wrong_password", "wrong password"),
    403: ("wrong_password", "access denied"),
    404: ("wrong_path", "no such stream path"),
    410: ("wrong_path", "no such stream path"),
    453: ("server_error", "too many viewers"),
    454: ("wrong_path", "no such stream path"),
    461: ("unsupported_transport", "refuses this transport"),
}


@dataclass(frozen=True)
class Reply:
    """A camera's reply; header names are in lower case."""

    status: int
    phrase: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: str = ""

    def all(self, name: str) -> list[str]:
        """Return all values of a header; `name` is in lower case."""
        return [value for key, value in self.headers if key == name]


def parse_reply(head: bytes) -> Reply | None:
    """Parse the head of a reply; `None` when it is not a reply."""
    text = head.decode("latin-1")
    status = _STATUS.match(text)
    if status is None:
        return None
    pairs = [line.partition(":")[::2] for line in text.split("\n")[1:]]
    headers = [(name.strip().lower(), value.strip()) for name, value in pairs]
    return Reply(int(status[1]), status[2].strip(), headers)


@dataclass(frozen=True)
class _Attempt:
    """How a camera is asked for its description, on a connection of its own."""

    target: Address
    challenges: Challenges = field(default_factory=list)
    """Of an earlier connection, which the camera has closed."""
    options_first: bool = False


class _TryAgain(Exception):
    """The camera wants to be asked in another way; `error` tells why, after too many tries."""

    def __init__(self, attempt: _Attempt, error: RtspError) -> None:
        super().__init__(str(error))
        self.attempt = attempt
        self.error = error


def describe(
    url: str,
    timeout_s: float,
    is_wanted: Callable[[], bool] = lambda: True,
    tap: Tap = untapped,
) -> tuple[Dialogue, Video]:
    """Ask the camera at `url` for its stream; return the dialogue to go on with, and the video.

    Blocks for at most `timeout_s` (> 0), of which connecting may take 2 s. Gives up as soon as it
    is no longer wanted. With `rtsps` the certificate is not verified: cameras sign their own.

    Raises:
        RtspError: the camera can't be reached, refuses, or has no video that is supported.
    """
    deadline = time.monotonic() + timeout_s
    try:
        attempt = _Attempt(parse_url(url))
    except ValueError:  # not shown: its text may hold parts of the password
        hint = "Write rtsp://user:password@host:554/path, with / ? # @ in the password as %2F etc."
        raise RtspError("not_rtsp", "not a usable rtsp:// address", hint) from None
    for tries_left in reversed(range(_TRIES)):
        sock = connect(attempt.target, min(deadline, time.monotonic() + _CONNECT_S))
        dialogue = Dialogue(tap(sock), attempt, deadline, is_wanted)
        try:
            return dialogue, dialogue.describe()
        except _TryAgain as again:
            dialogue.close()
            attempt = again.attempt
            if not tries_left:
                raise again.error from None
        except BaseException:
            dialogue.close()
            raise
    raise AssertionError("unreachable")


class Dialogue:
    """Requests and replies on one connection, until `deadline`, `REPLY_MAX_BYTES` a reply at most.

    RTP packets between replies are dropped until the stream plays; what comes after the reply to
    PLAY stays in `buffer`.
    """

    def __init__(
        self,
        sock: socket.socket,
        attempt: _Attempt,
        deadline: float,
        is_wanted: Callable[[], bool],
    ) -> None:
        self.sock = sock
        self._is_wanted = is_wanted
        self.deadline = deadline
        """On the monotonic clock."""
        self.buffer = bytearray()
        self.base_uri = attempt.target.uri
        """What relative URLs in the description are resolved against."""
        self._attempt = attempt
        self._target = attempt.target
        self._received = 0
        self._asked = 0
        self._challenges = attempt.challenges
        self._logins = 0

    def close(self) -> None:
        """Hang up."""
        self.sock.close()

    def describe(self) -> Video:
        """Ask for the stream's description and return its first video. Raises `RtspError`."""
        if self._attempt.options_first:
            self.request("OPTIONS", self._target.uri, {})
        reply = self.request("DESCRIBE", self._target.uri, {"Accept": "application/sdp"})
        found = [*reply.all("content-base"), *reply.all("content-location")]
        self.base_uri = next(filter(_is_usable, found), self._target.uri)
        video = first_video(reply.body)
        if video is None:
            raise RtspError("no_video", "the stream has no video")
        if video.codec not in SUPPORTED:
            codec = self._target.show(video.codec, 20)
            raise RtspError("unsupported_codec", f"unsupported video codec {codec}")
        return video

    def request(self, method: str, uri: str, headers: Mapping[str, str]) -> Reply:
        """Send a request, log in if asked to, and return the reply, which is a success (2xx).

        Raises:
            RtspError: the camera refuses, or does not answer.
        """
        reply = self._ask(method, uri, headers)
        target = self._target
        if reply.status == 401 and (not self._challenges or method != "DESCRIBE"):
            if not target.user and not target.password:
                raise RtspError("wrong_password", "password required (401)")
            self.renew_login(reply)
            if self._authorization(method, uri) is None:
                hint = "Set the camera's RTSP authentication to digest (MD5)."
                raise RtspError("server_error", "password wanted in an unknown way (401)", hint)
            if method == "DESCRIBE" and "close" in map(str.lower, reply.all("connection")):
                attempt = replace(self._attempt, challenges=self._challenges)
                raise _TryAgain(attempt, _refusal(reply, target))
            reply = self._ask(method, uri, headers)
        if 200 <= reply.status < 300:
            return reply
        if 300 <= reply.status < 400 and method == "DESCRIBE":
            self._follow(reply)
        again = parse_challenges(reply.all("www-authenticate"))
        if reply.status == 401 and any(p.get("stale", "").lower() == "true" for _, p in again):
            raise RtspError("server_error", "login expires before it can be used (401, stale)")
        raise _refusal(reply, target)

    def _follow(self, reply: Reply) -> None:
        """Go where a redirect leads, with the login only if that is the same host."""
        try:
            found = parse_url(next(iter(reply.all("location")), ""))
        except ValueError:
            return
        user, password = self._target.user, self._target.password
        if found.host != self._target.host:
            user = password = ""
        target = replace(found, user=user, password=password, secrets=self._target.secrets)
        raise _TryAgain(_Attempt(target), _refusal(reply, self._target))

    def renew_login(self, reply: Reply) -> None:
        """Answer the challenges of this reply from the next request on."""
        self._challenges = parse_challenges(reply.all("www-authenticate"))
        self._logins = 0

    def answer(self, request: bytes) -> None:
        """Answer a request of the camera's with 200, whose head this is."""
        number = _CSEQ.search(request)
        self._send(b"RTSP/1.0 200 OK\r\nCSeq: " + (number[1] if number else b"0") + b"\r\n\r\n")

    def send(self, method: str, uri: str, headers: Mapping[str, str]) -> None:
        """Send a request without waiting for its reply."""
        self._asked += 1
        lines = [f"{method} {uri} RTSP/1.0", f"CSeq: {self._asked}", "User-Agent: camera-capture"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._logins += 1
        if answer := self._authorization(method, uri):
            lines.append(f"Authorization: {answer}")
        self._send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def _authorization(self, method: str, uri: str) -> str | None:
        user, password = self._target.user, self._target.password
        return authorization(self._challenges, user, password, method, uri, self._logins)

    def _ask(self, method: str, uri: str, headers: Mapping[str, str]) -> Reply:
        self._received = len(self.buffer)
        try:
            self.send(method, uri, headers)
            return self._reply()
        except TimeoutError:
            slow = "answers too slowly" if self.buffer else "accepts connections but is silent"
            raise RtspError("timeout", f"{self._target.place} {slow} (timeout)") from None

    def _send(self, request: bytes) -> None:
        self.sock.settimeout(remaining_s(self.deadline))
        try:
            self.sock.sendall(request)
        except TimeoutError:
            raise
        except OSError:
            pass  # the peer has hung up, but may have said why: read on

    def _reply(self) -> Reply:
        """Read up to the reply; what the camera asks before it is answered."""
        while True:
            head = self._head()
            reply = parse_reply(head)
            if reply is None and not head.startswith((*ASKED, *ENDED)):
                raise self._foreign()
            body = self._body(len(head), body_bytes(head))
            del self.buffer[: len(head) + len(body)]
            if reply is None:
                self.answer(head)
            elif reply.status >= 200:  # before that: not yet
                return Reply(reply.status, reply.phrase, reply.headers, body.decode("latin-1"))

    def _head(self) -> bytes:
        self._skip_packets()
        while not self._has_head() and self._receive():
            self._skip_packets()
        end = HEAD_END.search(self.buffer)
        return bytes(self.buffer[: end.end() if end else None])

    def _has_head(self) -> bool:
        """Tell whether a message's head is complete, or the bytes are not the beginning of one."""
        buffer = self.buffer
        if buffer.startswith(b"$"):  # the beginning of a packet
            return False
        foreign = not any(word.startswith(buffer[: len(word)]) for word in BEGINNINGS)
        return foreign or HEAD_END.search(buffer) is not None

    def _body(self, start: int, size: int) -> bytes:
        """Read a message's body, or what there is of it when the camera has said too much."""
        patient_s = self.deadline
        while len(self.buffer) < start + size:
            if size - (len(self.buffer) - start) <= _MISCOUNTED:
                patient_s = min(patient_s, time.monotonic() + _MISCOUNTED_S)
            try:
                if not self._receive(patient_s):
                    break
            except TimeoutError:
                if patient_s >= self.deadline:
                    raise
                break
        return bytes(self.buffer[start : start + size])

    def _skip_packets(self) -> None:
        """Drop RTP packets that a camera sends before its reply to PLAY.

        Also line ends after the last reply's body: some cameras give a wrong length.
        """
        while self.buffer.startswith((b"\r", b"\n")):
            del self.buffer[:1]
        while self.buffer[:1] == b"$" and len(self.buffer) >= _FRAME_HEAD_BYTES:
            size = _FRAME_HEAD_BYTES + int.from_bytes(self.buffer[2:4], "big")
            if len(self.buffer) < size:
                break
            del self.buffer[:size]
            self._received -= size

    def _receive(self, until_s: float | None = None) -> bool:
        """Read more into `buffer`; False at the end. Raises `TimeoutError` and `RtspError`."""
        if self._received >= REPLY_MAX_BYTES:
            place = self._target.place
            raise RtspError("server_error", f"{place} sends an endless reply (over 64 kB)")
        try:
            size_bytes = min(4096, REPLY_MAX_BYTES - self._received)
            chunk = self._chunk(size_bytes, self.deadline if until_s is None else until_s)
        except TimeoutError:
            raise
        except OSError:  # reset by the peer
            return False
        self.buffer += chunk
        self._received += len(chunk)
        return bool(chunk)

    def _chunk(self, size_bytes: int, until_s: float) -> bytes:
        """Wait for bytes, in short turns, so that the wait can end when it is no longer wanted."""
        while True:
            left_s = remaining_s(until_s)
            self.sock.settimeout(min(left_s, _TURN_S))
            try:
                return self.sock.recv(size_bytes)
            except TimeoutError:
                if not self._is_wanted():
                    raise

    def _foreign(self) -> RtspError:
        """Say what answered instead of an RTSP server."""
        start, place = bytes(self.buffer[:200]), self._target.place
        if not start and self._asked > 1:
            return RtspError("server_error", f"{place} hangs up when it is given the password")
        if not start:
            hint = "Check the port; a camera also hangs up when too many viewers are connected."
            error = RtspError("not_rtsp", f"{place} closes the connection at once", hint)
            if not self._attempt.options_first:
                raise _TryAgain(replace(self._attempt, options_first=True), error)
            return error
        if start.lstrip().lower().startswith((b"http/", b"<!doctype", b"<html")):
            return RtspError("not_rtsp", f"a web server answers on {place}, not RTSP")
        if re.match(rb"[\x15\x16]\x03[\x00-\x04]", start):
            hint = "Use rtsps:// instead of rtsp://, or check the port."
            return RtspError("not_rtsp", f"{place} speaks TLS, not plain RTSP", hint)
        said = self._target.show(start.split(b"\n")[0].decode("latin-1"))
        return RtspError("not_rtsp", f'{place} does not speak RTSP: it says "{said}"')


def body_bytes(head: bytes) -> int:
    """Return the length of the body that a message's head announces."""
    found = _BODY_BYTES.search(head)
    return int(found[1]) if found else 0


def _is_usable(base: str) -> bool:
    """Tell whether requests can be sent to a base URL: cameras leave out scheme or host."""
    try:
        parts = urlsplit(base)
    except ValueError:
        return False
    return parts.scheme in ("rtsp", "rtsps") and bool(parts.hostname)


def _refusal(reply: Reply, target: Address) -> RtspError:
    """Say in words what a reply that is not 2xx means."""
    said = target.show(f"{reply.status} {reply.phrase}")
    if reply.status in _STATUS_WORDS:
        code, words = _STATUS_WORDS[reply.status]
        return RtspError(code, f"{words} ({reply.status})", status=reply.status)
    if 300 <= reply.status < 400:
        return RtspError("wrong_path", f"redirects to another address ({said})")
    if 400 <= reply.status < 500:
        return RtspError("wrong_path", f"request refused ({said})", status=reply.status)
    return RtspError("server_error", f"camera reports an error ({said})")
