"""A session with cameras of all manners, played by scripts on loopback."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import config
from camera.stream import CameraStream
from rtsp.errors import RtspError
from rtsp.rtp import CodedPicture
from rtsp.session import RtspSession
from simulator import clip, rtp
from tests.rigs.scripted_camera import WAIT_S, Peer, Serve, Server, serving

CLIP = clip.load(Path(__file__).parents[2] / "demo" / "clips" / "entry.h264")
SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=cam\r\nt=0 0\r\n{session}"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n{control}"
)
Answer = Callable[[str, str], tuple[list[str], str]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with serving() as start:
        yield start


def packets(count: int, start: int = 0) -> list[bytes]:
    """Return RTP packets of the clip's first pictures."""
    found: list[bytes] = []
    for number, picture in enumerate(CLIP.pictures[:count]):
        parts = rtp.payloads(picture.nals)
        for part in parts:
            found.append(
                rtp.packet(
                    part,
                    last=part is parts[-1],
                    sequence=start + len(found),
                    timestamp=number * 3600,
                    ssrc=7,
                )
            )
    return found


def framed(packet: bytes, channel: int = 0) -> bytes:
    return b"$" + bytes([channel]) + len(packet).to_bytes(2, "big") + packet


class Camera:
    """A script that sets up as told, then sends what `play` yields and reads what comes."""

    def __init__(
        self,
        *,
        control: str = "a=control:track1\r\n",
        session: str = "",
        base: str = "Content-Base: {url}/",
        setup: str = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1",
        session_header: str = "Session: abc;timeout=60",
        refuse: dict[str, str] | None = None,
        play: Callable[[Peer], None] = lambda peer: peer.send(b"".join(map(framed, packets(5)))),
        linger: bool = True,
    ) -> None:
        self.sdp = SDP.format(control=control, session=session)
        self.base, self.setup, self.session_header = base, setup, session_header
        self.refuse = refuse or {}
        self.play = play
        self.linger = linger
        self.heard: list[bytes] = []

    def __call__(self, peer: Peer) -> None:
        while request := peer.request():
            method, url, _ = request.split(" ", 2)
            if method in self.refuse:
                peer.reply(self.refuse[method])
                return
            if method == "DESCRIBE":
                peer.reply("200 OK", self.base.format(url=url), body=self.sdp)
            elif method == "SETUP":
                peer.reply("200 OK", self.setup, self.session_header)
            else:
                peer.reply("200 OK", self.session_header)
            if method == "PLAY":
                break
        self.play(peer)
        while self.linger and (chunk := peer.sock.recv(4096)):
            self.heard.append(chunk)


def opened(server: Server, transport: str = "tcp", path: str = "/live") -> RtspSession:
    return RtspSession(f"rtsp://127.0.0.1:{server.port}{path}", transport, WAIT_S)


def pictures_of(session: RtspSession, count: int) -> list[CodedPicture]:
    found: list[CodedPicture] = []
    until_s = time.monotonic() + WAIT_S
    while len(found) < count and time.monotonic() < until_s:
        found += session.read(0.2)
    return found


def test_pictures_come_and_the_session_is_ended(serve: Serve) -> None:
    camera = Camera()
    server = serve(camera)
    session = opened(server)
    found = pictures_of(session, 5)
    assert [p.key for p in found] == [True, False, False, False, False]
    assert not any(p.torn for p in found)
    assert session.codec == "h264"
    session.close()
    assert [r.split(" ")[0] for r in server.requests] == ["DESCRIBE", "SETUP", "PLAY"]
    assert "Session: abc\r\n" in server.requests[2]
    wait_until(lambda: b"TEARDOWN" in b"".join(camera.heard))


def wait_until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until_s
        threading.Event().wait(0.02)


