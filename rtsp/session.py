"""A camera's video received over RTSP: set up, kept alive, picture by picture.

Our own code, because the right moment depends on it: FFmpeg's reader delivers each picture one
period late and does not tell when packets were lost. Source: RFC 2326, RFC 3550.
"""

from __future__ import annotations

import re
import secrets
import select
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from rtsp.connection import Tap, untapped
from rtsp.dialogue import (
    ASKED,
    BEGINNINGS,
    ENDED,
    HEAD_END,
    Reply,
    body_bytes,
    describe,
    parse_reply,
)
from rtsp.errors import RtspError
from rtsp.rtp import CodedPicture, RtpReceiver
from rtsp.sdp import Video

_CODECS: Final = {"H264": "h264", "H265": "h265", "JPEG": "mjpeg"}
_CHUNK_BYTES: Final = 1 << 16
_UDP_BUFFER_BYTES: Final = 1 << 21
_UDP_REORDER: Final = 32
_REPORT_S: Final = 5.0
_SESSION_TIMEOUT_S: Final = 60.0
_ANSWER_S: Final = 2.0
_RANGE_REFUSED: Final = frozenset({400, 456, 457})
_NOT_OFFERED: Final = frozenset({405, 501, 551})
_STRAY_BYTES: Final = 1 << 16
_RTP_VERSION: Final = 2
_LARGEST_CHANNEL: Final = 15  # they are numbered from 0 on, two for each track
_MAY_BEGIN: Final = re.compile(b"|".join(map(re.escape, (b"$", *BEGINNINGS))))
_LARGEST_HEAD: Final = 1 << 14
_PORT_TRIES: Final = 50


