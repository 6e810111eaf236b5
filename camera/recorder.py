"""A camera recorded as our own client hears it, for those who have to find out what it does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Final

from config import CameraConfig
from rtsp.errors import SILENT, Diagnosis, RtspError
from rtsp.recording import Recorder
from rtsp.session import RtspSession

_OPEN_TIMEOUT_S: Final = 10.0  # as the daemon has it
_READ_TIMEOUT_S: Final = 0.5


@dataclass(frozen=True)
class Recorded:
    """What came of a recording; `cut_short` says why it holds less than was asked for."""

    failure: Diagnosis | None
    cut_short: str


def record(
    camera: CameraConfig,
    transport: str,
    duration_s: float,
    file: BinaryIO,
    say: Callable[[str], None],
) -> Recorded:
    """Write down what a camera says and sends for `duration_s`, or until it fails.

    Blocks for up to 10 s more, until the camera plays. Ctrl-C ends it early.
    """
    recorder = Recorder(file, camera.url, transport)
    failure: Diagnosis | None = None
    try:
        _run(recorder, camera.url, transport, duration_s, say)
        if not recorder.packets:
            failure = SILENT
    except RtspError as error:
        failure = error.diagnosis
    except KeyboardInterrupt:
        recorder.problem = recorder.problem or "stopped by hand"
    recorder.end(failure)
    say(_progress(recorder))
    return Recorded(failure, recorder.problem)


def _run(
    recorder: Recorder, url: str, transport: str, duration_s: float, say: Callable[[str], None]
) -> None:
    session = RtspSession(url, transport, _OPEN_TIMEOUT_S, tap=recorder.tap)
    try:
        until_s = time.monotonic() + duration_s
        next_s = time.monotonic() + 1
        while (left_s := until_s - time.monotonic()) > 0 and not recorder.problem:
            session.read(min(_READ_TIMEOUT_S, left_s))
            if time.monotonic() >= next_s:
                next_s += 1
                recorder.flush()
                say(_progress(recorder))
    finally:
        session.close()


def _progress(recorder: Recorder) -> str:
    kilobytes = recorder.received_bytes // 1000
    return f"{recorder.now_s():4.0f} s: {recorder.packets} packets, {kilobytes} kB"
