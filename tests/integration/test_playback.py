"""Cameras recorded by the real command and played back: what was wrong is wrong again."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

import config
from camera.recorder import record
from camera.stream import CameraStream
from rtsp.dialogue import describe
from rtsp.errors import RtspError
from rtsp.rtp import CodedPicture
from rtsp.session import RtspSession
from simulator import clip, rtp
from simulator.playback import RecordedCamera
from simulator.recording import Item, Recording, RecordingError, read
from simulator.rtsp_camera import SimulatedCamera
from tests.rigs.daemon import PATIENCE_S, ROOT, DaemonProcess, free_port
from tests.rigs.gates import CLIPS, number_in
from tests.rigs.rtsp import diagnose
from tests.rigs.scripted_camera import WAIT_S, Peer, Script, Serve, certified, serving
from tests.rigs.streams import settle, stream_of

CLIP = clip.load(CLIPS / "entry.h264")
USER, PASSWORD = "gatekeeper", "pä@s:s/CANARY"
SDP = "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:track1\r\n"
SLOW = 0.96
"""So much of the true time passes on the clock of the quirky camera."""


@pytest.fixture
def serve() -> Iterator[Serve]:
    with serving() as start:
        yield start


@contextmanager
def played(recording: Recording, *, loop: bool = False) -> Iterator[RecordedCamera]:
    camera = RecordedCamera(recording, loop=loop)
    camera.start()
    try:
        yield camera
    finally:
        camera.stop()


def recorded_by_command(folder: Path, url: str, seconds: int, **settings: str) -> tuple[Path, str]:
    """Record with main.py and return the file and what was printed."""
    box = DaemonProcess(folder, {"CAMERA_1_RTSP": url, **settings})
    done = box.command("--record-camera", "r1", "--seconds", str(seconds))
    (path,) = folder.glob("camera-r1-*.rtsprec")
    assert re.fullmatch(r"camera-r1-\d{8}-\d{6}\.rtsprec", path.name)
    assert done.stderr == ""
    return path, done.stdout


def recorded(folder: Path, url: str, transport: str = "tcp", seconds: float = 1.0) -> Path:
    """Record within this process."""
    parsed = config.parse({"CAMERA_1_RTSP": url})
    path = folder / "camera.rtsprec"
    with path.open("xb") as file:
        record(parsed.cameras[0], transport, seconds, file, lambda text: None)
    return path


def video_of(recording: Recording) -> list[Item]:
    return [item for item in recording.connections[-1].items if item.is_rtp]


def first_number(recording: Recording) -> int:
    """Return the number of the first picture that was recorded."""
    payloads = [item.packet[12:] for item in video_of(recording)]
    known = [rtp.payloads(picture.nals) for picture in CLIP.pictures]
    found = [number for number, parts in enumerate(known) if payloads[: len(parts)] == parts]
    assert len(found) == 1
    return found[0]


def check_pictures(stream: CameraStream, recording: Recording, count: int) -> None:
    """Check that pictures follow each other as they were recorded, over the seam of the loop."""
    ends = sum(item.packet[1] >> 7 for item in video_of(recording))
    begin, places = first_number(recording), []
    for _ in range(count):
        frame = stream.take(stream.pin(time.monotonic()))
        assert frame.flags == ()
        place = (number_in(frame.jpeg) - begin) % len(CLIP.pictures)
        assert place < ends
        places.append((place, frame.shot_s))
        stream.pause(0.37)
    (place, shot_s), *others = places
    for later, later_s in others:
        assert (later - place - round((later_s - shot_s) * CLIP.fps)) % ends == 0


def test_a_recorded_camera_gives_its_pictures_again_and_keeps_no_secret(tmp_path: Path) -> None:
    camera = SimulatedCamera(CLIP, user=USER, password=PASSWORD)
    camera.start()
    try:
        path, said = recorded_by_command(tmp_path, camera.url, 3)
    finally:
        camera.stop()
    assert "packets" in said
    assert "The pictures themselves ARE in it" in said
    assert sorted(found.name for found in tmp_path.iterdir()) == [".env", path.name]
    text = path.read_text(encoding="ascii")
    basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    for secret in (USER, "CANARY", quote(PASSWORD, safe=""), basic, "127.0.0.1", "response"):
        assert secret not in text
    assert path.stat().st_mode & 0o77 == 0
    recording = read(path)
    assert (recording.is_cut, recording.end, recording.wants_login) == (False, "", True)
    with played(recording, loop=True) as playback, stream_of(playback.url) as stream:
        settle(stream)
        check_pictures(stream, recording, 8)
        assert playback.connections == 1


class Quirky:
    """A camera whose stamps are 4 % slow and whose bytes come in uneven pieces."""

    def __call__(self, peer: Peer) -> None:
        while "PLAY" not in (request := peer.request()):
            if not request:
                return
            body = SDP if "DESCRIBE" in request else ""
            peer.reply("200 OK", "Transport: RTP/AVP/TCP;interleaved=0-1", "Session: a", body=body)
        peer.reply("200 OK", "Session: a")
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began_s, sequence = time.monotonic(), 65_500
        for number, picture in enumerate(CLIP.pictures):
            peer.done.wait(max(0.0, began_s + number / CLIP.fps - time.monotonic()))
            for packet in packets_of(picture, round(number * 3600 * SLOW), sequence):
                frame = framed(packet)
                for part in (frame[:1], frame[1:9], frame[9:]):
                    peer.send(part)
                sequence += 1


def packets_of(picture: clip.Picture, timestamp: int, sequence: int) -> list[bytes]:
    parts = rtp.payloads(picture.nals)
    return [
        rtp.packet(part, last=part is parts[-1], sequence=sequence + n, timestamp=timestamp, ssrc=7)
        for n, part in enumerate(parts)
    ]


def framed(packet: bytes) -> bytes:
    return b"$\0" + len(packet).to_bytes(2, "big") + packet


def packets(count: int) -> list[bytes]:
    """Return the packets of the clip's first pictures."""
    found: list[bytes] = []
    for number, picture in enumerate(CLIP.pictures[:count]):
        found += packets_of(picture, number * 3600, len(found))
    return found


