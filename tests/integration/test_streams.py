"""A camera's stream against GStreamer's RTSP server: the offset is read off the pictures."""

from __future__ import annotations

import socket
import time

import pytest

from camera.frame import StreamError
from tests.rigs.clips import clip
from tests.rigs.rtsp import RtspServer
from tests.rigs.streams import (
    check_about,
    check_moment,
    number_of,
    settle,
    stream_of,
    true_shot_s,
    wait_for_state,
)

pytestmark = pytest.mark.usefixtures("cameras_available")

KINDS = (
    "h264-1080p25-gop50",
    "h264-720p25-gop50-zerolatency",
    "h264-720p25-gop50-bframes",
    "h265-720p25-gop50",
    "mjpeg-720p25",
)


@pytest.mark.parametrize("kind", KINDS)
def test_the_picture_is_the_one_of_the_moment(kind: str) -> None:
    with RtspServer({"/cam": clip(kind)}) as server, stream_of(server.url("/cam")) as stream:
        settle(stream)
        for _ in range(6):
            edge_s = time.monotonic()
            frame = stream.take(stream.pin(edge_s))
            check_moment(server, frame, edge_s)
            assert frame.flags == ()
            stream.pause(0.17)


def test_slices_with_parameter_sets_of_their_own_are_one_picture() -> None:
    kind = "h264-720p25-gop50-zerolatency"
    with (
        RtspServer({"/cam": clip(kind)}, sets="per-slice") as server,
        stream_of(server.url("/cam")) as stream,
    ):
        settle(stream)
        for _ in range(6):
            edge_s = time.monotonic()
            check_moment(server, stream.take(stream.pin(edge_s)), edge_s)
            stream.pause(0.37)


@pytest.mark.parametrize("kind", ["h264-720p25-gop50-zerolatency", "h265-720p25-gop50"])
def test_captures_right_after_a_connect_are_whole(kind: str) -> None:
    with RtspServer({"/cam": clip(kind)}) as server, stream_of(server.url("/cam")) as stream:
        wait_for_state(stream, "streaming")
        for _ in range(4):
            edge_s = time.monotonic()
            check_about(server, stream.take(stream.pin(edge_s)), edge_s, 0.5)


@pytest.mark.parametrize(("setting_ms", "wanted_s"), [(-400, -0.4), (300, 0.3)])
def test_an_offset_asks_for_another_moment(setting_ms: int, wanted_s: float) -> None:
    with (
        RtspServer({"/cam": clip("h264-720p25-gop25")}) as server,
        stream_of(server.url("/cam")) as stream,
    ):
        settle(stream)
        stream.pause(0.6)
        edge_s = time.monotonic()
        frame = stream.take(stream.pin(edge_s + setting_ms / 1000))
        check_moment(server, frame, edge_s + wanted_s)


def test_latency_shifts_what_the_moment_is() -> None:
    with (
        RtspServer({"/cam": clip("h264-720p25-gop25")}) as server,
        stream_of(server.url("/cam"), CAMERA_1_LATENCY_MS="200") as stream,
    ):
        settle(stream)
        edge_s = time.monotonic()
        check_moment(server, stream.take(stream.pin(edge_s)), edge_s, latency_s=0.2)


def test_a_busy_camera_gives_each_edge_its_own_moment() -> None:
    with (
        RtspServer({"/cam": clip("h264-1080p25-gop50")}) as server,
        stream_of(server.url("/cam")) as stream,
    ):
        settle(stream)
        edges_s = []
        pins = []
        for _ in range(5):
            edges_s.append(time.monotonic())
            pins.append(stream.pin(edges_s[-1]))
            stream.pause(0.12)
        for edge_s, pin in zip(edges_s, pins, strict=True):
            check_moment(server, stream.take(pin), edge_s)


def test_a_frozen_camera_is_stalled_and_recovers() -> None:
    with (
        RtspServer({"/cam": clip("h264-720p25-gop25")}) as server,
        stream_of(server.url("/cam"), CAPTURE_TIMEOUT_S="1") as stream,
    ):
        settle(stream)
        server.freeze("/cam")
        wait_for_state(stream, "stalled")
        assert "no new picture" in (stream.status().error or "")
        wait_for_state(stream, "down")
        with pytest.raises(StreamError, match=r"no (new )?picture"):
            stream.take(stream.pin(time.monotonic()))
        server.resume("/cam")
        settle(stream)
        edge_s = time.monotonic()
        check_moment(server, stream.take(stream.pin(edge_s)), edge_s)


def test_an_edge_just_after_the_freeze_gets_the_last_picture_marked_stale() -> None:
    with (
        RtspServer({"/cam": clip("h264-720p25-gop25")}) as server,
        stream_of(server.url("/cam")) as stream,
    ):
        settle(stream)
        server.freeze("/cam")
        stream.pause(0.5)
        edge_s = time.monotonic()
        frame = stream.take(stream.pin(edge_s))
        assert "stale" in frame.flags
        assert true_shot_s(server, frame) == server.shots("/cam")[-1].moment_s


def test_a_killed_camera_is_down_at_once_and_recovers() -> None:
    with (
        RtspServer({"/cam": clip("h264-720p25-gop25")}) as server,
        stream_of(server.url("/cam"), CAPTURE_TIMEOUT_S="60") as stream,
    ):
        settle(stream)
        server.kill()
        wait_for_state(stream, "down")
        edge_s = time.monotonic()
        pin = stream.pin(edge_s)
        server.restart()
        frame = stream.take(pin)
        assert "stale" in frame.flags
        assert frame.shot_s > edge_s
        settle(stream)


def test_a_camera_killed_at_the_moment_gives_its_last_picture() -> None:
    """It was there when the moment came near; the first one of the next session is later."""
    with (
        RtspServer({"/cam": clip("h264-720p25-gop25")}) as server,
        stream_of(
            server.url("/cam"), CAPTURE_MAX_OFFSET_MS="1000", CAPTURE_TIMEOUT_S="60"
        ) as stream,
    ):
        settle(stream)
        wanted_s = time.monotonic() + 0.6
        pin = stream.pin(wanted_s)
        stream.pause(0.5)
        server.kill()
        killed_s = time.monotonic()
        wait_for_state(stream, "down")
        stream.pause(max(0.0, wanted_s + 1.1 - time.monotonic()))  # too late to stand in
        server.restart()
        frame = stream.take(pin)
        assert true_shot_s(server, frame) < killed_s
        assert "stale" not in frame.flags


def test_a_camera_that_hangs_while_it_is_opened_holds_up_no_other() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        RtspServer({"/cam": clip("h264-720p25-gop25")}) as server,
        stream_of(server.url("/cam")) as stream,
    ):
        settle(stream)
        port = silent.getsockname()[1]
        with stream_of(f"rtsp://127.0.0.1:{port}/x") as hanging:
            connection, _ = silent.accept()
            with connection:
                frame = stream.take(stream.pin(time.monotonic()))
                assert number_of(frame) is not None
                assert hanging.status().state == "connecting", "the capture waited for it"
