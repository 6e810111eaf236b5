"""The simulator's three cameras for tests, and the moments of their frames."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from demo import frame_number
from simulator import clip
from simulator.rtsp_camera import SimulatedCamera
from tests.rigs.streams import EARLY_S, LATE_S

CLIPS = Path(__file__).parents[2] / "demo" / "clips"
NAMES = ("entry", "exit", "aux")
_EDGE_LATE_S = 0.2  # with three busy loops beside two cores it is 2 ms
_CLOCKS_S = 0.004  # times are told in ms, and read off two clocks one after the other


class Gates:
    """Cameras 1 to 3 at one password."""

    def __init__(self, user: str, password: str) -> None:
        self.user = user
        self.password = password
        self.cameras = {
            number: SimulatedCamera(clip.load(CLIPS / f"{name}.h264"), user=user, password=password)
            for number, name in enumerate(NAMES, 1)
        }

    def url(self, number: int, password: str | None = None, path: str = "stream1") -> str:
        """Return the address of a camera, with this password or the right one."""
        secret = quote(self.password if password is None else password, safe="")
        port = self.cameras[number].port
        return f"rtsp://{quote(self.user, safe='')}:{secret}@127.0.0.1:{port}/{path}"

    def check_picture(self, image: dict[str, Any], jpeg: bytes, pulled_s: float) -> None:
        """Check that an edge is its pull and that a picture is its edge's, on a busy machine too.

        Such a machine hears of an edge late, and of a picture. None of both excuses the choice of
        another picture than the nearest to the edge as it was heard.
        """
        edge_s = monotonic_s(datetime.fromisoformat(image["captured_at"]))
        assert -_CLOCKS_S <= edge_s - pulled_s <= _EDGE_LATE_S
        said_s, camera = image["offset_ms"] / 1000, int(image["camera"][1])
        assert -EARLY_S <= said_s - self.offset_s(camera, jpeg, edge_s) <= LATE_S
        assert abs(said_s) <= 0.5 / self.cameras[camera].clip.fps + _CLOCKS_S

    def offset_s(self, number: int, jpeg: bytes, moment_s: float) -> float:
        """Return when a picture was shot, less a moment of the monotonic clock."""
        camera = self.cameras[number]
        picture, length = number_in(jpeg), len(camera.clip.pictures)
        turns = round((camera.frame_at(moment_s) - picture) / length)
        return camera.moment_of(picture + turns * length) - moment_s


def monotonic_s(at: datetime) -> float:
    """Return what the monotonic clock showed at a time of the wall clock."""
    return at.timestamp() - time.time() + time.monotonic()


@contextmanager
def gates(user: str, password: str) -> Iterator[Gates]:
    """Run the three cameras while the context lasts."""
    found = Gates(user, password)
    try:
        for camera in found.cameras.values():
            camera.start()
        yield found
    finally:
        for camera in found.cameras.values():
            camera.stop()


def number_in(jpeg: bytes) -> int:
    """Return the frame number drawn into a picture.

    Raises:
        AssertionError: it can't be read.
    """
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    number = frame_number.read(np.asarray(bgr, np.uint8))
    assert number is not None, "the frame number can't be read"
    return number