def test_a_quirk_is_played_back(serve: Serve, tmp_path: Path) -> None:
    path, _ = recorded_by_command(tmp_path, f"rtsp://127.0.0.1:{serve(Quirky()).port}/live", 4)
    recording = read(path)
    with played(recording, loop=True) as playback, stream_of(playback.url) as stream:
        deadline_s = time.monotonic() + WAIT_S
        while "4 % too slow" not in (stream.status().advice or ""):
            assert time.monotonic() < deadline_s, stream.status()
            stream.pause(0.1)
        settle(stream)
        check_pictures(stream, recording, 4)


def refused(peer: Peer) -> None:
    peer.request()
    peer.reply("404 Not Found")


def web_server(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n<html>")


def hangs_up(peer: Peer) -> None:
    peer.request()


def hangs_up_later(peer: Peer) -> None:
    peer.request()
    peer.reply("200 OK", body=SDP)
    peer.request()


def never_lets_in(peer: Peer) -> None:
    while peer.request():
        peer.reply("401 Unauthorized", 'WWW-Authenticate: Digest realm="a", nonce="b"')


def no_video(peer: Peer) -> None:
    peer.request()
    peer.reply("200 OK", body="v=0\r\nm=audio 0 RTP/AVP 0\r\n")


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (refused, "wrong_path"),
        (web_server, "not_rtsp"),
        (hangs_up, "not_rtsp"),
        (hangs_up_later, "server_error"),
        (never_lets_in, "wrong_password"),
        (no_video, "no_video"),
    ],
)
def test_a_failure_is_written_down_and_played_back(
    serve: Serve, tmp_path: Path, script: Script, code: str
) -> None:
    url = f"rtsp://u:p@127.0.0.1:{serve(script).port}/live"
    failure = outcome(url)
    recording = read(recorded(tmp_path, url))
    with played(recording) as playback:
        again = outcome(playback.url)
    ports = re.compile(r"127\.0\.0\.1:\d+")
    assert ports.sub("", again) == ports.sub("", failure)
    assert recording.end == re.sub(r"127\.0\.0\.1", "192.0.2.1", failure.partition(" ")[2])
    assert failure.startswith(code)