@pytest.mark.parametrize(
    ("control", "session", "base", "path", "asked"),
    [
        ("a=control:track1\r\n", "", "Content-Base: {url}/", "/live", "{url}/live/track1"),
        ("a=control:track1\r\n", "a=control:*\r\n", "X: y", "/live", "{url}/live/track1"),
        ("a=control:track1\r\n", "", "Content-Base: {url}", "/a?b=1", "{url}/a?b=1/track1"),
        ("a=control:*\r\n", "", "X: y", "/live", "{url}/live"),
        ("", "", "X: y", "/live", "{url}/live"),
        ("a=control:rtsp://other/x\r\n", "", "X: y", "/live", "rtsp://other/x"),
        ("a=control:t\r\n", "a=control:rtsp://other/y/\r\n", "X: y", "/", "rtsp://other/y/t"),
        ("a=control:t\r\n", "", "Content-Base: 127.0.0.1/live/", "/live", "{url}/live/t"),
        ("a=control:t\r\n", "", "Content-Base: rtsp:///", "/live", "{url}/live/t"),
        ("a=control:t\r\n", "", "Content-Base: rtsp://[::1/", "/live", "{url}/live/t"),
    ],
)
def test_the_address_of_the_track(
    serve: Serve, control: str, session: str, base: str, path: str, asked: str
) -> None:
    server = serve(Camera(control=control, session=session, base=base))
    opened(server, path=path).close()
    url = f"rtsp://127.0.0.1:{server.port}"
    assert server.requests[1].split(" ")[:2] == ["SETUP", asked.format(url=url)]


def test_other_channels_are_used_and_other_data_is_passed_over(serve: Serve) -> None:
    def play(peer: Peer) -> None:
        for one in packets(5):
            peer.send(framed(b"sender report", 7) + framed(b"sound", 2) + framed(one, 6))
            peer.reply("200 OK")  # to a sign of life

    setup = "Transport: RTP/AVP/TCP;unicast;interleaved=6-7;ssrc=1"
    session = opened(serve(Camera(setup=setup, play=play)))
    assert len(pictures_of(session, 5)) == 5
    session.close()


@pytest.mark.parametrize("size", [1, 3, 700])
def test_any_cutting_of_the_bytes(serve: Serve, size: int) -> None:
    stream = b"".join(map(framed, packets(2)))

    def play(peer: Peer) -> None:
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(stream), size):
            peer.send(stream[at : at + size])

    session = opened(serve(Camera(play=play)))
    assert len(pictures_of(session, 2)) == 2
    session.close()


