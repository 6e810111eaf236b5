"""Prove the RTSP rig honest: what the other integration tests measure with it rests on this."""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from tests.rigs import clips, rtsp

BOUND_S = 60.0
OPTIONS = "rtsp_transport;tcp|analyzeduration;0|probesize;5000"

needs_server = pytest.mark.skipif(rtsp.missing() is not None, reason=str(rtsp.missing()))


class Seen(NamedTuple):
    frame_number: int | None
    arrival_s: float


@contextmanager
def opened(source: str, *params: int) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, list(params))
    try:
        yield capture
    finally:
        capture.release()


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", OPTIONS)


def watch(url: str, frames: int) -> list[Seen]:
    """Decode a live stream until so many consecutive frames were read undamaged."""
    seen: list[Seen] = []
    give_up = time.monotonic() + BOUND_S
    # One read may last until the next keyframe, since the camera is joined in the middle of a GOP.
    timeouts = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 6000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 15000)
    with opened(url, *timeouts) as capture:
        assert capture.isOpened()
        while len(seen) < frames and time.monotonic() < give_up:
            ok, bgr = capture.read()
            arrival_s = time.monotonic()
            assert ok
            number = clips.read_frame_number(bgr)
            if number is None:
                seen.clear()  # joined in the middle of a GOP
            else:
                seen.append(Seen(number, arrival_s))
    assert len(seen) == frames
    return seen


