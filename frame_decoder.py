"""From coded pictures to a JPEG: one GOP's beginning is decoded, up to the wanted picture.

The only module that knows FFmpeg (through PyAV); OpenCV is known to `picture_gate` too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final, Literal

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags

Bgr = npt.NDArray[np.uint8]
"""A picture as OpenCV holds it: uint8, (height, width, 3), blue first."""

_THUMBNAIL_WIDTH: Final = 320
_THUMBNAIL_QUALITY: Final = 80
_MAX_DECODER_THREADS: Final = 8
_FFMPEG_NAMES: Final[dict[str, Literal["h264", "hevc"]]] = {"h264": "h264", "h265": "hevc"}


class EncodeError(Exception):
    """A picture can't be made a JPEG."""


def set_up_opencv() -> None:
    """Let OpenCV be silent and leave the cores to the decoder, for the whole process."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    cv2.setNumThreads(1)


class Decoded:
    """A decoded picture, and the place in decoding order of the coded one it came of.

    `is_whole` is what FFmpeg says: nothing was concealed. H.265 says it of references too.
    """

    def __init__(self, number: int, frame: av.VideoFrame) -> None:
        self.number = number
        self.is_whole = not frame.is_corrupt
        self._frame = frame

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height in pixels."""
        return self._frame.width, self._frame.height

    def bgr(self) -> Bgr:
        """Return the picture's pixels."""
        plane = self._frame.reformat(format="bgr24").planes[0]
        rows = np.asarray(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        packed = np.ascontiguousarray(rows[:, : plane.width * 3])
        return packed.reshape(plane.height, plane.width, 3)


class GopDecoder:
    """Decode one GOP, h264 or h265 in Annex B, picture by picture from its keyframe on.

    What can't be decoded is left out. A decoder holds some pictures back: `flush` is its end.
    """

    def __init__(self, codec: str) -> None:
        self._context = av.CodecContext.create(_FFMPEG_NAMES[codec], "r")
        self._context.thread_count = min(_MAX_DECODER_THREADS, os.cpu_count() or 1)
        self._context.thread_type = "FRAME"
        self._context.flags |= Flags.output_corrupt
        self._fed = 0

    def feed(self, picture: bytes) -> list[Decoded]:
        """Take the next picture, whole, and return what has come out: of this or earlier ones."""
        # A packet around Python's own bytes would be freed by a decoder's thread, which has to wait
        # for the interpreter: a deadlock when the interpreter waits for that thread.
        packet = av.Packet(len(picture))
        packet.update(picture)
        packet.pts = packet.dts = self._fed
        self._fed += 1
        if not picture:
            return []
        with suppress(av.FFmpegError):
            return _numbered(self._context.decode(packet))
        return []

    def flush(self) -> list[Decoded]:
        """Return what is left."""
        try:
            return _numbered(self._context.decode(None))
        except av.FFmpegError:
            return []
        finally:  # threads still at work would be waited for with the interpreter locked
            self._context.flush_buffers()


def _numbered(frames: Iterable[av.VideoFrame]) -> list[Decoded]:
    return [Decoded(frame.pts, frame) for frame in frames if frame.pts is not None]


def decode(codec: str, pictures: Sequence[bytes]) -> Iterator[Decoded]:
    """Decode a GOP's beginning; its pictures come in the order they are shown."""
    decoder = GopDecoder(codec)
    for picture in pictures:
        yield from decoder.feed(picture)
    rest = decoder.flush()
    del decoder  # its memory is as much as the pictures'
    yield from rest


def size_of(codec: str, keyframe: bytes) -> tuple[int, int] | None:
    """Return a keyframe's or a JPEG's width and height in pixels, `None` if they can't be told."""
    if codec == "mjpeg":
        bgr = decode_jpeg(keyframe)
        return None if bgr is None else (bgr.shape[1], bgr.shape[0])
    return next((decoded.size for decoded in decode(codec, (keyframe,))), None)


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
