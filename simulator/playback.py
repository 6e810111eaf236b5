"""A recorded camera played back: `python -m simulator.playback FILE` serves it on this computer.

The replies are those of the recorded camera, in their order, and come as late as they came. Its
packets follow at their distances. Each connection gets what the recorded one of the same number
got, later ones what the last got. Not played back: TLS, the ports a camera sends UDP from, and how
the bytes of one message or packet were cut.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from simulator.loop_thread import LoopThread
from simulator.recording import Connection, Item, Recording, RecordingError, Reply, read
from simulator.rtsp_camera import Request, read_request

_HOST: Final = "127.0.0.1"
_LARGEST_HEAD: Final = 16_384
_PORT_TRIES: Final = 50
_HARMLESS: Final = frozenset({"OPTIONS", "GET_PARAMETER", "SET_PARAMETER", "TEARDOWN"})
_PLACE: Final = re.compile(r"rtsps?://[^/\s;,\"]*", re.IGNORECASE)
_TRANSPORT: Final = re.compile(r"^(transport:[ \t]*)[^\r\n]*", re.I | re.M)
_NUMBER: Final = re.compile(r"^(cseq:[ \t]*)[^\r\n]*", re.I | re.M)
_LENGTH: Final = re.compile(r"^(content-length:[ \t]*)(\d{1,9})", re.I | re.M)
_HEAD_END: Final = re.compile(r"\r?\n\r?\n")


class RecordedCamera:
    """Play a recording to everybody who connects, from its beginning.

    At its end the connection is closed, or with `loop` the video goes on from its beginning, with
    numbers and stamps that go on too. That is smooth if the recording begins with a keyframe, as
    most cameras do. Methods are for any thread.
    """

    def __init__(self, recording: Recording, *, loop: bool = False) -> None:
        self.recording = recording
        self.loop = loop
        self.port = 0
        self.connections = 0
        """How many there were so far."""
        self._server: asyncio.Server | None = None
        self._thread = LoopThread("playback")

    @property
    def url(self) -> str:
        """Return the address; any login will do."""
        login = "any:any@" if self.recording.wants_login else ""
        parts = urlsplit(self.recording.uri)
        query = f"?{parts.query}" if parts.query else ""
        return f"rtsp://{login}{_HOST}:{self.port}{parts.path}{query}"

    def start(self, port: int = 0) -> None:
        """Listen on `port`, 0 for any.

        Raises:
            OSError: the port is taken.
        """
        self._thread.start()
        try:
            self._thread.call(self._listen(port))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Close every connection and end."""
        self._thread.stop(self._end)

    async def _listen(self, port: int) -> None:
        self._server = await asyncio.start_server(self._serve, _HOST, port, limit=_LARGEST_HEAD)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        known = self.recording.connections
        script = known[min(self.connections, len(known) - 1)]
        self.connections += 1
        viewer = _Viewer(writer, script, self)
        try:
            while (request := await read_request(reader)) is not None:
                if not await viewer.answer(request):
                    return
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass  # the client has gone, or does not speak RTSP
        finally:
            viewer.close()
            writer.close()


