"""From undecoded packets to a JPEG: one GOP's beginning is decoded, up to the wanted picture.

Beside `picture_gate` the only module that knows OpenCV.
"""

from __future__ import annotations

import fcntl
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

Bgr = npt.NDArray[np.uint8]
"""A picture as OpenCV holds it: uint8, (height, width, 3), blue first."""

_THUMBNAIL_WIDTH: Final = 320
_THUMBNAIL_QUALITY: Final = 80
_MAX_DECODER_THREADS: Final = 8
_PIPE_BYTES: Final = 1_000_000
_FEED_S: Final = 5.0
_FEED_TURN_MS: Final = 10
_F_SETPIPE_SZ: Final = getattr(fcntl, "F_SETPIPE_SZ", 1031)


class EncodeError(Exception):
    """A picture can't be made a JPEG."""


def set_up_opencv() -> None:
    """Set what OpenCV and its FFmpeg read from the environment, for the whole process."""
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "analyzeduration;0|probesize;5000"
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # Without it one lock is held while a file is opened. FFmpeg is safe for threads since 4.0.
    os.environ.setdefault("OPENCV_FFMPEG_IS_THREAD_SAFE", "1")
    threads = min(_MAX_DECODER_THREADS, os.cpu_count() or 1)
    os.environ.setdefault("OPENCV_FFMPEG_THREADS", str(threads))
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    cv2.setNumThreads(1)


def decode(
    packets: Sequence[bytes], wanted: Container[int], last: int, keep: Callable[[int, Bgr], None]
) -> int:
    """Decode `packets` up to frame number `last` and return how many frames came.

    Frames count from 1; those `wanted` are handed to `keep`. A memory file is what every OpenCV
    from 4.6 on reads a bare H.264 or H.265 stream from.
    """
    with _opened(packets) as decoder:
        came = 0
        while came < last and decoder.grab():
            came += 1
            if came in wanted:
                found, bgr = decoder.retrieve()
                if found:
                    keep(came, np.asarray(bgr, np.uint8))
        return came


def size_of(keyframe: bytes) -> tuple[int, int] | None:
    """Return the width and height in pixels of a keyframe or a JPEG, `None` if they can't be told.

    Nothing is decoded.
    """
    with _opened((keyframe,)) as decoder:
        width = int(decoder.get(cv2.CAP_PROP_FRAME_WIDTH))
        height = int(decoder.get(cv2.CAP_PROP_FRAME_HEIGHT))
        return (width, height) if width > 0 and height > 0 else None


@contextmanager
def _opened(packets: Sequence[bytes]) -> Iterator[cv2.VideoCapture]:
    """Open packets as a stream."""
    descriptor = os.memfd_create("gop")
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.writelines(packets)
        decoder = cv2.VideoCapture(f"/proc/self/fd/{descriptor}", cv2.CAP_FFMPEG)
        try:
            yield decoder
        finally:
            decoder.release()
    finally:
        os.close(descriptor)


class EarlyDecode:
    """Decode what is there of a GOP while the wanted picture's packets are still to come.

    `packets` hold `frames` frames; the wanted one is the last of them or a later one. A pipe,
    unlike a file, makes the decoder wait for more. What it does not take yet is kept for later:
    a decoder that has enough, or has given up, must not hold up whoever feeds it.
    """

    def __init__(self, packets: Sequence[bytes], frames: int) -> None:
        self._fed: tuple[bytes, ...] = ()
        self._rest: deque[memoryview] = deque()
        self._before_wanted = frames - 1
        self._wanted: int | None = None
        self._has_enough = threading.Event()
        self._decided = threading.Event()
        self._bgr: Bgr | None = None
        reading, self._writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._writing, False)
        with suppress(OSError):
            fcntl.fcntl(self._writing, _F_SETPIPE_SZ, _PIPE_BYTES)
        self._thread = threading.Thread(
            target=self._run, args=(reading,), name="early-decode", daemon=True
        )
        self._thread.start()
        self._feed(packets)

    def finish(self, packets: Sequence[bytes], frames: int) -> Bgr | None:
        """Return frame number `frames` of `packets`, which begin with those given before.

        `None`: it did not come, or the packets are others.
        """
        same = all(fed is packet for fed, packet in zip(self._fed, packets, strict=False))
        if same and len(packets) >= len(self._fed) and frames > self._before_wanted:
            self._wanted = frames
            self._decided.set()
            self._feed(packets[len(self._fed) :])
        self._end()
        return None if self._rest else self._bgr

    def abandon(self) -> None:
        """Decode no more."""
        self._end()

    def _feed(self, packets: Sequence[bytes]) -> None:
        self._fed += tuple(packets)
        self._rest.extend(memoryview(packet) for packet in packets if packet)
        room = select.poll()
        room.register(self._writing, select.POLLOUT)
        given_up_s = time.monotonic() + _FEED_S
        with suppress(BrokenPipeError):  # the decoder has given up
            while self._rest and time.monotonic() < given_up_s:
                if room.poll(_FEED_TURN_MS):
                    rest = self._rest.popleft()
                    if left := rest[os.write(self._writing, rest) :]:
                        self._rest.appendleft(left)
                elif self._has_enough.is_set() and not self._decided.is_set():
                    return

    def _end(self) -> None:
        self._decided.set()
        os.close(self._writing)
        self._thread.join()

    def _run(self, reading: int) -> None:
        try:
            decoder = cv2.VideoCapture(f"/proc/self/fd/{reading}", cv2.CAP_FFMPEG)
        finally:
            os.close(reading)
        try:
            came = 0
            while came < self._before_wanted and not self._is_abandoned():
                if not decoder.grab():
                    return
                came += 1
            self._has_enough.set()
            self._decided.wait()
            while came < (self._wanted or 0) and decoder.grab():
                came += 1
            if came == self._wanted:
                found, bgr = decoder.retrieve()
                self._bgr = np.asarray(bgr, np.uint8) if found else None
        finally:
            decoder.release()

    def _is_abandoned(self) -> bool:
        return self._decided.is_set() and self._wanted is None


def decode_jpeg(jpeg: bytes) -> Bgr | None:
    """Return the picture of a JPEG, `None` when it is none."""
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return None if bgr is None else np.asarray(bgr, np.uint8)


def encode_jpeg(bgr: Bgr, quality: int) -> bytes:
    """Return a picture as JPEG. Raises `EncodeError`."""
    done, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise EncodeError("the picture could not be encoded as JPEG")
    return bytes(jpeg.tobytes())


def thumbnail(bgr: Bgr) -> bytes:
    """Return a small JPEG, 320 pixels wide. Raises `EncodeError`."""
    return encode_jpeg(reduced(bgr, _THUMBNAIL_WIDTH), _THUMBNAIL_QUALITY)


def reduced(bgr: Bgr, width: int) -> Bgr:
    """Return a picture made `width` pixels wide, every pixel the mean of those it stands for."""
    size = (width, max(1, round(width * bgr.shape[0] / bgr.shape[1])))
    return np.asarray(cv2.resize(bgr, size, interpolation=cv2.INTER_AREA), np.uint8)
