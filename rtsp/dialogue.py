"""Speak RTSP with a camera, and say in words why it cannot be had.

The password is given once at a login, since cameras lock accounts out. Text is handled as Latin-1,
so that the bytes of names and passwords reach the digest unchanged.
"""

from __future__ import annotations

import base64
import errno
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes, urlsplit

from rtsp.auth import Challenges, authorization, parse_challenges
from rtsp.sdp import SUPPORTED, Video, first_video

REPLY_MAX_BYTES: Final = 64 * 1024

_PROTOCOL: Final = b"RTSP/1.0 "
_FRAME_HEAD_BYTES: Final = 4  # "$", channel, length: RFC 2326, 10.12
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_STATUS: Final = re.compile(r"RTSP/1\.0 +([0-9]{3})(?![0-9])([^\r\n]*)")
_CONNECT_S: Final = 2.0  # a LAN: a second try of the kernel's is in it
_TURN_S: Final = 0.5
_DEFAULT_PORTS: Final = {"rtsp": 554, "rtsps": 322}  # as FFmpeg has them

_HINTS: Final = {
    "ok": "",
    "unknown_host": "Check the camera's host name, or enter its IP address instead.",
    "refused": "Check the port, and that RTSP is switched on in the camera's network settings.",
    "unreachable": "Check power, cable and switch, and that this computer is in the same network.",
    "timeout": "Check power, cable and IP address; restart the camera if it answers a ping.",
    "not_rtsp": "Check address and port; the camera's RTSP port is usually 554.",
    "wrong_password": "Correct the camera's user name and password in .env; after several wrong "
    "attempts many cameras refuse even the right one for some minutes.",
    "wrong_path": "Correct the stream path: the camera's manual or web page names its RTSP URL.",
    "no_video": "Switch the video stream on in the camera, or choose the path of another stream.",
    "unsupported_codec": "Set the camera's video encoding to H.264, H.265 or MJPEG.",
    "unsupported_transport": "Set RTSP_TRANSPORT to the other one of tcp and udp.",
    "closed": "Check the camera's power and network cable.",
    "server_error": "Restart the camera; if that doesn't help, close other viewers of its stream.",
}

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
class Diagnosis:
    """Tell what is wrong with a camera, why, and what to do about it."""

    code: str
    """One of the keys of `_HINTS`."""
    reason: str
    hint: str