class RtspSession:
    """A playing session, used by one thread. Call `close` in the end.

    `transport` is tcp or udp. Opening blocks for at most `timeout_s`, while `is_wanted()`.
    `tap` sees every socket that is opened.
    """

    def __init__(
        self,
        url: str,
        transport: str,
        timeout_s: float,
        is_wanted: Callable[[], bool] = lambda: True,
        tap: Tap = untapped,
    ) -> None:
        """Connect, log in and let the camera play.

        Raises:
            RtspError: the camera does not deliver its video.
        """
        self._dialogue, video = describe(url, timeout_s, is_wanted, tap)
        self.codec = _CODECS[video.codec]
        """h264, h265 or mjpeg."""
        self._tap = tap
        self._udp: tuple[socket.socket, ...] = ()
        self._udp_host = self._session = ""
        self._udp_reports_to: tuple[object, ...] = ()
        self._poll = select.poll()
        self._rtp_channel = self._stray_bytes = 0
        self._is_refused = False
        self._keep_alive_by = "OPTIONS"
        self._request_every_s = _SESSION_TIMEOUT_S / 2
        self._report = _empty_report()
        self._receiver = RtpReceiver(
            self.codec,
            payload_type=video.payload_type,
            clock_hz=video.clock_hz,
            parameter_sets=video.parameter_sets,
            reorder=_UDP_REORDER if transport == "udp" else 0,
            size=video.size,
            has_order_numbers=video.has_order_numbers,
        )
        try:
            self._play(video, transport)
        except BaseException:
            self.close()
            raise
        for sock in (self._dialogue.sock, *self._udp):
            self._poll.register(sock, select.POLLIN)
        self._has_leftover = bool(self._dialogue.buffer)  # it came together with the last reply
        now_s = time.monotonic()
        self._next_report_s, self._next_request_s = now_s + 1, now_s + self._request_every_s

    def read(self, timeout_s: float) -> list[CodedPicture]:
        """Return the pictures that came within `timeout_s`, as soon as there is one.

        Raises:
            RtspError: the camera has ended the session.
        """
        pictures: list[CodedPicture] = []
        until_s = time.monotonic() + timeout_s
        while not pictures and (left_s := until_s - time.monotonic()) > 0:
            try:
                self._keep_alive()
                if self._wait(left_s):
                    self._receive(pictures)
            except (OSError, EOFError) as error:
                raise RtspError("closed", "the camera closed the connection") from error
        return pictures

    def close(self) -> None:
        """End the session, without waiting for an answer."""
        if self._session:
            with suppress(OSError, RtspError):
                self._dialogue.deadline = time.monotonic() + 0.2
                self._dialogue.send("TEARDOWN", self._uri, self._headers())
        self._session = ""
        self._dialogue.close()
        for sock in self._udp:
            sock.close()

    # Setting up.

    def _play(self, video: Video, transport: str) -> None:
        try:
            self._uri = _resolve(self._dialogue.base_uri, video.session_control)
            self._set_up(_resolve(self._uri, video.control), transport)
            self._ask_to_play()
        except TimeoutError:
            raise RtspError("timeout", "the camera answers too slowly (timeout)") from None
        except (OSError, ValueError):  # it hangs up, or gives unusable URLs
            raise RtspError("server_error", "the camera breaks the dialogue off") from None

    def _ask_to_play(self) -> None:
        """Ask for all from now on; some cameras want to hear that, others refuse it."""
        try:
            self._dialogue.request("PLAY", self._uri, self._headers({"Range": "npt=0.000-"}))
        except RtspError as error:
            if error.status not in _RANGE_REFUSED:
                raise
            self._dialogue.request("PLAY", self._uri, self._headers())

    def _headers(self, more: dict[str, str] | None = None) -> dict[str, str]:
        return {**({"Session": self._session} if self._session else {}), **(more or {})}

    def _set_up(self, uri: str, transport: str) -> None:
        wanted = "RTP/AVP/TCP;unicast;interleaved=0-1"
        if transport == "udp":
            self._udp = tuple(map(self._tap, _port_pair(self._dialogue.sock)))
            first = self._udp[0].getsockname()[1]
            wanted = f"RTP/AVP;unicast;client_port={first}-{first + 1}"
        try:
            reply = self._dialogue.request("SETUP", uri, {"Transport": wanted})
        except RtspError as error:
            if error.status != 400:
                raise
            # It has described its stream: the path is right.
            raise RtspError("unsupported_transport", error.diagnosis.reason) from None
        identifier, _, parameters = next(iter(reply.all("session")), "").partition(";")
        self._session = identifier.strip()
        if timeout := re.search(r"timeout\s*=\s*(\d{1,5})", parameters, re.IGNORECASE):
            self._request_every_s = max(1.0, min(int(timeout[1]), _SESSION_TIMEOUT_S) / 2)
        granted = next(iter(reply.all("transport")), "")
        if channel := re.search(r"interleaved\s*=\s*(\d{1,3})", granted, re.IGNORECASE):
            self._rtp_channel = int(channel[1])
        if self._udp:
            self._open_firewalls(granted)

    def _open_firewalls(self, granted: str) -> None:
        """Send a packet from each port to the camera's, so that firewalls let its packets in."""
        ports = re.search(r"server_port\s*=\s*(\d{1,5})(?:-(\d{1,5}))?", granted, re.IGNORECASE)
        peer = self._dialogue.sock.getpeername()
        self._udp_host = peer[0]
        for number, sock in enumerate(self._udp):
            port = int((ports[number + 1] if ports else None) or 0)
            if 0 < port < 1 << 16:
                self._udp_reports_to = (peer[0], port, *peer[2:])
                with suppress(OSError):
                    report = self._report if number else b"\x80\0\0\0" + bytes(8)
                    sock.sendto(report, self._udp_reports_to)

    # Playing.

    def _wait(self, timeout_s: float) -> bool:
        sock = self._dialogue.sock
        if self._has_leftover or getattr(sock, "pending", int)():  # decrypted, but not read
            return True
        next_s = min(self._next_report_s, self._next_request_s) - time.monotonic()
        return bool(self._poll.poll(max(0.0, min(timeout_s, next_s)) * 1000))

    def _receive(self, pictures: list[CodedPicture]) -> None:
        for sock in self._udp:
            while True:
                try:
                    packet, sender = sock.recvfrom(_CHUNK_BYTES, socket.MSG_DONTWAIT)
                except (BlockingIOError, ConnectionRefusedError):
                    break
                # Of any port: some cameras send from another one than they said.
                if sock is self._udp[0] and sender[0] == self._udp_host:
                    self._receiver.feed(packet, time.monotonic(), pictures)
        self._receive_tcp(pictures)

    def _receive_tcp(self, pictures: list[CodedPicture]) -> None:
        sock, buffer = self._dialogue.sock, self._dialogue.buffer
        sock.settimeout(0 if self._udp or self._has_leftover else _ANSWER_S)
        self._has_leftover = False
        try:
            chunk = sock.recv(_CHUNK_BYTES)
            if not chunk:
                raise EOFError
            buffer += chunk
        except (BlockingIOError, ssl.SSLWantReadError, TimeoutError):
            pass
        arrival_s = time.monotonic()
        at = 0
        while size := self._size_at(at):
            if buffer[at] == 0x24 and buffer[at + 1] == self._rtp_channel:
                self._receiver.feed(bytes(buffer[at + 4 : at + size]), arrival_s, pictures)
            at += size
        del buffer[:at]

    def _size_at(self, at: int) -> int:
        """Return the size of the packet or message at `at` in the buffer; 0 while incomplete."""
        buffer = self._dialogue.buffer
        left = len(buffer) - at
        if left < 5:
            return 0
        if buffer[at] == 0x24 and self._may_be_packet(at):
            size = 4 + (buffer[at + 2] << 8 | buffer[at + 3])
            self._stray_bytes = 0
            return size if size <= left else 0
        if buffer.startswith((b"RTSP", *ASKED, *ENDED), at):
            end = HEAD_END.search(buffer, at, at + _LARGEST_HEAD)
            if end is None:
                return 0 if left < _LARGEST_HEAD else self._stray(at, left)
            head = bytes(buffer[at : end.end()])
            size = len(head) + body_bytes(head)
            if size > left:
                return 0
            self._heed(head)
            return size
        return self._stray(at, left)

    def _heed(self, head: bytes) -> None:
        """Act on a reply to a keep-alive, or on a request of the camera's."""
        reply = parse_reply(head)
        if head.startswith(ENDED) or (reply is not None and reply.status == 454):
            raise RtspError("closed", "the camera has ended the session (454)")
        if reply is not None:
            if reply.status == 401:
                self._dialogue.renew_login(reply)
                if not self._is_refused:  # ask again at once: the next turn would be too late
                    self._next_request_s = 0.0
            self._is_refused = reply.status == 401
            self._choose_keep_alive(reply)
        elif head.startswith(ASKED):
            self._dialogue.deadline = time.monotonic() + _ANSWER_S
            self._dialogue.answer(head)

    def _choose_keep_alive(self, reply: Reply) -> None:
        """Keep the session alive by what the camera offers, or the other when it refuses that."""
        if any("GET_PARAMETER" in public.upper() for public in reply.all("public")):
            if self._keep_alive_by == "OPTIONS":  # it may not count as one: send the other at once
                self._next_request_s = 0.0
            self._keep_alive_by = "GET_PARAMETER"
        elif reply.status in _NOT_OFFERED:
            others = {"OPTIONS": "GET_PARAMETER", "GET_PARAMETER": "OPTIONS"}
            self._keep_alive_by = others[self._keep_alive_by]

    def _may_be_packet(self, at: int) -> bool:
        """Tell whether a packet seems to begin here: an empty one, or one of RTP or RTCP."""
        _, channel, high, low, first = self._dialogue.buffer[at : at + 5]
        is_ours = channel - self._rtp_channel in (0, 1)
        is_rtp = first >> 6 == _RTP_VERSION or not high + low
        return is_rtp and (is_ours or channel <= _LARGEST_CHANNEL)

    def _stray(self, at: int, left: int) -> int:
        """Return how many bytes to skip up to where a packet or message may begin again."""
        following = _MAY_BEGIN.search(self._dialogue.buffer, at + 1)
        size = left if following is None else following.start() - at
        self._stray_bytes += size
        if self._stray_bytes > _STRAY_BYTES:
            raise RtspError("server_error", "the camera sends garbage in the middle of its stream")
        return size

    def _keep_alive(self) -> None:
        """Send an RTCP receiver report, and a request before the session times out."""
        now_s = time.monotonic()
        if now_s >= self._next_report_s:
            self._next_report_s = now_s + _REPORT_S
            if self._udp:
                with suppress(OSError):
                    if self._udp_reports_to:
                        self._udp[1].sendto(self._report, self._udp_reports_to)
            else:
                head = bytes([0x24, self._rtp_channel + 1]) + len(self._report).to_bytes(2, "big")
                self._dialogue.sock.settimeout(_ANSWER_S)
                self._dialogue.sock.sendall(head + self._report)
        if now_s >= self._next_request_s:
            self._next_request_s = now_s + self._request_every_s
            self._dialogue.deadline = now_s + _ANSWER_S
            self._dialogue.send(self._keep_alive_by, self._uri, self._headers())


