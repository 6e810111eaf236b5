"""Dialogues and streams of a camera over real sockets, changed at random places."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Final

from rtsp.errors import RtspError
from rtsp.session import RtspSession
from tests.rigs import packing
from tests.rigs.scripted_camera import Peer, serving

_PATIENCE_S: Final = 0.3
_READS: Final = 8
_PICTURES: Final = 10
_SDP: Final = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=cam\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
    "a=rtpmap:96 H264/90000\r\na=fmtp:96 sprop-parameter-sets=Z0IAHw==,aM4=\r\na=control:track1\r\n"
)
_HEADERS: Final = {
    "DESCRIBE": "Content-Type: application/sdp\r\n",
    "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1234;timeout=60\r\n",
    "PLAY": "Session: 1234\r\nRange: npt=0-\r\n",
}
_PIECES: Final = (
    *(b"\r\n", b"\r\n\r\n", b"\0", b"$\0\xff\xff", b"\xff" * 40, b"%s%n", b": " * 50),
    *(b"RTSP/1.0 401 Unauthorized\r\nWWW-Authenticate: Digest realm=\r\n\r\n", b"=", b'"'),
    *(
        b"RTSP/1.0 302 Moved\r\nLocation: rtsp://127.0.0.1:1/\r\n\r\n",
        b"-1",
        b"99999999999999999999",
    ),
    b"OPTIONS * RTSP/1.0\r\nCSeq: 9\r\n\r\n",
)


def fuzz_dialogue(seed: int) -> bool:
    """Hold one dialogue with a camera that errs, and tell whether it came to play.

    Raises:
        Exception: the client did not bear it; `RtspError` is its way of bearing it.
    """
    chance = random.Random(seed)
    rate = chance.choice((0.0, 0.3, 1.0))

    def play(peer: Peer) -> None:
        while request := peer.request():
            method = request.split(" ", 1)[0]
            body = _SDP if method == "DESCRIBE" else ""
            length = f"Content-Length: {len(body)}\r\n" if body else ""
            cseq = request.lower().partition("cseq:")[2].split("\r\n")[0].strip()
            reply = (
                f"RTSP/1.0 200 OK\r\nCSeq: {cseq}\r\n{_HEADERS.get(method, '')}{length}\r\n{body}"
            )
            peer.send(changed(reply.encode(), chance, rate))
            if method == "PLAY":
                break
        peer.send(changed(_stream(chance), chance, 0.7))
        peer.done.wait(_PATIENCE_S)

    with serving() as serve:
        server = serve(play)
        came_to_play = False
        with suppress(RtspError):
            session = RtspSession(f"rtsp://u:p@127.0.0.1:{server.port}/x", "tcp", _PATIENCE_S)
            came_to_play = True
            try:
                for _ in range(_READS):
                    session.read(0.05)
            finally:
                session.close()
    return came_to_play


def changed(message: bytes, chance: random.Random, rate: float) -> bytes:
    """Change some bytes of a message, more often the higher the rate."""
    found = bytearray(message)
    while chance.random() < rate:
        rate *= 0.7
        at = chance.randrange(len(found) + 1)
        end = min(len(found), at + chance.choice((1, 3, 30)))
        way = chance.randrange(4)
        if way == 0:
            found[at:end] = chance.randbytes(end - at)
        elif way == 1:
            del found[at:end]
        elif way == 2:
            found[at:at] = chance.choice(_PIECES)
        else:
            found[at:at] = found[at:end]
    return bytes(found)


def _stream(chance: random.Random) -> bytes:
    """Return some pictures' packets, interleaved."""
    found = b""
    for number in range(_PICTURES):
        unit = bytes([0x65 if number == 0 else 0x41, 0x88]) + chance.randbytes(3000)
        for packet in packing.packets(
            packing.payloads([unit], "h264"), start=number * 10, ticks=number * 3600
        ):
            found += b"$\0" + len(packet).to_bytes(2, "big") + packet
    return found
