"""From coded pictures to a JPEG: one GOP's beginning is decoded, up to the wanted picture.

The only module that knows FFmpeg (through PyAV); OpenCV is known to `picture_checks` too.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, Literal

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags

from rtsp.nal_units import START_CODE, holds_slice

Bgr = npt.NDArray[np.uint8]
"""A picture as OpenCV holds it: uint8, (height, width, 3), blue first."""

_THUMBNAIL_WIDTH: Final = 320
_THUMBNAIL_QUALITY: Final = 80
_MAX_DECODER_THREADS: Final = 8
_ANY_SIZE: Final = (1 << 31) - 1  # FFmpeg's own limit
_FFMPEG_NAMES: Final[dict[str, Literal["h264", "hevc"]]] = {"h264": "h264", "h265": "hevc"}

_ENDS_OF_SEQUENCE: Final = {"h264": START_CODE + b"\x0a", "h265": START_CODE + b"\x48\x01"}
_UNSPECIFIED_MATRIX: Final = 2
_KNOWN_MATRICES: Final = frozenset({0, 1, 2, 4, 5, 6, 7, 9})  # of H.273, those swscale converts


class PictureError(Exception):
    """A picture can't be decoded, converted or encoded; the text says why, `hint` what to do."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


def set_up_opencv() -> None:
    """Silence OpenCV and leave the cores to the decoder, for the whole process."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    cv2.setNumThreads(1)


class Decoded:
    """A decoded picture; `number` is its place in its GOP, in decoding order, from 0."""

    def __init__(self, number: int, frame: av.VideoFrame) -> None:
        self.number = number
        self._frame = frame

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height in pixels."""
        return self._frame.width, self._frame.height

    def bgr(self) -> Bgr:
        """Return the picture's pixels. Raises `PictureError`."""
        if self._frame.colorspace not in _KNOWN_MATRICES:
            self._frame.colorspace = _UNSPECIFIED_MATRIX
        try:
            plane = self._frame.reformat(format="bgr24").planes[0]
        except av.FFmpegError as error:
            raise PictureError(f"the picture's colours can't be converted: {error}") from error
        rows = np.asarray(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        packed = np.ascontiguousarray(rows[:, : plane.width * 3])
        return packed.reshape(plane.height, plane.width, 3)


class GopDecoder:
    """Decode one GOP, h264 or h265 in Annex B, picture by picture from its keyframe on.

    What can't be decoded is left out. The decoder holds some pictures back until `flush`, after
    which it can't be used. Pictures of more than `max_pixels` are not decoded.

    Raises:
        PictureError: the pictures are larger than that.
    """

    def __init__(self, codec: str, max_pixels: int = _ANY_SIZE) -> None:
        self._codec = codec
        self._max_pixels = max_pixels
        self._threads = min(_MAX_DECODER_THREADS, os.cpu_count() or 1)
        self._context = av.CodecContext.create(_FFMPEG_NAMES[codec], "r")
        self._context.thread_count = self._threads
        self._context.thread_type = "FRAME"
        self._context.flags |= Flags.output_corrupt
        self._context.options = {"max_pixels": str(max_pixels)}
        self._fed: list[bytes] = []
        self._came: set[int] = set()
        self._concealed: set[int] = set()
        self._failed = False

    def decode(self, pictures: Sequence[bytes]) -> Iterator[Decoded]:
        """Decode a GOP's beginning; yield its pictures in the order they are shown."""
        for picture in pictures:
            yield from self.feed(picture)
        yield from self.flush()

    def feed(self, picture: bytes) -> list[Decoded]:
        """Feed the next whole picture; return what comes out, this one or earlier ones."""
        self._fed.append(picture)
        return self._take(picture, len(self._fed) - 1) if picture else []

    def flush(self) -> list[Decoded]:
        """Return what is left and free the decoder, which holds as much memory as the pictures."""
        # Each thread has a picture under way. Asked for all of them at once, PyAV stops at the
        # first that fails; another packet asks for one.
        end = _ENDS_OF_SEQUENCE[self._codec]
        left = [decoded for _ in range(self._threads) for decoded in self._take(end, None)]
        with suppress(av.FFmpegError):
            left += self._numbered(self._context.decode(None))
        del self._context
        return left

    def is_whole(self, number: int) -> bool:
        """Tell whether a picture, and every picture it depends on, was decoded completely.

        Certain only after `flush`. The H.265 decoder knows the dependencies; an H.264 picture is
        assumed to depend on all pictures before it.
        """
        if any(concealed <= number for concealed in self._concealed):
            return False
        return not self._failed or all(
            earlier in self._came or not holds_slice(self._fed[earlier], self._codec)
            for earlier in range(number)
        )

    def _take(self, data: bytes, number: int | None) -> list[Decoded]:
        packet = _packet(data)
        packet.pts = packet.dts = number
        try:
            return self._numbered(self._context.decode(packet))
        except av.FFmpegError:
            self._failed = True
            if self._context.width * self._context.height > self._max_pixels:
                size = f"{self._context.width} x {self._context.height}"
                raise _too_large(f"have {size} pixels, more", self._max_pixels) from None
            return []

    def _numbered(self, frames: Iterable[av.VideoFrame]) -> list[Decoded]:
        found = []
        for frame in frames:
            if frame.pts is None:
                continue
            self._came.add(frame.pts)
            # What is shown before the keyframe needs an earlier GOP, and nothing depends on it.
            if frame.is_corrupt and 0 in self._came:
                self._concealed.add(frame.pts)
            found.append(Decoded(frame.pts, frame))
        return found


def size_of(codec: str, keyframe: bytes, max_pixels: int = _ANY_SIZE) -> tuple[int, int] | None:
    """Return width and height in pixels of a keyframe or JPEG; `None` if it can't be decoded.

    Raises:
        PictureError: it is larger than `max_pixels`.
    """
    if codec == "mjpeg":
        found = decode_jpeg(keyframe, max_pixels)
        return None if found is None else (found[0].shape[1], found[0].shape[0])
    decoder = GopDecoder(codec, max_pixels)
    return next((decoded.size for decoded in decoder.decode((keyframe,))), None)


def decode_jpeg(jpeg: bytes, max_pixels: int = _ANY_SIZE) -> tuple[Bgr, bool] | None:
    """Return the picture of a JPEG and whether it is complete; `None` when it can't be decoded.

    Raises:
        PictureError: it is larger than `max_pixels`, or its colours can't be converted.
    """
    for complete in (True, False):
        context = av.CodecContext.create("mjpeg", "r")
        context.thread_count = 1
        context.options = {"max_pixels": str(max_pixels)}
        if complete:
            context.options |= {"err_detect": "explode"}
        try:
            frames = [*context.decode(_packet(jpeg)), *context.decode(None)]
        except av.FFmpegError as error:
            if error.errno == errno.EINVAL:  # what is broken is called invalid data instead
                raise _too_large("have more pixels", max_pixels) from None
            continue
        if frames:
            return Decoded(0, frames[0]).bgr(), complete
    return None


def _packet(data: bytes) -> av.Packet[Any]:
    """Return a packet that owns its bytes.

    One around Python's own would be freed by a decoder's thread, which has to wait for the
    interpreter: a deadlock when the interpreter waits for that thread.
    """
    packet = av.Packet(len(data))
    packet.update(data)
    return packet


def _too_large(what: str, max_pixels: int) -> PictureError:
    return PictureError(
        f"its pictures {what} than CAMERA_MAX_MEGAPIXELS allows ({max_pixels / 1e6:g} million)",
        "Set a smaller resolution in the camera, or raise CAMERA_MAX_MEGAPIXELS if this computer"
        " has the memory for it.",
    )


def encode_jpeg(bgr: Bgr, quality: int) -> bytes:
    """Return a picture as JPEG. Raises `PictureError`."""
    done, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise PictureError("the picture could not be encoded as JPEG")
    return bytes(jpeg.tobytes())


def thumbnail(bgr: Bgr) -> bytes:
    """Return a small JPEG, 320 pixels wide. Raises `PictureError`."""
    return encode_jpeg(reduced(bgr, _THUMBNAIL_WIDTH), _THUMBNAIL_QUALITY)


def reduced(bgr: Bgr, width: int) -> Bgr:
    """Scale a picture to `width` pixels; each pixel is the mean of those it replaces."""
    size = (width, max(1, round(width * bgr.shape[0] / bgr.shape[1])))
    return np.asarray(cv2.resize(bgr, size, interpolation=cv2.INTER_AREA), np.uint8)
