"""What happens to a camera and its network, and that it is noticed, said and got over."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from camera.frame import StreamError
from camera.stream import CameraStream
from tests.rigs.clips import clip
from tests.rigs.line import Line
from tests.rigs.rtsp import RtspServer
from tests.rigs.streams import check_moment, number_of, settle, stream_of, wait_for_state

pytestmark = pytest.mark.usefixtures("cameras_available")

KIND = "h264-720p25-gop25"
PATIENCE_S = 60.0


@contextmanager
def camera(kind: str = KIND) -> Iterator[tuple[RtspServer, Line, CameraStream]]:
    """Run a camera, the line to it and the stream that watches it."""
    with (
        RtspServer({"/cam": clip(kind)}) as server,
        Line(server.port) as line,
        stream_of(line.url("/cam")) as stream,
    ):
        settle(stream)
        yield server, line, stream


def expect_recovery(server: RtspServer, stream: CameraStream) -> None:
    wait_for_state(stream, "streaming")
    settle(stream)
    edge_s = time.monotonic()
    check_moment(server, stream.take(stream.pin(edge_s)), edge_s)
    assert stream.status().error is None


def test_a_cut_network_is_stalled_then_down_and_recovers() -> None:
    with camera() as (server, line, stream):
        line.cut()
        wait_for_state(stream, "stalled")
        wait_for_state(stream, "down")
        assert stream.status().hint
        line.mend()
        expect_recovery(server, stream)


def test_a_camera_that_is_switched_off_says_so_and_recovers() -> None:
    with camera() as (server, line, stream):
        line.unplug()
        wait_for_state(stream, "down")
        deadline_s = time.monotonic() + PATIENCE_S
        while "connection refused" not in (stream.status().error or ""):
            assert time.monotonic() < deadline_s
            stream.pause(0.05)
        line.mend()
        expect_recovery(server, stream)


def test_a_connection_that_is_reset_is_made_anew() -> None:
    with camera() as (server, line, stream):
        for _ in range(3):
            made = line.connections
            line.reset()
            deadline_s = time.monotonic() + PATIENCE_S
            while line.connections == made:
                assert time.monotonic() < deadline_s
                stream.pause(0.02)
            expect_recovery(server, stream)


def test_a_camera_that_answers_garbage_is_named_and_recovers() -> None:
    with camera() as (server, line, stream):
        line.talk_noise()
        wait_for_state(stream, "down")
        deadline_s = time.monotonic() + PATIENCE_S
        while "RTSP" not in (stream.status().error or ""):
            assert time.monotonic() < deadline_s, stream.status()
            stream.pause(0.05)
        line.mend()
        expect_recovery(server, stream)


def test_a_line_that_trickles_gives_no_fresh_picture_and_recovers() -> None:
    with camera() as (server, line, stream):
        line.trickle(2000)
        wait_for_state(stream, "stalled")
        line.mend()
        line.reset()
        expect_recovery(server, stream)


def test_a_changed_password_is_said_and_tried_seldom() -> None:
    mounts = {"/cam": clip(KIND)}
    with (
        RtspServer(mounts, user="admin", password="first") as server,
        stream_of(server.url("/cam", "admin", "first")) as stream,
    ):
        settle(stream)
        server.kill()
        with RtspServer(mounts, user="admin", password="second", port=server.port):
            deadline_s = time.monotonic() + PATIENCE_S
            while "password" not in (stream.status().error or ""):
                assert time.monotonic() < deadline_s, stream.status()
                stream.pause(0.05)
            assert stream.status().state == "down"
            assert "first" not in str(stream.status())
            with pytest.raises(StreamError, match="password"):
                stream.take(stream.pin(time.monotonic()))


@pytest.mark.parametrize("kind", [KIND, "h265-720p25-gop50", "h264-720p25-gop50-zerolatency"])
def test_a_lost_picture_never_yields_a_smeared_one_unflagged(kind: str) -> None:
    """Lose every packet of single pictures, as a camera does whose network is too slow."""
    chance = random.Random(5)
    lost: dict[bytes, bool] = {}

    def lose(packet: bytes) -> bytes | None:
        is_lost = lost.setdefault(packet[4:8], len(lost) > 60 and chance.random() < 0.03)
        return None if is_lost else packet

    with camera(kind) as (_, line, stream):
        line.alter(lose)
        stream.pause(3)
        smeared = flagged = 0
        for _ in range(25):
            frame = stream.take(stream.pin(time.monotonic()))
            is_flagged = bool({"damaged", "smeared"} & set(frame.flags))
            flagged += is_flagged
            smeared += number_of(frame) is None and not is_flagged
            stream.pause(0.19)
        assert smeared == 0
        assert flagged < 25


@pytest.mark.parametrize(
    "kind", [KIND, "h265-720p25-gop50", "h264-720p25-gop50-zerolatency", "mjpeg-720p25"]
)
def test_a_lost_packet_never_yields_a_smeared_picture_unflagged(kind: str) -> None:
    """Lose single packets: a hole in a slice leaves no trace but in their numbers."""
    chance = random.Random(5)
    with camera(kind) as (_, line, stream):
        line.alter(lambda packet: None if chance.random() < 0.002 else packet)
        stream.pause(3)
        smeared = whole = 0
        for _ in range(30):
            frame = stream.take(stream.pin(time.monotonic()))
            is_flagged = bool({"damaged", "smeared"} & set(frame.flags))
            smeared += number_of(frame) is None and not is_flagged
            whole += not is_flagged
            stream.pause(0.19)
        assert smeared == 0
        assert whole > 3