def describe(url: str) -> str:
    """Return the server's answer to a DESCRIBE without credentials."""
    port = int(re.findall(r":(\d+)/", url)[0])
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(f"DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
        return connection.recv(4096).decode()


# The clips that tests use; the others are for benches.
USED = [name for name in clips.SPECS if name != "h265-1080p25-gop50"]


def wait_for_shots(server: rtsp.RtspServer, mount: str, count: int) -> list[rtsp.Shot]:
    give_up = time.monotonic() + BOUND_S
    while len(shots := server.shots(mount)) < count:
        assert time.monotonic() < give_up
        select.select([], [], [], 0.02)
    return shots


@pytest.mark.parametrize("name", USED)
def test_clip_carries_its_frame_numbers(name: str) -> None:
    full: list[int | None] = []
    small: list[int | None] = []
    with opened(str(clips.clip(name))) as capture:
        while (read := capture.read())[0]:
            full.append(clips.read_frame_number(read[1]))
            thumbnail = cv2.resize(read[1], (320, 180), interpolation=cv2.INTER_AREA)
            small.append(clips.read_frame_number(thumbnail))
    expected = list(range(clips.SPECS[name].frames))
    assert full == expected
    assert small == expected
    assert len(expected) % clips.SPECS[name].gop == 0


def test_damaged_picture_has_no_number() -> None:
    with opened(str(clips.clip("h264-720p25-gop25"))) as capture:
        pictures = [capture.read()[1] for _ in range(20)]
    torn = pictures[3].copy()
    torn[400:] = pictures[19][400:]  # the lower slices are of another picture
    grey = np.full_like(pictures[3], 128)
    mixed = ((pictures[3].astype(np.uint16) + pictures[19]) // 2).astype(np.uint8)
    assert clips.read_frame_number(pictures[3]) == 3
    assert [clips.read_frame_number(bgr) for bgr in (torn, grey, mixed)] == [None, None, None]


def test_clip_is_made_once_and_leaves_no_part_behind(tmp_path: Path) -> None:
    first = clips.clip("mjpeg-720p25", tmp_path)
    made_at = first.stat().st_mtime_ns
    assert clips.clip("mjpeg-720p25", tmp_path).stat().st_mtime_ns == made_at
    assert list(tmp_path.iterdir()) == [first]


@needs_server
@pytest.mark.usefixtures("live")
@pytest.mark.parametrize("name", USED)
def test_served_stream_shows_the_logged_shots(name: str) -> None:
    total = clips.SPECS[name].frames
    with rtsp.RtspServer({"/cam1": clips.clip(name)}) as server:
        seen = watch(server.url("/cam1"), frames=30)
        wait_for_shots(server, "/cam1", 30)
        delays_s = [-server.offset_of("/cam1", int(s.frame_number or 0), s.arrival_s) for s in seen]
    numbers = [s.frame_number for s in seen]
    assert numbers == [((numbers[0] or 0) + place) % total for place in range(30)]
    assert min(delays_s) > 0  # nothing is seen before it is shot
    assert float(np.median(delays_s)) < 2


@needs_server
@pytest.mark.usefixtures("live")
@pytest.mark.parametrize(("sets", "packets"), [("per-keyframe", 1), ("per-slice", 4)])
def test_slices_of_a_keyframe_come_apart_on_request(sets: str, packets: int) -> None:
    clip = clips.clip("h264-720p25-gop50-zerolatency")
    with (
        rtsp.RtspServer({"/cam1": clip}, sets=sets) as server,
        opened(server.url("/cam1"), cv2.CAP_PROP_FORMAT, -1) as capture,
    ):
        times_ms: list[float] = []
        give_up = time.monotonic() + BOUND_S
        while time.monotonic() < give_up:
            assert capture.read()[0]
            if capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME):
                times_ms.append(capture.get(cv2.CAP_PROP_POS_MSEC))
            elif times_ms:
                break
    assert len(times_ms) == packets
    assert len(set(times_ms)) == 1


@needs_server
@pytest.mark.usefixtures("live")
def test_two_clients_share_one_camera() -> None:
    with rtsp.RtspServer({"/cam1": clips.clip("h264-720p25-gop25")}) as server:
        with opened(server.url("/cam1")) as other:
            assert other.read()[0]
            seen = watch(server.url("/cam1"), frames=5)
        moments_s = [shot.moment_s for shot in wait_for_shots(server, "/cam1", 5)]
        assert moments_s == sorted(set(moments_s))  # one log line a frame, not one a client
        assert abs(server.offset_of("/cam1", int(seen[-1].frame_number or 0), time.monotonic())) < 2


@needs_server
@pytest.mark.usefixtures("live")
def test_wrong_password_is_refused() -> None:
    clip = clips.clip("h264-720p25-gop25")
    with rtsp.RtspServer({"/cam1": clip}, user="admin", password="s3:cr/t@") as server:
        answer = describe(server.url("/cam1"))
        assert answer.startswith("RTSP/1.0 401 ")
        assert re.search(r"^WWW-Authenticate: Digest ", answer, re.M | re.I)
        assert "Basic" not in answer
        for user, password in ((None, None), ("admin", "wrong"), ("nobody", "s3:cr/t@")):
            with opened(server.url("/cam1", user, password)) as capture:
                assert not capture.isOpened()
        assert watch(server.url("/cam1", "admin", "s3:cr/t@"), frames=3)


@needs_server
def test_frozen_camera_shoots_nothing_and_goes_on_without_a_backlog() -> None:
    cameras = {"/cam1": clips.clip("h264-720p25-gop25"), "/cam2": clips.clip("mjpeg-720p25")}
    with rtsp.RtspServer(cameras) as server:
        wait_for_shots(server, "/cam1", 5)
        server.freeze("/cam1")
        frozen = server.shots("/cam1")
        wait_for_shots(server, "/cam2", len(server.shots("/cam2")) + 25)
        assert server.shots("/cam1") == frozen
        resumed_s = time.monotonic()
        server.resume("/cam1")
        after = wait_for_shots(server, "/cam1", len(frozen) + 10)[len(frozen) :]
    assert [shot.frame_number for shot in after] == [
        len(frozen) + place for place in range(len(after))
    ]
    assert after[0].moment_s >= resumed_s
    assert after[9].moment_s - after[0].moment_s > 4 / clips.FPS  # paced, not in one burst


@needs_server
@pytest.mark.usefixtures("live")
def test_killed_camera_comes_back_on_its_port() -> None:
    with rtsp.RtspServer({"/cam1": clips.clip("h264-720p25-gop25")}) as server:
        url = server.url("/cam1")
        wait_for_shots(server, "/cam1", 3)
        server.kill()
        shots = server.shots("/cam1")
        with pytest.raises(ConnectionRefusedError):
            describe(url)
        server.restart()
        assert server.url("/cam1") == url
        again = wait_for_shots(server, "/cam1", len(shots) + 3)[len(shots) :]
        assert again[0].frame_number == 0
        assert watch(url, frames=3)
        pid = server.pid
    assert not Path(f"/proc/{pid}").exists()


@needs_server
def test_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match=r"cannot read .*missing\.mkv"),
        rtsp.RtspServer({"/cam1": tmp_path / "missing.mkv"}),
    ):
        pass


@needs_server
def test_shots_are_found_by_time_and_number() -> None:
    with rtsp.RtspServer({"/cam1": clips.clip("mjpeg-720p25")}) as server:
        with pytest.raises(LookupError):
            server.nearest_shot("/nowhere", 0)
        shots = wait_for_shots(server, "/cam1", 10)
        assert server.nearest_shot("/cam1", shots[4].moment_s + 0.001) == shots[4]
        assert server.nearest_shot("/cam1", 0) == shots[0]
        assert server.offset_of("/cam1", 4, shots[4].moment_s - 0.5) == pytest.approx(0.5)
        with pytest.raises(LookupError):
            server.offset_of("/cam1", 65535, 0)