class RtspError(Exception):
    """The camera cannot be had, or not any more; `diagnosis` says why."""

    def __init__(self, code: str, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.diagnosis = Diagnosis(code, reason, hint or _HINTS[code])


@dataclass(frozen=True, repr=False)
class _Target:
    tls: bool
    host: str
    port: int
    uri: str  # without credentials
    user: str
    password: str
    secrets: tuple[str, ...]  # spellings of the password that must not be shown

    @property
    def place(self) -> str:
        host = self.host if len(self.host) <= 60 else self.host[:57] + "..."
        return _printable(f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}")

    def show(self, text: str, limit: int = 40) -> str:
        """Make text from the network fit to be logged: short, printable, without the password."""
        text = _printable(text.strip())
        if any(secret in text for secret in self.secrets):
            return "(text hidden)"
        return text if len(text) <= limit else text[: limit - 3] + "..."


@dataclass(frozen=True)
class Reply:
    """A camera's reply; header names are in lower case."""

    status: int
    phrase: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: str = ""

    def all(self, name: str) -> list[str]:
        """Return the values of a header."""
        return [value for key, value in self.headers if key == name]

    @property
    def body_bytes(self) -> int:
        """Return the length of the body that the headers announce."""
        length = next(iter(self.all("content-length")), "")
        return int(length) if re.fullmatch("[0-9]{1,9}", length) else 0


def parse_reply(head: bytes) -> Reply | None:
    """Return what the head of a reply says; `None` when it is none."""
    text = head.decode("latin-1")
    status = _STATUS.match(text)
    if status is None:
        return None
    pairs = [line.partition(":")[::2] for line in text.split("\n")[1:]]
    headers = [(name.strip().lower(), value.strip()) for name, value in pairs]
    return Reply(int(status[1]), status[2].strip(), headers)


def describe(
    url: str, timeout_s: float, is_wanted: Callable[[], bool] = lambda: True
) -> tuple[Dialogue, Video]:
    """Ask the camera at `url` for its stream; return the dialogue to go on with, and the video.

    Blocks for at most `timeout_s` (> 0) in total, two seconds of them to connect. Gives up early
    when it `is_wanted` no more. `rtsps` is spoken without verifying the
    certificate: cameras sign their own.

    Raises:
        RtspError: there is no video to be had.
    """
    deadline = time.monotonic() + timeout_s
    try:
        target = _parse(url)
    except ValueError:  # its text may hold parts of the password
        hint = "Write rtsp://user:password@host:554/path, with / ? # @ in the password as %2F etc."
        raise RtspError("not_rtsp", "not a usable rtsp:// address", hint) from None
    sock = _connect(target, min(deadline, time.monotonic() + _CONNECT_S))
    dialogue = Dialogue(sock, target, deadline, is_wanted)
    try:
        return dialogue, dialogue.describe()
    except BaseException:
        dialogue.close()
        raise


def _printable(text: str) -> str:
    return "".join(char if " " <= char <= "~" else "?" for char in text)


def _parse(url: str) -> _Target:
    """Take a URL apart. Raises: ValueError when it names no RTSP server."""
    parts = urlsplit(url)
    port = _DEFAULT_PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
    rest = parts.path
    rest += (parts.query and "?" + parts.query) + (parts.fragment and "#" + parts.fragment)
    user = unquote_to_bytes(parts.username or "").decode("latin-1")
    password = unquote_to_bytes(parts.password or "").decode("latin-1")
    # An @ only after the host: a / ? or # in the password cut it, and "host" would be the user.
    cut = "@" in rest and "@" not in parts.netloc
    broken = cut or any(char < " " for char in user)  # a line break would forge headers
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or not port or broken:
        raise ValueError
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    uri = "".join(
        char if "!" <= char <= "~" and char not in '"\\' else quote(char)
        for char in f"{parts.scheme}://{host}:{port}{rest}"
    )
    basic = base64.b64encode(f"{user}:{password}".encode("latin-1")).decode()
    spellings = (password, parts.password or "", quote(password, "", "latin-1"), basic)
    hidden = tuple(filter(None, spellings)) if password else ()
    return _Target(parts.scheme == "rtsps", parts.hostname, port, uri, user, password, hidden)


def _remaining(deadline: float) -> float:
    """Return the seconds left. Raises: TimeoutError when there are none."""
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _resolve(target: _Target, deadline: float) -> list[tuple[Any, ...]]:
    """Look the host up, on a thread of its own because getaddrinfo(3) cannot be interrupted."""
    found: list[tuple[Any, ...]] = []
    errors: list[Exception] = []

    def look_up(flags: int = 0) -> None:
        try:
            found.extend(
                socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM, flags=flags)
            )
        except (OSError, ValueError) as error:  # ValueError: no host name at all, "a..b"
            errors.append(error)

    look_up(socket.AI_NUMERICHOST)  # an IP address needs neither DNS nor thread
    if not found:
        errors.clear()
        thread = threading.Thread(target=look_up, name="diagnosis-dns", daemon=True)
        thread.start()
        thread.join(max(0.0, deadline - time.monotonic()))
    if found:
        return found
    name = target.show(target.host, 60)
    if not errors or getattr(errors[0], "errno", None) == socket.EAI_AGAIN:
        hint = "Check the network's DNS server, or enter the camera's IP address instead."
        raise RtspError("unknown_host", f"cannot look up {name} (no answer from DNS)", hint)
    raise RtspError("unknown_host", f"unknown host {name}")


def _connect(target: _Target, deadline: float) -> socket.socket:
    """Connect to the first of the host's addresses that answers, each given a fair share."""
    addresses = _resolve(target, deadline)
    errors: list[OSError] = []
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        sock: socket.socket | None = None
        try:
            sock = socket.socket(family, kind, protocol)
            sock.settimeout(_remaining(deadline) / (len(addresses) - tried))
            sock.connect(address)
        except OSError as error:
            if sock is not None:
                sock.close()
            errors.append(error)
        else:
            return _secured(sock, target, deadline) if target.tls else sock
    # "Refused" tells most: the host is there.
    raise _connect_failure(target, min(errors, key=lambda e: not isinstance(e, ConnectionError)))


