"""A camera's stream against the RTSP servers of other people.

They don't tell when they shot a picture: pictures are compared with each other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path

import pytest

from camera.frame import Frame
from camera.stream import CameraStream
from tests.rigs import foreign_servers
from tests.rigs.clips import FPS, SPECS, clip
from tests.rigs.daemon import PATIENCE_S
from tests.rigs.streams import number_of, settle, stream_of

CAPTURES = 6
GAP_S = 0.31
OFF_FRAMES = 2.0
VLC_TIMEOUT_S = 8

Server = Callable[[Path, Path], AbstractContextManager[str]]


def capture_some(stream: CameraStream, kind: str, *, lossy: bool = False) -> None:
    """Take pictures at any moment and see that they are whole, and as far apart as they say.

    With `lossy` the server may leave out packets, and what is flagged for that doesn't count.
    """
    frames: list[Frame] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while len(frames) < CAPTURES:
        assert time.monotonic() < deadline_s, f"too few whole pictures, {stream.status()}"
        frame = stream.take(stream.pin(time.monotonic()))
        is_broken = not {"damaged", "smeared"}.isdisjoint(frame.flags)
        assert lossy or not is_broken, frame.flags
        is_new = not frames or frame.shot_s > frames[-1].shot_s
        if is_new and not is_broken:
            frames.append(frame)
        stream.pause(GAP_S)
    seen = [(frame.shot_s, number_of(frame)) for frame in frames]
    loop = SPECS[kind].frames
    for (shot_s, number), (next_shot_s, next_number) in pairwise(seen):
        assert number is not None, "the picture is smeared"
        assert next_number is not None, "the picture is smeared"
        expected = (next_shot_s - shot_s) * FPS
        off = (next_number - number - expected + loop / 2) % loop - loop / 2
        assert abs(off) <= OFF_FRAMES, f"{number} and {next_number} {expected:.2f} frames apart"


@pytest.mark.parametrize(
    "kind",
    [
        "h264-720p25-gop25",
        "h264-720p25-gop50-zerolatency",
        "h265-720p25-gop50",
        "h265-720p25-gop50-slices",
        "mjpeg-720p25",
    ],
)
def test_vlc_over_udp(kind: str, tmp_path: Path) -> None:
    with (
        foreign_servers.vlc(clip(kind), tmp_path) as url,
        stream_of(url, RTSP_TRANSPORT="udp") as stream,
    ):
        settle(stream)
        capture_some(stream, kind)


def test_vlc_keeps_a_session_that_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends a session to the second when it hears nothing for the timeout that it says."""
    kind = "h264-720p25-gop25"
    option = f"--rtsp-timeout={VLC_TIMEOUT_S}"
    with (
        foreign_servers.vlc(clip(kind), tmp_path, option) as url,
        stream_of(url, RTSP_TRANSPORT="udp") as stream,
    ):
        settle(stream)
        before = list(caplog.messages)  # until it has its first picture it answers with an error
        with caplog.at_level(logging.INFO):
            stream.pause(2 * VLC_TIMEOUT_S + 1)
            capture_some(stream, kind)
        assert caplog.messages == before, "the session was lost"


@pytest.mark.parametrize("kind", ["h264-720p25-gop25", "h265-720p25-gop50-slices"])
def test_aio_rtsp_over_tcp(kind: str, tmp_path: Path) -> None:
    with foreign_servers.aio_rtsp(clip(kind), tmp_path) as url, stream_of(url) as stream:
        settle(stream)
        capture_some(stream, kind)


@pytest.mark.parametrize("kind", ["h264-720p25-gop25", "h264-720p25-gop50-zerolatency"])
def test_espp_over_udp(kind: str, tmp_path: Path) -> None:
    with (
        foreign_servers.espp(clip(kind), tmp_path) as url,
        stream_of(url, RTSP_TRANSPORT="udp") as stream,
    ):
        settle(stream)
        capture_some(stream, kind, lossy=True)


@pytest.mark.parametrize(
    ("server", "transport"),
    [
        (foreign_servers.vlc, "tcp"),
        (foreign_servers.espp, "tcp"),
        (foreign_servers.aio_rtsp, "udp"),
    ],
)
def test_a_refused_transport_is_told(server: Server, transport: str, tmp_path: Path) -> None:
    with (
        server(clip("h264-720p25-gop25"), tmp_path) as url,
        stream_of(url, RTSP_TRANSPORT=transport) as stream,
    ):
        deadline_s = time.monotonic() + PATIENCE_S
        while stream.status().error != "refuses this transport (461)":
            assert time.monotonic() < deadline_s, stream.status()
            stream.pause(0.02)
        assert stream.status().hint == "Set RTSP_TRANSPORT to the other one of tcp and udp."
