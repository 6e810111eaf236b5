"""Every kind of stream a camera may send, from GStreamer's RTSP server."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from camera.stream import CameraStream
from tests.rigs.clips import FFMPEG, clip
from tests.rigs.line import Line
from tests.rigs.rtsp import RtspServer
from tests.rigs.streams import (
    TIE_S,
    check_about,
    check_moment,
    number_of,
    settle,
    stream_of,
    true_shot_s,
    wait_for_state,
)

pytestmark = pytest.mark.usefixtures("cameras_available")

H264 = "h264-720p25-gop25"
RTP_TIME = slice(4, 8)
RTP_HZ = 90_000


def capture_some(stream: CameraStream, server: RtspServer, count: int = 4) -> None:
    """Take pictures at any moment and see that each is the one of its moment, undamaged."""
    for _ in range(count):
        edge_s = time.monotonic()
        frame = stream.take(stream.pin(edge_s))
        check_moment(server, frame, edge_s)
        assert frame.flags == ()
        stream.pause(0.31)


@pytest.mark.parametrize("kind", ["h264-720p25-gop125", "h265-720p25-gop50-slices"])
def test_long_gops_and_slices(kind: str) -> None:
    with RtspServer({"/cam": clip(kind)}) as server, stream_of(server.url("/cam")) as stream:
        settle(stream)
        capture_some(stream, server)


def test_a_smart_codec_with_a_keyframe_every_twelve_seconds() -> None:
    with (
        RtspServer({"/cam": clip("h264-720p25-gop300")}) as server,
        stream_of(server.url("/cam")) as stream,
    ):
        settle(stream)
        capture_some(stream, server, 8)
        deadline_s = time.monotonic() + 60
        while not stream.status().gop_too_long:
            assert time.monotonic() < deadline_s
            stream.pause(0.1)
        assert stream.status().gop_s == pytest.approx(12, abs=0.2)
        assert "I-frame interval" in (stream.status().advice or "")


@pytest.mark.parametrize("kind", [H264, "h265-720p25-gop50", "mjpeg-720p25"])
def test_a_sound_track_beside_the_video(kind: str) -> None:
    with (
        RtspServer({"/cam": clip(kind)}, audio=True) as server,
        stream_of(server.url("/cam")) as stream,
    ):
        settle(stream)
        capture_some(stream, server)


@pytest.mark.parametrize("kind", [H264, "h265-720p25-gop50"])
def test_parameter_sets_in_the_description_only(kind: str) -> None:
    with (
        RtspServer({"/cam": clip(kind)}, sets="described") as server,
        stream_of(server.url("/cam")) as stream,
    ):
        settle(stream)
        capture_some(stream, server)


def test_another_resolution_in_the_middle() -> None:
    clips = (clip(H264), clip("h264-360p25-gop25"))
    with RtspServer({"/cam": clips}) as server, stream_of(server.url("/cam")) as stream:
        settle(stream)
        assert stream.status().width == 1280
        server.switch("/cam")
        stream.pause(1.5)
        settle(stream)
        capture_some(stream, server)
        assert (stream.status().width, stream.status().height) == (640, 360)
        server.switch("/cam")
        stream.pause(1.5)
        settle(stream)
        capture_some(stream, server)
        assert stream.status().width == 1280


def shifted(seconds: Callable[[], float]) -> Callable[[bytes], bytes]:
    """Return a change of RTP packets that moves their time."""

    def move(packet: bytes) -> bytes:
        ticks = int.from_bytes(packet[RTP_TIME], "big") + round(seconds() * RTP_HZ)
        return packet[:4] + (ticks % 2**32).to_bytes(4, "big") + packet[8:]

    return move


@pytest.mark.parametrize("jump_s", [-3600.0, -2.0, 0.7, 30.0, 7200.0])
@pytest.mark.parametrize("kind", [H264, "mjpeg-720p25"])
def test_rtp_time_that_jumps(kind: str, jump_s: float) -> None:
    moved_s = 0.0
    with (
        RtspServer({"/cam": clip(kind)}) as server,
        Line(server.port) as line,
        stream_of(line.url("/cam")) as stream,
    ):
        line.alter(shifted(lambda: moved_s))
        settle(stream)
        moved_s = jump_s
        stream.pause(0.2)
        for _ in range(3):  # right after the jump: whole, and of about the moment
            edge_s = time.monotonic()
            check_about(server, stream.take(stream.pin(edge_s)), edge_s, 1.2)
        settle(stream)
        capture_some(stream, server)


@pytest.mark.parametrize("kind", [H264, "h265-720p25-gop50"])
def test_udp(kind: str) -> None:
    with (
        RtspServer({"/cam": clip(kind)}) as server,
        stream_of(server.url("/cam"), RTSP_TRANSPORT="udp") as stream,
    ):
        settle(stream)
        capture_some(stream, server)


def scan_of(jpeg: bytes) -> bytes:
    """Return the entropy-coded data of a JPEG."""
    start = jpeg.index(b"\xff\xda")
    scan = jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]
    return scan.partition(b"\xff\xd9")[0]


def test_the_scan_of_an_mjpeg_camera_is_untouched(tmp_path: Path) -> None:
    path = clip("mjpeg-720p25")
    command = [FFMPEG, "-v", "error", "-i", path, "-c", "copy", tmp_path / "%d.jpg"]
    subprocess.run([*map(str, command)], check=True)
    sent = {
        int(found[1]) - 1: scan_of(file.read_bytes())
        for file in tmp_path.iterdir()
        if (found := re.fullmatch(r"(\d+)\.jpg", file.name))
    }
    with RtspServer({"/cam": path}) as server, stream_of(server.url("/cam")) as stream:
        settle(stream)
        for _ in range(3):
            frame = stream.take(stream.pin(time.monotonic()))
            number = number_of(frame)
            assert number is not None
            assert scan_of(frame.jpeg) == sent[number]


def test_the_sharpest_frame_of_a_window() -> None:
    with (
        RtspServer({"/cam": clip("h264-720p25-gop25-focus")}) as server,
        stream_of(server.url("/cam")) as stream,
    ):
        settle(stream)
        judged = 0
        for _ in range(30):
            edge_s = time.monotonic()
            frame = stream.take(stream.pin(edge_s, 0.12))
            shot_s = true_shot_s(server, frame)
            seen_s = edge_s - (frame.shot_s - shot_s)
            assert abs(shot_s - seen_s) <= 0.12 + TIE_S
            near = [
                shot.frame_number
                for shot in server.shots("/cam")
                if abs(shot.moment_s - seen_s) <= 0.12 - TIE_S
            ]
            if any(number % 5 == 0 for number in near):  # a busy camera may shoot fewer
                assert (number_of(frame) or 0) % 5 == 0, f"not the one in focus of {near}"
                judged += 1
            if judged == 5:
                break
            stream.pause(0.27)
        assert judged == 5


def test_b_frames_are_told_to_the_installer() -> None:
    with (
        RtspServer({"/cam": clip("h264-720p25-gop50-bframes")}) as server,
        stream_of(server.url("/cam")) as stream,
    ):
        settle(stream)
        wait_for_state(stream, "streaming")
        assert "B-frames" in (stream.status().advice or "")