class _Viewer:
    """One connection with a client."""

    def __init__(
        self, writer: asyncio.StreamWriter, script: Connection, camera: RecordedCamera
    ) -> None:
        self._writer = writer
        self._script = script
        self._camera = camera
        self._used: dict[str, int] = {}
        self._first_channel = script.first_channel
        self._udp: tuple[socket.socket, ...] = ()
        self._udp_to: tuple[int, ...] = ()
        self._is_set_up = False
        self._playing: asyncio.Task[None] | None = None

    def close(self) -> None:
        """End what is being sent."""
        if self._playing is not None:
            self._playing.cancel()
        for sock in self._udp:
            sock.close()

    async def answer(self, request: Request) -> bool:
        """Answer as the recorded camera did; False when the connection ends with that."""
        reply = self._next_reply(request)
        if reply is None:
            if request.method in self._script.asked:  # and was never answered
                return request.method != "TEARDOWN" and not self._script.hung_up
            status = "200 OK" if request.method in _HARMLESS else "501 Not Implemented"
            number = request.headers.get("cseq", "0")
            self._writer.write(f"RTSP/1.0 {status}\r\nCSeq: {number}\r\n\r\n".encode())
            return request.method != "TEARDOWN"
        text = self._corrected(reply, request)
        plays = request.method == "PLAY" and reply.status < 300 and self._script.items
        if plays and self._playing is None:
            self._playing = asyncio.create_task(self._play(text))
            return True
        await asyncio.sleep(reply.delay_s)
        self._writer.write(text)
        await self._writer.drain()
        ends = self._script.hung_up and not self._script.items and self._is_last()
        return request.method != "TEARDOWN" and not ends

    def _next_reply(self, request: Request) -> Reply | None:
        """Return the next reply to this method, the last one again once there are no more."""
        replies = self._script.replies.get(request.method, [])
        if replies and replies[0].is_challenge and "authorization" not in request.headers:
            self._used.setdefault(request.method, 0)
            return replies[0]
        answers = [reply for reply in replies if not reply.is_challenge]
        if not answers:
            return replies[-1] if replies else None
        place = self._used.get(request.method, 0)
        self._used[request.method] = place + 1
        return answers[min(place, len(answers) - 1)]

    def _is_last(self) -> bool:
        """Tell whether everything that the camera said on this connection was said."""
        return all(
            method in self._used
            and self._used[method] >= sum(not reply.is_challenge for reply in replies)
            for method, replies in self._script.replies.items()
        )

    def _corrected(self, reply: Reply, request: Request) -> bytes:
        """Return a reply as this client needs it: its number, our address, its transport."""
        end = _HEAD_END.search(reply.text)
        cut = end.end() if end else len(reply.text)
        place = f"rtsp://{_HOST}:{self._camera.port}"
        body = _PLACE.sub(place, reply.text[cut:])
        grown = len(body) - (len(reply.text) - cut)
        head = _PLACE.sub(place, reply.text[:cut])
        head = _NUMBER.sub(lambda found: found[1] + request.headers.get("cseq", "0"), head)
        head = _LENGTH.sub(lambda found: f"{found[1]}{max(0, int(found[2]) + grown)}", head)
        if request.method == "SETUP" and reply.status < 300:
            transport = self._set_up(request.headers.get("transport", ""))
            if transport:
                head = _TRANSPORT.sub(lambda found: found[1] + transport, head)
        return (head + body).encode("latin-1")

    def _set_up(self, wanted: str) -> str:
        """Do as the client asks; return what to answer, empty for what the camera answered."""
        is_first, self._is_set_up = not self._is_set_up, True
        if channels := re.search(r"interleaved=(\d{1,3})-(\d{1,3})", wanted):
            if channels[1] == "0" and not self._camera.recording.is_udp:
                return ""  # as our own client asked when it recorded
            if is_first:
                self._first_channel = int(channels[1])
            return f"RTP/AVP/TCP;unicast;interleaved={channels[1]}-{channels[2]}"
        ports = re.search(r"client_port=(\d{1,5})-(\d{1,5})", wanted)
        if ports is None or not is_first:
            return ""
        self._udp = _port_pair()
        self._udp_to = (int(ports[1]), int(ports[2]))
        own = self._udp[0].getsockname()[1]
        return f"RTP/AVP;unicast;client_port={ports[1]}-{ports[2]};server_port={own}-{own + 1}"

    async def _play(self, reply: bytes) -> None:
        """Send what was recorded, and close the connection after it."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        items = self._script.items
        try:
            for item in repeated(items) if self._camera.loop else items:
                await asyncio.sleep(began_s + item.after_s - loop.time())
                if item.is_reply:
                    self._writer.write(reply)
                elif item.is_end:
                    return
                else:
                    self._send(item)
                await self._writer.drain()
        except OSError:
            pass  # the client has gone
        finally:
            self._writer.close()

    def _send(self, item: Item) -> None:
        if item.raw:
            self._writer.write(item.raw)
        elif not item.packet:
            pass
        elif not self._udp:
            channel = self._first_channel + item.track & 0xFF
            frame = b"$" + bytes([channel]) + len(item.packet).to_bytes(2, "big")
            self._writer.write(frame + item.packet)
        elif item.track in (0, 1):
            host = self._writer.get_extra_info("peername")[0]
            with suppress(BlockingIOError, ConnectionRefusedError):
                self._udp[item.track].sendto(item.packet, (host, self._udp_to[item.track]))


def repeated(items: Sequence[Item]) -> Iterator[Item]:
    """Yield what was recorded, then its video again and again, as if the camera went on.

    The last picture is left out if its end is missing.
    """
    received = [item for item in items if item.is_rtp]
    video = _whole(received)
    steps = len({_stamp(item) for item in video}) - 1
    if steps < 1:
        yield from items
        return
    first, last = video[0], video[-1]
    left_out = set(map(id, received[len(video) :]))
    yield from (item for item in items if id(item) not in left_out and not item.is_end)
    ticks = (_stamp(last) - _stamp(first)) & 0xFFFF_FFFF
    ticks += round(ticks / steps)
    first_of_last = next(item for item in video if _stamp(item) == _stamp(last))
    span_s = (first_of_last.after_s - first.after_s) * (steps + 1) / steps
    numbers = (_sequence(last) - _sequence(first) + 1) & 0xFFFF
    turn = 0
    while True:
        turn += 1
        for item in video:
            packet = bytearray(item.packet)
            packet[2:4] = (_sequence(item) + turn * numbers & 0xFFFF).to_bytes(2, "big")
            packet[4:8] = (_stamp(item) + turn * ticks & 0xFFFF_FFFF).to_bytes(4, "big")
            yield replace(item, after_s=item.after_s + turn * span_s, packet=bytes(packet))


def _whole(video: list[Item]) -> list[Item]:
    """Return packets up to the end of a picture, which most cameras mark."""
    marks = [number for number, item in enumerate(video) if item.packet[1] & 0x80]
    if marks:
        return video[: marks[-1] + 1]
    return [item for item in video if _stamp(item) != _stamp(video[-1])]


def _sequence(item: Item) -> int:
    return int.from_bytes(item.packet[2:4], "big")


def _stamp(item: Item) -> int:
    return int.from_bytes(item.packet[4:8], "big")


def _port_pair() -> tuple[socket.socket, socket.socket]:
    """Bind an even port and the next one."""
    for _ in range(_PORT_TRIES):
        first = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        second = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        first.setblocking(False)
        second.setblocking(False)
        try:
            first.bind((_HOST, 0))
            port = first.getsockname()[1]
            if port % 2 == 0:
                second.bind((_HOST, port + 1))
                return first, second
        except OSError:
            pass
        first.close()
        second.close()
    raise OSError("no free pair of UDP ports")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a recording until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Play a recorded camera back.")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--port", type=int, default=0, help="0 for any (default)")
    parser.add_argument("--loop", action="store_true", help="go on at the end of the recording")
    options = parser.parse_args(arguments)
    try:
        camera = RecordedCamera(read(options.file), loop=options.loop)
        camera.start(options.port)
    except (RecordingError, OSError, OverflowError) as error:
        print(error, file=sys.stderr)
        return 1
    try:
        if camera.recording.is_cut:
            print("The end of the recording is missing; what is there is played.")
        if camera.recording.end:
            print(f"The recording ended with: {camera.recording.end}")
        print(camera.url, flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        camera.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
