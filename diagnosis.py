"""Say in words why an RTSP camera cannot be read.

OpenCV gives no reason for a failed open, so this asks the camera itself: one RTSP `DESCRIBE` over
a plain socket, repeated at most once with the credentials, since cameras lock accounts out.
Text is handled as Latin-1, so that the bytes of names and passwords reach the digest unchanged.
"""

from __future__ import annotations

import base64
import errno
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes, urlsplit

from rtsp_auth import authorization, parse_challenges

REPLY_MAX_BYTES: Final = 64 * 1024

_PROTOCOL: Final = b"RTSP/1.0 "
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_STATUS: Final = re.compile(r"RTSP/1\.0 +([0-9]{3})(?![0-9])([^\r\n]*)")
_RTPMAP: Final = re.compile(r"a=rtpmap:\s*(\d+)\s+([^/\s]+)", re.IGNORECASE)
_STATIC_CODECS: Final = {"26": "JPEG", "31": "H261", "32": "MPV", "33": "MP2T", "34": "H263"}
_CODECS: Final = ("H264", "H265", "JPEG")
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
    "server_error": "Restart the camera; if that doesn't help, close other viewers of its stream.",
}

_STATUS_WORDS: Final = {
    401: ("wrong_password", "wrong password"),
    403: ("wrong_password", "access denied"),
    404: ("wrong_path", "no such stream path"),
    410: ("wrong_path", "no such stream path"),
    453: ("server_error", "too many viewers"),
    454: ("wrong_path", "no such stream path"),
}


@dataclass(frozen=True)
class Diagnosis:
    """Tell what is wrong with a camera, why, and what to do about it."""

    code: str
    """One of the keys of `_HINTS`."""
    reason: str
    hint: str
    codec: str | None = None


class _Failed(Exception):
    """Carry the diagnosis out of an exchange that cannot go on."""

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
class _Reply:
    status: int
    phrase: str
    headers: list[tuple[str, str]]
    body: str

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


def diagnose(url: str, timeout_s: float = 4.0) -> Diagnosis:
    """Ask the camera at `url` for its stream and say what came of it.

    Blocks for at most `timeout_s` (> 0) in total. Nothing the network does raises. `rtsps` is
    spoken without verifying the certificate: cameras sign their own.
    """
    deadline = time.monotonic() + timeout_s
    try:
        target = _parse(url)
    except ValueError:  # its text may hold parts of the password
        hint = "Write rtsp://user:password@host:554/path, with / ? # @ in the password as %2F etc."
        return Diagnosis("not_rtsp", "not a usable rtsp:// address", hint)
    try:
        with _connect(target, deadline) as sock:
            return _ask(_Dialogue(sock, target, deadline), target)
    except _Failed as failed:
        return failed.diagnosis


def video_codec(sdp: str) -> str | None:
    """Name the codec of the first video section, the one FFmpeg reads; `None` without any."""
    names = dict(_STATIC_CODECS)
    payload: str | None = None
    for line in map(str.strip, sdp.splitlines()):
        if line.startswith("m="):
            if payload is not None:
                break
            words = line[2:].split()
            if words and words[0].lower() == "video":
                payload = words[3] if len(words) > 3 else "?"
        elif payload is not None and (rtpmap := _RTPMAP.match(line)):
            names[rtpmap[1]] = rtpmap[2]
    if payload is None:
        return None
    codec = names.get(payload, f"payload type {payload}")
    return codec.upper() if codec.upper() in _CODECS else codec


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
        raise _Failed("unknown_host", f"cannot look up {name} (no answer from DNS)", hint)
    raise _Failed("unknown_host", f"unknown host {name}")


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


def _connect_failure(target: _Target, error: OSError) -> _Failed:
    if isinstance(error, ConnectionRefusedError):
        reason = f"nothing listens on {target.place} (connection refused)"
        return _Failed("refused", reason)
    if isinstance(error, TimeoutError):
        return _Failed("timeout", f"no answer from {target.place} (timeout)")
    words = {errno.EHOSTUNREACH: "no route to host", errno.ENETUNREACH: "network unreachable"}
    why = words.get(error.errno or 0) or (error.strerror or type(error).__name__).lower()
    return _Failed("unreachable", f"{target.place} cannot be reached ({why})")


def _secured(sock: socket.socket, target: _Target, deadline: float) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        sock.settimeout(_remaining(deadline))
        return context.wrap_socket(sock)
    except TimeoutError:
        raise _Failed("timeout", f"{target.place} does not answer in TLS (timeout)") from None
    except OSError:
        hint = "Try rtsp:// instead of rtsps://, or check the port."
        raise _Failed("not_rtsp", f"{target.place} does not speak TLS", hint) from None
    finally:
        sock.close()  # does nothing once the TLS socket has taken over