def _connect_failure(target: _Target, error: OSError) -> RtspError:
    if isinstance(error, ConnectionRefusedError):
        reason = f"nothing listens on {target.place} (connection refused)"
        return RtspError("refused", reason)
    if isinstance(error, TimeoutError):
        return RtspError("timeout", f"no answer from {target.place} (timeout)")
    words = {errno.EHOSTUNREACH: "no route to host", errno.ENETUNREACH: "network unreachable"}
    why = words.get(error.errno or 0) or (error.strerror or type(error).__name__).lower()
    return RtspError("unreachable", f"{target.place} cannot be reached ({why})")


def _secured(sock: socket.socket, target: _Target, deadline: float) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        sock.settimeout(_remaining(deadline))
        return context.wrap_socket(sock)
    except TimeoutError:
        raise RtspError("timeout", f"{target.place} does not answer in TLS (timeout)") from None
    except OSError:
        hint = "Try rtsp:// instead of rtsps://, or check the port."
        raise RtspError("not_rtsp", f"{target.place} does not speak TLS", hint) from None
    finally:
        sock.close()  # does nothing once the TLS socket has taken over


class Dialogue:
    """Ask and listen on one connection, within the deadline and `REPLY_MAX_BYTES` a reply.

    What comes beside replies, packets of a stream under way, stays in `buffer` once the stream
    plays; before that it is dropped.
    """

    def __init__(
        self,
        sock: socket.socket,
        target: _Target,
        deadline: float,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self.sock = sock
        self._is_wanted = is_wanted
        self.deadline = deadline
        """On the monotonic clock."""
        self.buffer = bytearray()
        self.uri = target.uri
        self.base_uri = target.uri
        """What relative addresses in the description start from."""
        self._target = target
        self._received = 0
        self._asked = 0
        self._challenges: Challenges = []
        self._logins = 0

    def close(self) -> None:
        """Hang up."""
        self.sock.close()

    def describe(self) -> Video:
        """Ask for the stream's description and return its first video. Raises `RtspError`."""
        reply = self.request("DESCRIBE", self.uri, {"Accept": "application/sdp"})
        found = [*reply.all("content-base"), *reply.all("content-location")]
        self.base_uri = next(filter(None, found), self.uri)
        video = first_video(reply.body)
        if video is None:
            raise RtspError("no_video", "the stream has no video")
        if video.codec not in SUPPORTED:
            shown = self._target.show(video.codec, 20)
            raise RtspError("unsupported_codec", f"unsupported video codec {shown}")
        return video

    def request(self, method: str, uri: str, headers: Mapping[str, str]) -> Reply:
        """Send a request, log in if that is wanted, and return the good reply.

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
            reply = self._ask(method, uri, headers)
        if 200 <= reply.status < 300:
            return reply
        again = parse_challenges(reply.all("www-authenticate"))
        if reply.status == 401 and any(p.get("stale", "").lower() == "true" for _, p in again):
            raise RtspError("server_error", "login expires before it can be used (401, stale)")
        raise _refusal(reply, target)

    def renew_login(self, reply: Reply) -> None:
        """Log in with what this reply asks for, from the next request on."""
        self._challenges = parse_challenges(reply.all("www-authenticate"))
        self._logins = 0

    def answer(self, number: bytes) -> None:
        """Tell the camera that its request of this number is fine."""
        self._send(b"RTSP/1.0 200 OK\r\nCSeq: " + number + b"\r\n\r\n")

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
        target = self._target
        login = (target.user, target.password)
        return authorization(self._challenges, *login, method, uri, self._logins)

    def _ask(self, method: str, uri: str, headers: Mapping[str, str]) -> Reply:
        self._received = len(self.buffer)
        try:
            self.send(method, uri, headers)
            return self._reply()
        except TimeoutError:
            slow = "answers too slowly" if self.buffer else "accepts connections but is silent"
            raise RtspError("timeout", f"{self._target.place} {slow} (timeout)") from None

    def _send(self, request: bytes) -> None:
        self.sock.settimeout(_remaining(self.deadline))
        try:
            self.sock.sendall(request)
        except TimeoutError:
            raise
        except OSError:
            pass  # the peer has hung up, but may have said why: read on

    def _reply(self) -> Reply:
        buffer = self.buffer
        self._skip_packets()
        while not self._has_head() and self._receive():
            self._skip_packets()
        end = _HEAD_END.search(buffer)
        head_bytes = end.end() if end else len(buffer)
        reply = parse_reply(bytes(buffer[:head_bytes]))
        if reply is None:
            raise self._foreign()
        while len(buffer) < head_bytes + reply.body_bytes and self._receive():
            pass
        body = buffer[head_bytes : head_bytes + reply.body_bytes].decode("latin-1")
        del buffer[: head_bytes + reply.body_bytes]
        return Reply(reply.status, reply.phrase, reply.headers, body)

    def _has_head(self) -> bool:
        """Tell whether the head of a reply is there, or it is certain that none will come."""
        buffer = self.buffer
        if buffer.startswith(b"$"):  # the beginning of a packet
            return False
        foreign = not _PROTOCOL.startswith(buffer[: len(_PROTOCOL)])
        return foreign or _HEAD_END.search(buffer) is not None

    def _skip_packets(self) -> None:
        """Drop packets of a stream that a camera sends before it has said that it plays.

        And line ends behind the last reply's body: some cameras count them wrongly.
        """
        while self.buffer.startswith((b"\r", b"\n")):
            del self.buffer[:1]
        while self.buffer[:1] == b"$" and len(self.buffer) >= _FRAME_HEAD_BYTES:
            size = _FRAME_HEAD_BYTES + int.from_bytes(self.buffer[2:4], "big")
            if len(self.buffer) < size:
                break
            del self.buffer[:size]
            self._received -= size

    def _receive(self) -> bool:
        """Take in what comes next; False at the end. Raises: TimeoutError, RtspError."""
        if self._received >= REPLY_MAX_BYTES:
            place = self._target.place
            raise RtspError("server_error", f"{place} sends an endless reply (over 64 kB)")
        try:
            chunk = self._chunk(min(4096, REPLY_MAX_BYTES - self._received))
        except TimeoutError:
            raise
        except OSError:  # reset by the peer
            return False
        self.buffer += chunk
        self._received += len(chunk)
        return bool(chunk)

    def _chunk(self, size_bytes: int) -> bytes:
        """Wait for bytes, in short turns, so that a wait nobody wants any more can end."""
        while True:
            left_s = _remaining(self.deadline)
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
            return RtspError("not_rtsp", f"{place} closes the connection at once", hint)
        if start.lstrip().lower().startswith((b"http/", b"<!doctype", b"<html")):
            return RtspError("not_rtsp", f"a web server answers on {place}, not RTSP")
        if re.match(rb"[\x15\x16]\x03[\x00-\x04]", start):
            hint = "Use rtsps:// instead of rtsp://, or check the port."
            return RtspError("not_rtsp", f"{place} speaks TLS, not plain RTSP", hint)
        said = self._target.show(start.split(b"\n")[0].decode("latin-1"))
        return RtspError("not_rtsp", f'{place} does not speak RTSP: it says "{said}"')


def _refusal(reply: Reply, target: _Target) -> RtspError:
    """Put a reply that is no success in words."""
    said = target.show(f"{reply.status} {reply.phrase}")
    if reply.status in _STATUS_WORDS:
        code, words = _STATUS_WORDS[reply.status]
        return RtspError(code, f"{words} ({reply.status})")
    if 300 <= reply.status < 400:
        return RtspError("wrong_path", f"redirects to another address ({said})")
    if 400 <= reply.status < 500:
        return RtspError("wrong_path", f"request refused ({said})")
    return RtspError("server_error", f"camera reports an error ({said})")