def _resolve(base: str, control: str) -> str:
    """Resolve a description's `control` to a URL."""
    if not control or control == "*":
        return base
    if urlsplit(control).scheme in ("rtsp", "rtsps"):
        return control
    return base + ("" if base.endswith("/") else "/") + control.removeprefix("/")


def _port_pair(tcp: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Bind an even port for RTP and the next one for RTCP, on the local address of `tcp`."""
    host = tcp.getsockname()[0]
    for _ in range(_PORT_TRIES):
        first = socket.socket(tcp.family, socket.SOCK_DGRAM)
        second = socket.socket(tcp.family, socket.SOCK_DGRAM)
        try:
            first.bind((host, 0))
            port = first.getsockname()[1]
            if port % 2 == 0:
                second.bind((host, port + 1))
                first.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UDP_BUFFER_BYTES)
                return first, second
        except OSError:
            pass
        first.close()
        second.close()
    raise RtspError("unsupported_transport", "no free pair of UDP ports on this computer")


def _empty_report() -> bytes:
    """Return an RTCP receiver report without figures, and the SDES CNAME it requires."""
    source = secrets.token_bytes(4)
    name = b"\1\6camera" + bytes(4)  # an item, then zeros up to a full word
    return b"\x80\xc9\0\1" + source + b"\x81\xca\0\4" + source + name