class _Dialogue:
    """Ask and listen on one connection, within the deadline and `REPLY_MAX_BYTES`."""

    def __init__(self, sock: socket.socket, target: _Target, deadline: float) -> None:
        self._sock = sock
        self._target = target
        self._deadline = deadline
        self._buffer = bytearray()
        self._received = 0
        self._asked = 0

    def describe(self, authorization: str | None = None) -> _Reply:
        """Send one DESCRIBE and return the reply. Raises: _Failed."""
        self._asked += 1
        lines = [f"DESCRIBE {self._target.uri} RTSP/1.0", f"CSeq: {self._asked}"]
        lines += ["User-Agent: camera-capture", "Accept: application/sdp"]
        if authorization:
            lines.append(f"Authorization: {authorization}")
        try:
            self._send("\r\n".join([*lines, "", ""]).encode("latin-1"))
            return self._reply()
        except TimeoutError:
            slow = "answers too slowly" if self._buffer else "accepts connections but is silent"
            raise _Failed("timeout", f"{self._target.place} {slow} (timeout)") from None

    def _send(self, request: bytes) -> None:
        self._sock.settimeout(_remaining(self._deadline))
        try:
            self._sock.sendall(request)
        except TimeoutError:
            raise
        except OSError:
            pass  # the peer has hung up, but may have said why: read on

    def _reply(self) -> _Reply:
        buffer = self._buffer
        while not (end := _HEAD_END.search(buffer)) and self._receive():
            if not _PROTOCOL.startswith(buffer[: len(_PROTOCOL)]):
                break
        head_bytes = end.end() if end else len(buffer)
        head = buffer[:head_bytes].decode("latin-1")
        status = _STATUS.match(head)
        if status is None:
            raise self._foreign()
        pairs = [line.partition(":")[::2] for line in head.split("\n")[1:]]
        headers = [(name.strip().lower(), value.strip()) for name, value in pairs]
        reply = _Reply(int(status[1]), status[2].strip(), headers, "")
        length = next(iter(reply.all("content-length")), "")
        length_bytes = int(length) if re.fullmatch("[0-9]{1,9}", length) else 0
        while len(buffer) < head_bytes + length_bytes and self._receive():
            pass
        body = buffer[head_bytes : head_bytes + length_bytes].decode("latin-1")
        del buffer[: head_bytes + length_bytes]
        return replace(reply, body=body)

    def _receive(self) -> bool:
        """Take in what comes next; False at the end. Raises: TimeoutError, _Failed."""
        if self._received >= REPLY_MAX_BYTES:
            place = self._target.place
            raise _Failed("server_error", f"{place} sends an endless reply (over 64 kB)")
        self._sock.settimeout(_remaining(self._deadline))
        try:
            chunk = self._sock.recv(min(4096, REPLY_MAX_BYTES - self._received))
        except TimeoutError:
            raise
        except OSError:  # reset by the peer
            return False
        self._buffer += chunk
        self._received += len(chunk)
        return bool(chunk)

    def _foreign(self) -> _Failed:
        """Say what answered instead of an RTSP server."""
        start, place = bytes(self._buffer[:200]), self._target.place
        if not start and self._asked > 1:
            return _Failed("server_error", f"{place} hangs up when it is given the password")
        if not start:
            hint = "Check the port; a camera also hangs up when too many viewers are connected."
            return _Failed("not_rtsp", f"{place} closes the connection at once", hint)
        if start.lstrip().lower().startswith((b"http/", b"<!doctype", b"<html")):
            return _Failed("not_rtsp", f"a web server answers on {place}, not RTSP")
        if re.match(rb"[\x15\x16]\x03[\x00-\x04]", start):
            hint = "Use rtsps:// instead of rtsp://, or check the port."
            return _Failed("not_rtsp", f"{place} speaks TLS, not plain RTSP", hint)
        said = self._target.show(start.split(b"\n")[0].decode("latin-1"))
        return _Failed("not_rtsp", f'{place} does not speak RTSP: it says "{said}"')


def _ask(dialogue: _Dialogue, target: _Target) -> Diagnosis:
    """Lead the exchange: ask, give the credentials once if they are wanted, judge."""
    reply = dialogue.describe()
    if reply.status != 401:
        return _judge(reply, target)
    if not target.user and not target.password:
        raise _Failed("wrong_password", "password required (401)")
    challenges = parse_challenges(reply.all("www-authenticate"))
    answer = authorization(challenges, target.user, target.password, target.uri)
    if answer is None:
        hint = "Set the camera's RTSP authentication to digest (MD5)."
        raise _Failed("server_error", "password wanted in an unknown way (401)", hint)
    reply = dialogue.describe(answer)
    again = parse_challenges(reply.all("www-authenticate"))
    if reply.status == 401 and any(p.get("stale", "").lower() == "true" for _, p in again):
        raise _Failed("server_error", "login expires before it can be used (401, stale)")
    return _judge(reply, target)


def _judge(reply: _Reply, target: _Target) -> Diagnosis:
    """Turn the final reply into a diagnosis."""
    if 200 <= reply.status < 300:
        return _judge_video(video_codec(reply.body), target)
    said = target.show(f"{reply.status} {reply.phrase}")
    if reply.status in _STATUS_WORDS:
        code, words = _STATUS_WORDS[reply.status]
        reason = f"{words} ({reply.status})"
    elif 300 <= reply.status < 400:
        code, reason = "wrong_path", f"redirects to another address ({said})"
    elif 400 <= reply.status < 500:
        code, reason = "wrong_path", f"request refused ({said})"
    else:
        code, reason = "server_error", f"camera reports an error ({said})"
    return Diagnosis(code, reason, _HINTS[code])


def _judge_video(codec: str | None, target: _Target) -> Diagnosis:
    if codec is None:
        return Diagnosis("no_video", "the stream has no video", _HINTS["no_video"])
    if codec in _CODECS:
        return Diagnosis("ok", "answers properly", "", codec)
    shown = target.show(codec, 20)
    reason = f"unsupported video codec {shown}"
    return Diagnosis("unsupported_codec", reason, _HINTS["unsupported_codec"], shown)