def test_packets_before_and_with_the_answer_to_play(serve: Serve) -> None:
    class Hasty(Camera):
        def __call__(self, peer: Peer) -> None:
            while "PLAY" not in (request := peer.request()):
                if "DESCRIBE" in request:
                    peer.reply("200 OK", body=self.sdp)
                else:
                    peer.reply("200 OK", self.setup, self.session_header)
            head = b"RTSP/1.0 200 OK\r\nCSeq: 3\r\n\r\n"
            stream = b"".join(map(framed, packets(3)))
            peer.send(framed(b"\x80\xe0early", 0) + head + stream[: len(stream) // 2])
            peer.send(stream[len(stream) // 2 :])
            peer.sock.recv(4096)

    session = opened(serve(Hasty()))
    assert len(pictures_of(session, 3)) == 3
    session.close()


@pytest.mark.parametrize(
    "stray",
    [
        *(b"\r\n", b"ab$\x07cd$$", b"$\x07\xff\xff\0\0", b"$", b"x$\0\0\x0c\x60$\1"),
        b"$\0\xff\xff\0",
    ],
)
def test_stray_bytes_are_skipped_and_a_lot_of_them_ends_the_session(
    serve: Serve, stray: bytes
) -> None:
    """Also those among which a packet seems to begin."""

    def play(peer: Peer) -> None:
        for one in packets(5):
            peer.send(stray + framed(one))
        peer.send(b"\xff" * 70_000)

    session = opened(serve(Camera(play=play)))
    found = pictures_of(session, 5)
    assert [p.torn for p in found] == [False] * 5
    with pytest.raises(RtspError, match="garbage"):
        pictures_of(session, 1)
    session.close()


def test_the_end_of_the_connection_is_told(serve: Serve) -> None:
    session = opened(serve(Camera(linger=False)))
    with pytest.raises(RtspError, match="closed the connection"):
        pictures_of(session, 100)
    session.close()


def test_the_end_of_the_session_is_told(serve: Serve) -> None:
    session = opened(serve(Camera(play=lambda peer: peer.reply("454 Session Not Found"))))
    with pytest.raises(RtspError, match="454"):
        pictures_of(session, 1)
    session.close()


def test_signs_of_life_come_in_time(serve: Serve) -> None:
    camera = Camera(session_header="Session: abc ; timeout = 2")
    session = opened(serve(camera))
    signs = re.compile(rb"OPTIONS rtsp://\S+ RTSP/1.0\r\n")
    began_s = time.monotonic()
    while len(signs.findall(b"".join(camera.heard))) < 2:
        assert time.monotonic() < began_s + WAIT_S
        session.read(0.1)
    took_s = time.monotonic() - began_s
    session.close()
    heard = b"".join(camera.heard)
    assert took_s > 1.5  # twice in the 2 s of a session, not all the time
    assert heard.count(b"Session: abc\r\n") >= 2
    assert b"$\x01\x00\x1c\x80\xc9\x00\x01" in heard


class KeptAlive(Camera):
    """Answers keep-alives as told, by their method."""

    def __init__(self, answers: dict[str, str]) -> None:
        super().__init__(session_header="Session: abc;timeout=2", linger=False)
        self.answers = answers
        self.kept_by: list[str] = []

    def __call__(self, peer: Peer) -> None:
        super().__call__(peer)
        text = b""
        while chunk := peer.sock.recv(4096):
            text += chunk
            while found := re.search(rb"([A-Z_]+) rtsp://.*?\r\n\r\n", text, re.DOTALL):
                text = text[found.end() :]
                self.kept_by.append(found[1].decode())
                self.answer(peer)

    def answer(self, peer: Peer) -> None:
        answer = self.answers.get(self.kept_by[-1], "200 OK\r\nCSeq: 9")
        peer.send(f"RTSP/1.0 {answer}\r\n\r\n".encode())


@pytest.mark.parametrize(
    ("answers", "kept_by"),
    [
        ({}, ["OPTIONS", "OPTIONS", "OPTIONS"]),
        (
            {"OPTIONS": "200 OK\r\nCSeq: 9\r\nPublic: DESCRIBE, GET_PARAMETER"},
            ["OPTIONS", "GET_PARAMETER", "GET_PARAMETER"],
        ),
        ({"OPTIONS": "501 No\r\nCSeq: 9"}, ["OPTIONS", "GET_PARAMETER", "GET_PARAMETER"]),
        (
            {
                "OPTIONS": "200 OK\r\nCSeq: 9\r\nPublic: get_parameter",
                "GET_PARAMETER": "405 No\r\nCSeq: 9",
            },
            ["OPTIONS", "GET_PARAMETER", "OPTIONS"],
        ),
    ],
)
def test_a_session_is_kept_by_what_the_camera_offers(
    serve: Serve, answers: dict[str, str], kept_by: list[str]
) -> None:
    camera = KeptAlive(answers)
    session = opened(serve(camera))
    until_s = time.monotonic() + WAIT_S
    while len(camera.kept_by) < len(kept_by):
        assert time.monotonic() < until_s
        session.read(0.1)
    session.close()
    assert camera.kept_by[: len(kept_by)] == kept_by


@pytest.mark.parametrize(
    ("before", "end"), [("", "\n"), ("\r\n", "\r\n"), ("xy", "\n"), ("\0", "\r\n")]
)
def test_replies_in_the_middle_of_a_stream_are_heard(serve: Serve, before: str, end: str) -> None:
    """With line feeds alone, and behind bytes that belong to nothing."""
    public = f"{before}RTSP/1.0 200 OK{end}CSeq: 9{end}Public: GET_PARAMETER{end}{end}"

    class Stray(KeptAlive):
        def answer(self, peer: Peer) -> None:
            peer.send(public.encode())

    camera = Stray({})
    session = opened(serve(camera))
    until_s = time.monotonic() + WAIT_S
    while "GET_PARAMETER" not in camera.kept_by:
        assert time.monotonic() < until_s
        session.read(0.1)
    session.close()


def test_a_camera_that_takes_no_range_plays_without(serve: Serve) -> None:
    class Picky(Camera):
        def __call__(self, peer: Peer) -> None:
            for answer in (("200 OK", SDP.format(session="", control="")), ("200 OK", "")):
                peer.request()
                peer.reply(answer[0], "Session: abc", body=answer[1])
            while "Range" in peer.request():
                peer.reply("457 Invalid Range")
            peer.reply("200 OK")
            self.play(peer)

    server = serve(Picky())
    session = opened(server)
    assert len(pictures_of(session, 5)) == 5
    session.close()
    assert [r.split(" ")[0] for r in server.requests] == ["DESCRIBE", "SETUP", "PLAY", "PLAY"]


@pytest.mark.parametrize(
    ("refuse", "code", "words"),
    [
        ({"SETUP": "461 Unsupported Transport"}, "unsupported_transport", "refuses this transport"),
        ({"SETUP": "400 Bad Request"}, "unsupported_transport", "400 Bad Request"),
        ({"SETUP": "453 Not Enough Bandwidth"}, "server_error", "too many viewers"),
        ({"PLAY": "500 Oops"}, "server_error", "500 Oops"),
        ({"PLAY": "401 Unauthorized"}, "wrong_password", "password"),
    ],
)
def test_refusals_in_words(serve: Serve, refuse: dict[str, str], code: str, words: str) -> None:
    with pytest.raises(RtspError, match=words) as caught:
        opened(serve(Camera(refuse=refuse)))
    assert caught.value.diagnosis.code == code
    assert caught.value.diagnosis.hint


@pytest.mark.parametrize("control", ["rtsp://[::1/x", "rtsp://a]b/"])
def test_an_address_that_is_none(serve: Serve, control: str) -> None:
    with pytest.raises(RtspError, match="breaks the dialogue off"):
        opened(serve(Camera(control=f"a=control:{control}\r\n")))


def test_a_camera_that_hangs_up_whenever_it_should_play_is_not_hammered(serve: Serve) -> None:
    server = serve(Camera(play=lambda peer: None, linger=False))
    parsed = config.parse({"CAMERA_1_RTSP": f"rtsp://127.0.0.1:{server.port}/x"})
    stream = CameraStream(parsed.cameras[0], parsed.capture, threading.Semaphore(1))
    for _ in range(2):
        assert stream.step() == 0.0
        assert (stream.step() or 0.0) >= 0.25
    stream.close()


def test_a_login_is_renewed_for_later_requests(serve: Serve) -> None:
    def script(peer: Peer) -> None:
        valid = 1
        while request := peer.request():
            if f'nonce="n{valid}"' not in request:
                peer.reply("401 Unauthorized", f'WWW-Authenticate: Digest nonce="n{valid}"')
                continue
            valid += 1
            if "DESCRIBE" in request:
                peer.reply("200 OK", body=SDP.format(control="", session=""))
            else:
                peer.reply("200 OK", "Session: x")

    server = serve(script)
    RtspSession(f"rtsp://u:p@127.0.0.1:{server.port}/", "tcp", WAIT_S).close()
    assert [r.split(" ")[0] for r in server.requests[:6]] == [
        *("DESCRIBE", "DESCRIBE", "SETUP", "SETUP", "PLAY", "PLAY")
    ]


def test_a_login_that_expires_between_two_signs_of_life(serve: Serve) -> None:
    """The next sign would come when the session has ended: the answer has to follow at once."""
    heard: list[str] = []

    def script(peer: Peer) -> None:
        nonce = "first"
        while request := peer.request():
            method = request.split(" ")[0]
            if f'nonce="{nonce}"' not in request:
                stale = f'Digest realm="cam, \\"x\\"", nonce="{nonce}", qop="auth", stale=true'
                peer.reply("401 Unauthorized", f"WWW-Authenticate: {stale}")
                continue
            heard.append(method + (re.findall(r"nc=(\d+)", request) or [""])[0])
            if method == "DESCRIBE":
                peer.reply("200 OK", body=SDP.format(control="", session=""))
            else:
                peer.reply("200 OK", "Session: x;timeout=4")
            if method == "PLAY":
                nonce = "second"

    server = serve(script)
    session = RtspSession(f"rtsp://u:p@127.0.0.1:{server.port}/", "tcp", WAIT_S)
    until_s = time.monotonic() + 3.8  # the next sign would come after 4 s
    while len(heard) < 4 and time.monotonic() < until_s:
        session.read(0.1)
    session.close()
    assert heard[:4] == ["DESCRIBE00000001", "SETUP00000002", "PLAY00000003", "OPTIONS00000001"]


@pytest.mark.parametrize("method", ["OPTIONS", "GET_PARAMETER", "SET_PARAMETER", "ANNOUNCE"])
def test_what_the_camera_asks_is_answered(serve: Serve, method: str) -> None:
    def play(peer: Peer) -> None:
        one, *others = packets(5)
        head = f"{method} rtsp://x/ RTSP/1.0\r\nCSeq: 77\r\nContent-Length: 5\r\n\r\n$body"
        peer.send(framed(one) + head.encode()[:30])
        peer.send(head.encode()[30:] + b"".join(map(framed, others)))

    camera = Camera(play=play)
    session = opened(serve(camera))
    session._dialogue.deadline = 0.0  # the handshake was long ago
    assert len(pictures_of(session, 5)) == 5
    wait_until(lambda: b"RTSP/1.0 200 OK\r\nCSeq: 77\r\n\r\n" in b"".join(camera.heard))
    session.close()


def test_a_session_that_the_camera_tears_down(serve: Serve) -> None:
    session = opened(
        serve(Camera(play=lambda peer: peer.send(b"TEARDOWN rtsp://x/ RTSP/1.0\r\n\r\n")))
    )
    with pytest.raises(RtspError, match="ended the session"):
        pictures_of(session, 1)
    session.close()


def test_a_lot_of_video_before_the_answer_to_play(serve: Serve) -> None:
    class Hasty(Camera):
        def __call__(self, peer: Peer) -> None:
            while "PLAY" not in (request := peer.request()):
                if "DESCRIBE" in request:
                    peer.reply("200 OK", body=self.sdp + "\r\n")
                    peer.send(b"\r\n")  # more than it has announced
                else:
                    peer.reply("200 OK", self.setup, self.session_header)
            peer.send(framed(b"\x80\xe0" + bytes(30_000)) * 5)
            peer.reply("200 OK")
            peer.send(b"".join(map(framed, packets(3))))
            peer.sock.recv(4096)

    session = opened(serve(Hasty()))
    assert len(pictures_of(session, 3)) == 3
    session.close()


@pytest.mark.parametrize("said", [0, 1])
def test_udp_from_the_camera_only(serve: Serve, said: int) -> None:
    """From its address; some send from another port than they said."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("127.0.0.1", 0))
        camera = Camera(
            setup=f"Transport: RTP/AVP;unicast;server_port={sender.getsockname()[1] + said}",
            play=lambda peer: None,
        )
        server = serve(camera)
        session = opened(server, "udp")
        ports = re.search(r"client_port=(\d+)-(\d+)", server.requests[1])
        assert ports is not None
        assert int(ports[1]) % 2 == 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.0.2", 0))
            for one in packets(3, start=1000):
                stranger.sendto(one, ("127.0.0.1", int(ports[1])))
        assert session.read(0.3) == []
        for one in packets(3):
            sender.sendto(one, ("127.0.0.1", int(ports[1])))
        assert len(pictures_of(session, 3)) == 3
        session.close()
