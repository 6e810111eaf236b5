"""A pretend IP camera: one clip, played in real time over RTSP to any number of clients.

RTSP 1.0 with digest authentication; media goes inside the same TCP connection (RFC 2326, 10.12).
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import secrets
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlsplit

from simulator import rtp
from simulator.clip import Clip, Picture
from simulator.loop_thread import LoopThread

_HOST: Final = "127.0.0.1"
_REALM: Final = "simulated camera"
_METHODS: Final = "OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, TEARDOWN"
_LARGEST_HEAD: Final = 16_384
_MOST_UNSENT_BYTES: Final = 4_000_000
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Stream Not Found",
    454: "Session Not Found",
    455: "Method Not Valid In This State",
    461: "Unsupported Transport",
    501: "Not Implemented",
}
_INTERLEAVED: Final = re.compile(r"RTP/AVP/TCP\b.*interleaved=(\d{1,3})-(\d{1,3})")
_FIELD: Final = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')


@dataclass(frozen=True)
class Request:
    """One RTSP request: its header names in lower case."""

    method: str
    url: str
    headers: Mapping[str, str]


@dataclass(eq=False)
class _Viewer:
    """One connection."""

    writer: asyncio.StreamWriter
    nonce: str = field(default_factory=lambda: secrets.token_hex(16))
    session: str = ""
    channel: int = 0
    playing: bool = False
    has_keyframe: bool = False
    sequence: int = field(default_factory=lambda: secrets.randbelow(1 << 16))
    ssrc: int = field(default_factory=lambda: secrets.randbelow(1 << 32))


class SimulatedCamera:
    """Play `clip` as a camera does: all the time, whether somebody looks or not.

    Frame n of the endless run is shot at `moment_of(n)` and shows picture n modulo the clip's
    length. `path` is what its URL must name. Methods are for any thread.
    """

    def __init__(self, clip: Clip, *, user: str, password: str, path: str = "stream1") -> None:
        self.clip = clip
        self.port = 0
        self._user = user
        self._password = password
        self._path = path
        self._started_s = 0.0
        self._chance = random.Random(clip.name)  # noqa: S311 - of losses
        self._viewers: set[_Viewer] = set()
        self._server: asyncio.Server | None = None
        self._shooting: asyncio.Task[None] | None = None
        self._works = asyncio.Event()
        self._thread = LoopThread(f"camera-{clip.name}")
        self._timestamp = float(secrets.randbelow(1 << 32))
        self._clock_rate = 1.0
        self._lost_share = 0.0
        self._keyframes = True

    @property
    def url(self) -> str:
        """Return the address with the credentials that are valid now."""
        login = f"{quote(self._user, safe='')}:{quote(self._password, safe='')}"
        return f"rtsp://{login}@{_HOST}:{self.port}/{self._path}"

    @property
    def viewers(self) -> int:
        """Return how many clients play now."""
        return sum(viewer.playing for viewer in tuple(self._viewers))

    def frame_at(self, moment_s: float) -> int:
        """Return the number of the newest frame at a moment of the monotonic clock."""
        return int((moment_s - self._started_s) * self.clip.fps)

    def moment_of(self, frame: int) -> float:
        """Return when a frame of the endless run is shot, on the monotonic clock."""
        return self._started_s + frame / self.clip.fps

    def start(self, port: int = 0) -> None:
        """Begin to shoot, and listen on `port`, 0 for any.

        Raises:
            OSError: the port is taken.
        """
        self._started_s = time.monotonic()
        self._thread.start()
        try:
            self._thread.call(self._begin(port))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Close every connection and end."""
        self._thread.stop(self._disconnect)

    def freeze(self) -> None:
        """Hang: connections stay open, nothing is sent or answered any more."""
        self._thread.soon(self._works.clear)

    def thaw(self) -> None:
        """Go on, with what is to be seen now."""
        self._thread.soon(self._works.set)

    def unplug(self) -> None:
        """Go off: all connections break, new ones are refused."""
        self._thread.call(self._disconnect())

    def plug(self) -> None:
        """Come back on the same port.

        Raises:
            OSError: somebody else has taken it meanwhile.
        """
        self._thread.call(self._listen(self.port))

    def change_password(self, password: str) -> None:
        """Ask for another password from now on; who is connected has to log in again."""
        self._password = password
        self._thread.soon(self._drop_viewers)

    def run_clock_at(self, rate: float) -> None:
        """Let the time stamps run slow or fast: 0.96 is 4 % too slow, 0 stands still."""
        self._clock_rate = rate

    def lose(self, share: float) -> None:
        """Lose this share of all packets on their way, their numbers going on."""
        self._lost_share = share

    def send_keyframes(self, wanted: bool) -> None:
        """Send keyframes or leave them out; who is connected has to connect anew."""
        self._keyframes = wanted
        self._thread.soon(self._drop_viewers)

    async def _begin(self, port: int) -> None:
        self._works.set()
        await self._listen(port)
        self._shooting = asyncio.create_task(self._shoot())

    async def _listen(self, port: int) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, _HOST, port, limit=_LARGEST_HEAD)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _disconnect(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self._drop_viewers()

    def _drop_viewers(self) -> None:
        for viewer in tuple(self._viewers):
            viewer.writer.transport.abort()

    async def _shoot(self) -> None:
        """Take one picture after the other and send it to everybody who plays."""
        frame = 0
        while True:
            frame += 1
            self._timestamp += self._clock_rate * rtp.CLOCK_RATE / self.clip.fps
            await asyncio.sleep(self.moment_of(frame) - time.monotonic())
            picture = self.clip.pictures[frame % len(self.clip.pictures)]
            payloads = rtp.payloads(picture.nals)
            for viewer in tuple(self._viewers):
                if not self._works.is_set():
                    viewer.has_keyframe = False  # what was missed can't be decoded around
                elif viewer.playing and self._may_send(viewer, picture):
                    self._send(viewer, payloads)

    def _may_send(self, viewer: _Viewer, picture: Picture) -> bool:
        """Tell whether a viewer gets a picture: it begins with a keyframe, if there are any."""
        if not self._keyframes:
            return not picture.is_key
        viewer.has_keyframe |= picture.is_key
        return viewer.has_keyframe

    def _send(self, viewer: _Viewer, payloads: list[bytes]) -> None:
        transport = viewer.writer.transport
        if transport.get_write_buffer_size() > _MOST_UNSENT_BYTES:
            transport.abort()  # it does not read any more
            return
        message = bytearray()
        for payload in payloads:
            packet = rtp.packet(
                payload,
                last=payload is payloads[-1],
                sequence=viewer.sequence,
                timestamp=round(self._timestamp),
                ssrc=viewer.ssrc,
            )
            viewer.sequence += 1
            if self._chance.random() < self._lost_share:
                continue
            message += struct.pack(">cBH", b"$", viewer.channel, len(packet)) + packet
        viewer.writer.write(message)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        viewer = _Viewer(writer)
        self._viewers.add(viewer)
        try:
            while (request := await read_request(reader)) is not None:
                await self._works.wait()
                writer.write(self._answer(viewer, request))
                await writer.drain()
                if request.method == "TEARDOWN":
                    return
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass  # the client has gone, or does not speak RTSP
        finally:
            self._viewers.discard(viewer)
            writer.close()

    def _answer(self, viewer: _Viewer, request: Request) -> bytes:
        if request.method == "OPTIONS":
            return _reply(request, 200, {"Public": _METHODS})
        if not self._knows(request, viewer.nonce):
            challenge = f'Digest realm="{_REALM}", nonce="{viewer.nonce}"'
            return _reply(request, 401, {"WWW-Authenticate": challenge})
        if self._path not in urlsplit(request.url).path.strip("/").split("/"):
            return _reply(request, 404)
        answers = {
            "DESCRIBE": self._describe,
            "SETUP": self._set_up,
            "PLAY": self._play,
            "GET_PARAMETER": self._keep_alive,
            "TEARDOWN": self._keep_alive,
        }
        answer = answers.get(request.method)
        return answer(viewer, request) if answer else _reply(request, 501)

    def _knows(self, request: Request, nonce: str) -> bool:
        """Check a digest without qop, as RFC 2069 and most cameras have it."""
        scheme, _, rest = request.headers.get("authorization", "").partition(" ")
        given = {name: quoted or plain for name, quoted, plain in _FIELD.findall(rest)}
        secret = _md5(f"{self._user}:{_REALM}:{self._password}")
        expected = _md5(f"{secret}:{nonce}:{_md5(request.method + ':' + given.get('uri', ''))}")
        return (
            scheme.lower() == "digest"
            and given.get("username") == self._user
            and given.get("nonce") == nonce
            and secrets.compare_digest(given.get("response", "").encode(), expected.encode())
        )

    def _describe(self, _: _Viewer, request: Request) -> bytes:
        clip = self.clip
        lines = (
            "v=0",
            f"o=- 0 0 IN IP4 {_HOST}",
            f"s={clip.label}",
            "t=0 0",
            f"m=video 0 RTP/AVP {rtp.PAYLOAD_TYPE}",
            f"c=IN IP4 {_HOST}",
            f"a=rtpmap:{rtp.PAYLOAD_TYPE} H264/{rtp.CLOCK_RATE}",
            f"a=fmtp:{rtp.PAYLOAD_TYPE} packetization-mode=1;"
            f"profile-level-id={clip.profile_level_id};"
            f"sprop-parameter-sets={clip.sprop_parameter_sets}",
            f"a=framerate:{clip.fps}",
            "a=control:track1",
        )
        headers = {
            "Content-Type": "application/sdp",
            "Content-Base": f"rtsp://{_HOST}:{self.port}/{self._path}/",
        }
        return _reply(request, 200, headers, "".join(f"{line}\r\n" for line in lines))

    def _set_up(self, viewer: _Viewer, request: Request) -> bytes:
        transport = _INTERLEAVED.match(request.headers.get("transport", ""))
        if transport is None or max(int(transport[1]), int(transport[2])) > 255:
            return _reply(request, 461)
        viewer.session = secrets.token_hex(8)
        viewer.channel = int(transport[1])
        chosen = f"RTP/AVP/TCP;unicast;interleaved={transport[1]}-{transport[2]}"
        return _reply(
            request, 200, {"Transport": chosen, "Session": f"{viewer.session};timeout=60"}
        )

    def _play(self, viewer: _Viewer, request: Request) -> bytes:
        if not viewer.session:
            return _reply(request, 455)
        viewer.playing = True  # the reply is written before the next picture
        return _reply(request, 200, {"Session": viewer.session, "Range": "npt=now-"})

    def _keep_alive(self, viewer: _Viewer, request: Request) -> bytes:
        if not viewer.session or request.headers.get("session", viewer.session) != viewer.session:
            return _reply(request, 454)
        return _reply(request, 200, {"Session": viewer.session})


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """Read the next request, past interleaved RTCP; `None` at the end of the connection.

    Raises:
        ValueError: it is not RTSP.
    """
    while first := await reader.read(1):
        if first == b"$":
            _, size = struct.unpack(">BH", await reader.readexactly(3))
            await reader.readexactly(size)
        elif not first.isspace():
            head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            start, *lines = head.strip().split("\r\n")
            method, url, _ = start.split(" ")
            pairs = (line.partition(":") for line in lines)
            headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
            await reader.readexactly(int(headers.get("content-length", "0")))
            return Request(method, url, headers)
    return None


def _reply(
    request: Request, status: int, headers: Mapping[str, str] | None = None, body: str = ""
) -> bytes:
    lines = [f"RTSP/1.0 {status} {_REASONS[status]}"]
    lines.append(f"CSeq: {request.headers.get('cseq', '0')}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