def outcome(url: str) -> str:
    """Return the code and the reason of the failure that a session ends with."""
    with pytest.raises(RtspError) as caught:
        RtspSession(url, "tcp", WAIT_S)
    return f"{caught.value.diagnosis.code} {caught.value.diagnosis.reason}"


def test_a_camera_that_nobody_hears_leaves_a_reason_and_nothing_to_play(tmp_path: Path) -> None:
    box = DaemonProcess(tmp_path, {"CAMERA_2_RTSP": f"rtsp://127.0.0.1:{free_port()}/x"})
    done = box.command("--record-camera", "camera_2", "--seconds", "1")
    assert done.returncode == 1
    assert "FAILED: nothing listens on" in done.stdout
    assert "Check the port" in done.stdout
    (path,) = tmp_path.glob("camera-r2-*.rtsprec")
    last = json.loads(path.read_text().splitlines()[-1])
    assert "connection refused" in last["end"]
    assert "127.0.0.1" not in path.read_text()
    with pytest.raises(RecordingError, match=r"never reached: nothing listens on 192\.0\.2\.1"):
        read(path)
    assert "There is no camera r9" in box.command("--record-camera", "r9").stdout
    assert "1 to 120" in box.command("--record-camera", "r1", "--seconds", "121").stderr


def test_a_camera_that_hangs_up_is_played_back_up_to_that(serve: Serve, tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        for body in (SDP, "", ""):
            peer.request()
            peer.reply("200 OK", body=body)
        for packet in packets(5):
            peer.send(framed(packet))

    path = recorded(tmp_path, f"rtsp://127.0.0.1:{serve(script).port}/live", seconds=60)
    recording = read(path)
    assert recording.end == "the camera closed the connection"
    with played(recording) as playback:
        session = RtspSession(playback.url, "tcp", WAIT_S)
        with pytest.raises(RtspError, match="closed the connection"):
            pictures_of(session, 100)
        session.close()


def test_a_login_on_a_connection_of_its_own(serve: Serve, tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        while request := peer.request():
            if "Authorization" not in request:
                challenge = 'WWW-Authenticate: Digest realm="a", nonce="b"'
                peer.reply("401 Unauthorized", challenge, "Connection: close")
                return
            peer.reply("200 OK", "Session: a", body=SDP if "DESCRIBE" in request else "")

    url = f"rtsp://{USER}:secret@127.0.0.1:{serve(script).port}/live?user={USER}&password=secret"
    path = recorded(tmp_path, url)
    assert "secret" not in path.read_text()
    with played(read(path)) as playback:
        assert playback.url == f"rtsp://any:any@127.0.0.1:{playback.port}/live?removed"
        assert diagnose(playback.url.replace("any:any@", "")).code == "wrong_password"
    with played(read(path)) as playback:
        RtspSession(playback.url, "tcp", WAIT_S).close()
        assert playback.connections == 2
        RtspSession(playback.url, "tcp", WAIT_S).close()
        assert playback.connections == 3


def pictures_of(session: RtspSession, count: int) -> list[CodedPicture]:
    found: list[CodedPicture] = []
    until_s = time.monotonic() + WAIT_S
    while len(found) < count and time.monotonic() < until_s:
        found += session.read(0.2)
    return found


@pytest.fixture
def sender() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        yield found


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_packets_over_udp_are_played_back_either_way(
    serve: Serve, sender: socket.socket, tmp_path: Path, transport: str
) -> None:
    def script(peer: Peer) -> None:
        port = 0
        while request := peer.request():
            own = sender.getsockname()[1]
            transport = f"Transport: RTP/AVP;unicast;server_port={own}-{own + 1}"
            if ports := re.search(r"client_port=(\d+)", request):
                port = int(ports[1])
            body = SDP if "DESCRIBE" in request else ""
            peer.reply("200 OK", transport, "Session: a", body=body)
            if "PLAY" in request:
                for packet in packets(4):
                    sender.sendto(packet, ("127.0.0.1", port))

    url = f"rtsp://127.0.0.1:{serve(script).port}/live"
    recording = read(recorded(tmp_path, url, "udp", seconds=2))
    assert recording.is_udp
    assert "127.0.0.1" not in (tmp_path / "camera.rtsprec").read_text()
    with played(recording) as playback:
        session = RtspSession(playback.url, transport, WAIT_S)
        found = pictures_of(session, 3)
        session.close()
    assert [picture.key for picture in found][:3] == [True, False, False]
    assert not any(picture.torn for picture in found)


def test_packets_of_a_connection_are_played_back_over_udp(tmp_path: Path) -> None:
    camera = SimulatedCamera(CLIP, user="", password="")
    camera.start()
    try:
        path = recorded(tmp_path, camera.url.replace(":@", "u:p@"), seconds=2)
        assert read(path).end.startswith("wrong password")
        path.unlink()
        camera.change_password("p")
        path = recorded(tmp_path, camera.url, seconds=2)
    finally:
        camera.stop()
    with played(read(path)) as playback:
        session = RtspSession(playback.url, "udp", WAIT_S)
        assert len(pictures_of(session, 20)) == 20
        session.close()


def test_the_program_serves_a_recording(serve: Serve, tmp_path: Path) -> None:
    path = recorded(tmp_path, f"rtsp://127.0.0.1:{serve(Quirky()).port}/live")
    # Whoever runs the tests in the background ignores SIGINT, and so would the program.
    command = ["/usr/bin/env", "--default-signal=INT", sys.executable, "-m", "simulator.playback"]
    command.append(str(path))
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        killer = threading.Timer(PATIENCE_S, program.kill)
        killer.start()
        try:
            assert program.stdout is not None
            url = program.stdout.readline().strip()
            assert diagnose(url, WAIT_S).code == "ok"
            program.send_signal(signal.SIGINT)
            assert program.wait(PATIENCE_S) == 0
        finally:
            killer.cancel()
            program.kill()


def test_the_program_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "simulator.playback", str(tmp_path / "none")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path / 'none'} cannot be read: No such file or directory\n"


def test_addresses_and_lengths_are_the_playback_s(serve: Serve, tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        own = f"rtsp://10.11.12.13:{5540}"
        body = SDP.replace("control:track1", f"control:{own}/track1")
        peer.reply("200 OK", f"Content-Base: {own}/live/", body=body)
        peer.request()

    path = recorded(tmp_path, f"rtsp://127.0.0.1:{serve(script).port}/live")
    assert "10.11.12.13" not in path.read_text()
    with played(read(path)) as playback:
        dialogue, video = describe(playback.url, WAIT_S)
        dialogue.close()
        assert dialogue.base_uri == f"rtsp://127.0.0.1:{playback.port}/live/"
        assert video.control == f"rtsp://127.0.0.1:{playback.port}/track1"
        assert dialogue.buffer == b""


def test_a_camera_with_tls_is_recorded_and_played_back_without(
    serve: Serve, tmp_path: Path
) -> None:
    context = certified(tmp_path)

    def script(peer: Peer) -> None:
        for body in (SDP, "", ""):
            peer.request()
            peer.reply("200 OK", body=body)
        peer.send(b"".join(framed(packet) for packet in packets(5)))
        peer.request()

    path = recorded(tmp_path, f"rtsps://127.0.0.1:{serve(script, context).port}/live", seconds=2)
    recording = read(path)
    assert '"tls": true' in path.read_text()
    with played(recording) as playback:
        session = RtspSession(playback.url, "tcp", WAIT_S)
        assert len(pictures_of(session, 5)) == 5
        session.close()


def test_ctrl_c_ends_a_recording_that_can_be_played(serve: Serve, tmp_path: Path) -> None:
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 1:
            raise KeyboardInterrupt

    parsed = config.parse({"CAMERA_1_RTSP": f"rtsp://127.0.0.1:{serve(Quirky()).port}/live"})
    path = tmp_path / "camera.rtsprec"
    with path.open("xb") as file:
        done = record(parsed.cameras[0], "tcp", 60, file, say)
    assert (done.failure, done.cut_short) == (None, "stopped by hand")
    recording = read(path)
    assert recording.end == "stopped by hand"
    assert video_of(recording)
