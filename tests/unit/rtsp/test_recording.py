"""Recordings: what is written down of the wire, and what is taken out."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
from itertools import pairwise
from typing import Any, cast
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtsp.errors import Diagnosis
from rtsp.recording import Recorder
from rtsp.redaction import Redaction

PASSWORD = "pä@s:s/CANARY"
USER = "gatekeeper"
HOST = "gatecam7.lan"
URL = f"rtsp://{USER}:{quote(PASSWORD, safe='')}@{HOST}:8554/live?user={USER}&password=QUERYCANARY"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
LOWER = re.sub("%..", lambda found: found[0].lower(), quote(PASSWORD, safe=""))
HIDDEN = [
    *(USER, "CANARY", HOST, "gatecam7", BASIC, BASIC.rstrip("="), "10.9.8.7"),
    *(
        quote(PASSWORD, safe=""),
        LOWER,
        "5d41402abc4b2a76b9719d911017c592",
    ),
]
PIECES = [
    *(
        "rtsp://",
        "[",
        "]",
        "@",
        ":",
        "/",
        "?",
        "#",
        ";",
        ",",
        "=",
        "\r\n",
        " ",
        "%25",
        "user=",
        "x",
    ),
    *("Authorization: ", "Content-Length: 9", "IN IP4 ", "source=", "::1", "1.2.3.4", "_", '"'),
]
PLAY = b"RTSP/1.0 200 OK\r\nCSeq: 3\r\n\r\n"


class Wire:
    """A socket that gives what a test says; an exception is raised."""

    type: int = socket.SOCK_STREAM

    def __init__(self, *chunks: bytes | Exception) -> None:
        self.chunks = list(chunks)
        self.sent: list[bytes] = []
        self.timeout_s: float | None = None

    def recv(self, size: int) -> bytes:
        chunk = self.chunks.pop(0)
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    def recvfrom(self, size: int, flags: int = 0) -> tuple[bytes, tuple[str, int]]:
        return self.recv(size), ("10.9.8.7", 5004)

    def sendall(self, data: bytes) -> None:
        self.sent.append(data)

    def sendto(self, data: bytes, address: tuple[str, int]) -> int:
        self.sent.append(data)
        return len(data)

    def settimeout(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s

    def getpeername(self) -> tuple[str, int]:
        return ("10.9.8.7", 554)

    def getsockname(self) -> tuple[str, int]:
        return ("10.9.8.1", 40000)

    def close(self) -> None:
        self.chunks.clear()


class Datagrams(Wire):
    type = socket.SOCK_DGRAM


class Recorded:
    """A recorder with a clock of its own, and what it has written."""

    def __init__(self, url: str = URL, most_bytes: int = 10_000_000) -> None:
        self.file = io.BytesIO()
        self.now_s = 100.0
        self.recorder = Recorder(self.file, url, "tcp", most_bytes, lambda: self.now_s)

    def tap(self, wire: Wire) -> socket.socket:
        return self.recorder.tap(cast("socket.socket", wire))

    def hear(self, *chunks: bytes) -> list[dict[str, Any]]:
        """Return the entries that chunks make, the first a millisecond after the beginning."""
        sock = self.tap(Wire(*chunks))
        for _ in chunks:
            self.now_s += 0.001
            sock.recv(4096)
        sock.close()
        return self.entries()[1:]

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.getvalue().splitlines()][1:]


def framed(packet: bytes, channel: int = 0) -> bytes:
    return b"$" + bytes([channel]) + len(packet).to_bytes(2, "big") + packet


def raw_of(entry: dict[str, Any]) -> bytes:
    """Return the bytes that an entry stands for."""
    if "said" in entry:
        return str(entry["said"]).encode("latin-1")
    if "packet" in entry:
        return framed(base64.b64decode(entry["packet"]), entry["channel"])
    return base64.b64decode(entry.get("bytes", ""))


STREAM = [
    *(PLAY, framed(b"\x80\x60" + bytes(20)), b"\r\n", framed(b"\x80\xc8report", 1)),
    b"RTSP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n$body",
    *(framed(b"\x80\x60" + bytes(300)), b"x$\0\0\x0c\x60$\1", framed(b"\x80\x60$$RTSP/1.0 ")),
    b"GET_PARAMETER * RTSP/1.0\r\n\r\n",
    b"HTTP/1.0 400 Bad\r\n\r\n<html>",
]


@given(st.data())
def test_every_byte_is_written_down_in_order_however_it_comes(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.sampled_from(STREAM) | st.binary(max_size=30), max_size=8))
    stream = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    places = [0, *cuts, len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(places) if b > a]
    entries = Recorded("rtsp://nobody/").hear(*chunks)
    assert b"".join(map(raw_of, entries)) == stream


def test_messages_packets_and_the_rest_are_told_apart_with_their_times() -> None:
    entries = Recorded().hear(PLAY + framed(b"\x80\x60one")[:5], framed(b"\x80\x60one")[5:], b"")
    assert [(e["at"], *(set(e) - {"at", "channel"})) for e in entries] == [
        *((0.001, "said"), (0.002, "packet"), (0.003, "hung_up"))
    ]
    assert raw_of(entries[1]) == framed(b"\x80\x60one")


def test_a_body_shorter_than_announced_does_not_swallow_the_next_reply() -> None:
    recorded = Recorded()
    sock = recorded.tap(Wire(b"RTSP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nv=0", PLAY))
    sock.recv(4096)
    sock.sendall(b"SETUP rtsp://x/ RTSP/1.0\r\n\r\n")
    sock.recv(4096)
    kinds = [next(k for k in e if k != "at") for e in recorded.entries()]
    assert kinds == ["connected", "said", "asked", "said"]
    assert "Content-Length: 9" in recorded.entries()[1]["said"]


def test_datagrams_and_what_is_sent() -> None:
    recorded = Recorded()
    recorded.tap(Wire())
    rtp, rtcp = recorded.tap(Datagrams(b"\x80\x60abc")), recorded.tap(Datagrams(b"\x80\xc8"))
    assert rtp.recvfrom(4096)[0] == b"\x80\x60abc"
    assert rtcp.recvfrom(4096)[1] == ("10.9.8.7", 5004)
    rtcp.sendto(b"\x80\xc9", ("10.9.8.7", 5005))
    first, second, third = recorded.entries()[1:]
    assert (first["track"], first["port"], first["stranger"]) == (0, 5004, False)
    assert base64.b64decode(first["datagram"]) == b"\x80\x60abc"
    assert second["track"] == third["track"] == 1
    assert base64.b64decode(third["sent"]) == b"\x80\xc9"
    assert recorded.recorder.packets == 2


def test_the_client_meets_the_socket_itself() -> None:
    recorded = Recorded()
    wire = Wire(TimeoutError(), BlockingIOError(), ConnectionResetError(104, "reset"))
    sock = recorded.tap(wire)
    sock.settimeout(3)
    assert wire.timeout_s == 3
    for error in (TimeoutError, BlockingIOError, ConnectionResetError):
        with pytest.raises(error):
            sock.recv(4096)
    sock.sendall(b"$\1\0\1x")
    assert wire.sent == [b"$\1\0\1x"]
    assert [e.get("hung_up") for e in recorded.entries()] == [None, "reset", None]
    assert not hasattr(sock, "pending")


def test_a_full_file_ends_the_recording_but_not_the_session() -> None:
    recorded = Recorded(most_bytes=1000)
    entries = recorded.hear(*[framed(b"\x80\x60" + bytes(90))] * 20)
    assert "largest size is reached" in recorded.recorder.problem
    assert 0 < len(entries) < 20
    recorded.recorder.end(None)
    assert "largest size" in recorded.entries()[-1]["end"]


def test_a_disk_that_fails_ends_the_recording_but_not_the_session() -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    recorder = Recorder(Full(), URL, "tcp")
    sock = recorder.tap(cast("socket.socket", Wire(PLAY)))
    assert sock.recv(4096) == PLAY
    recorder.end(None)
    assert recorder.problem == "cannot be written: No space left on device"


def check_clean(text: str) -> None:
    for word in HIDDEN:
        assert word.lower() not in text.lower(), word


def test_nothing_secret_is_left_wherever_a_camera_says_it() -> None:
    recorded = Recorded()
    answer = "5d41402abc4b2a76b9719d911017c592"
    sdp = (
        f"v=0\r\no={USER} 1 1 IN IP4 {HOST}\r\ns={PASSWORD}\r\nc=IN IP4 10.9.8.7\r\n"
        f"m=video 0 RTP/AVP 96\r\na=control:{URL}/track1\r\na=x:{answer}\r\n"
    )
    reply = (
        "RTSP/1.0 200 OK\r\nCSeq: 2\r\n"
        f"Content-Base: rtsp://{USER}:{PASSWORD}@{HOST}:8554/live/\r\n"
        f"Location: {URL}\r\nRTP-Info: url={URL}/track1;seq=1;rtptime=2\r\n"
        f"Transport: RTP/AVP;unicast;source=10.9.8.7;destination=10.9.8.1\r\n"
        f"X-Echo: {BASIC} {LOWER} {HOST.upper()}\r\n"
        f'Authentication-Info: rspauth="{answer}"\r\n'
        f"Content-Length: {len(sdp.encode())}\r\n\r\n"
    ).encode() + sdp.encode()
    sock = recorded.tap(
        Wire(reply, framed(f"\x80\xcarsdes {USER}@10.9.8.7 {PASSWORD}".encode()), BASIC.encode())
    )
    sock.sendall(
        f"DESCRIBE {URL} RTSP/1.0\r\nCSeq: 2\r\n"
        f'Authorization: Digest username="{USER}", response="{answer}"\r\n\r\n'.encode()
    )
    sock.sendall(f"PLAY {URL} RTSP/1.0\r\nAuthorization: Basic {BASIC}\r\n\r\n".encode())
    for _ in range(3):
        sock.recv(4096)
    sock.close()
    recorded.recorder.end(Diagnosis("x", f"nothing listens on {HOST}:8554", "h"))
    entries = recorded.entries()
    for entry in entries:
        check_clean(json.dumps(entry) + raw_of(entry).decode("latin-1"))
    said = next(entry["said"] for entry in entries if "said" in entry)
    head, _, body = said.partition("\r\n\r\n")
    assert re.findall(r"Content-Length: (\d+)", head) == [str(len(body))]
    assert "\r\nContent-Base: rtsp://camera.example:8554/live/\r\n" in head
    assert "source=192.0.2.1;destination=192.0.2.2" in head
    assert "url=rtsp://camera.example:8554/live?removed;seq=1;rtptime=2" in head
    assert "m=video 0 RTP/AVP 96" in body
    packet = next(raw_of(e) for e in entries if "packet" in e)
    assert int.from_bytes(packet[2:4], "big") == len(packet) - 4
    assert entries[-1]["end"] == "nothing listens on camera.example:8554"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("rtsp://1.2.3.4/a", "rtsp://192.0.2.1/a"),
        ("rtsp://[fe80::1%25eth0]:554/a", "rtsp://[2001:db8::1]:554/a"),
        ("rtsp://u:p@h/a#b@c", "rtsp://camera.example/a#removed"),
        ("c=IN IP4 0.0.0.0", "c=IN IP4 0.0.0.0"),
        ("c=IN IP4 239.1.2.3/64", "c=IN IP4 239.1.2.3/64"),
        ("c=IN IP6 fe80::7", "c=IN IP6 2001:db8::1"),
        ("/user=ab_password=cd_channel=1", "/user=removed_password=removed_channel=1"),
        ("control:x?usr=ab&pwd=c@d&channel=1", "control:x?usr=removed&pwd=removed&channel=1"),
        (
            'WWW-Authenticate: Digest realm="a", nonce="b"',
            'WWW-Authenticate: Digest realm="a", nonce="b"',
        ),
        ("Proxy-Authorization: Basic YTpi\r\n x\r\nA: b", "Proxy-Authorization: (removed)\r\nA: b"),
        ("rtsp:///live/", "rtsp:///live/"),
    ],
)
def test_what_is_taken_out_of_text(text: str, left: str) -> None:
    assert Redaction("rtsp://5.6.7.8/").text(text) == left


@given(st.lists(st.sampled_from(PIECES)).map("".join), st.binary())
def test_nothing_that_a_camera_says_breaks_it(text: str, data: bytes) -> None:
    redaction = Redaction(URL)
    assert redaction.message(text.encode("latin-1") + data) is not None
    assert "CANARY" not in redaction.text(f"{text} {URL} {text}")
    assert len(redaction.data(data)) == len(data)


def test_a_login_that_is_a_word_of_the_protocol_leaves_the_protocol_whole() -> None:
    redaction = Redaction("rtsp://video:96@cam/live")
    text = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:rtsp://video:96@cam/live"
    kept = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:rtsp://camera.example/live"
    assert redaction.text(text) == kept
    assert redaction.reason("unknown host cam") == "unknown host camera.example"
    assert redaction.data(b"a video in packets") == b"a video in packets"


def test_a_camera_that_miscounts_goes_on_to() -> None:
    message = b"RTSP/1.0 200 OK\r\nContent-length: 20 \r\n\r\nc=IN IP4 1.2.3.4\r\n"
    assert "Content-length: 22\r\n" in Redaction("rtsp://x/").message(message)
