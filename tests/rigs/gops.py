"""Whole GOPs in memory, picture by picture in decoding order, for what decodes them."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from rtsp.nal_units import START_CODE
from simulator import clip

CLIP = Path(__file__).parents[2] / "demo" / "clips" / "entry.h264"
NO_PICTURE = START_CODE + b"\x0c\x80"  # filler data


def h264(count: int) -> list[bytes]:
    """Return the first pictures of the demo's clip: one GOP without B-frames."""
    pictures = clip.load(CLIP).pictures[:count]
    return [b"".join(START_CODE + nal for nal in picture.nals) for picture in pictures]


@functools.cache
def h265(b_frames: int = 0) -> tuple[bytes, ...]:
    """Encode 50 pictures of noise that moves: one GOP of H.265."""
    return encode("libx265", f"bframes={b_frames}:b-adapt=0:keyint=100", moving_noise(50))


@functools.cache
def h264_open(count: int) -> tuple[bytes, ...]:
    """Encode two GOPs of H.264, whose second begins with pictures that build on the first."""
    options = "open-gop=1:bframes=2:b-adapt=0:keyint=20:min-keyint=20:repeat-headers=1"
    return encode("libx264", options, moving_noise(count))


def moving_noise(count: int) -> Iterable[av.VideoFrame]:
    """Make pictures of 320 by 240 pixels that have much to encode, none like another."""
    noise = np.random.default_rng(1).integers(0, 255, (240, 320, 3), np.uint8)
    return (frame_of(np.roll(noise, number, axis=1)) for number in range(count))


def frame_of(bgr: npt.NDArray[np.uint8]) -> av.VideoFrame:
    """Return a picture as an encoder takes it."""
    return av.VideoFrame.from_ndarray(bgr, format="bgr24")


def encode(codec: str, options: str, frames: Iterable[av.VideoFrame]) -> tuple[bytes, ...]:
    """Encode with libx264 or libx265; `options` are x264's or x265's own."""
    pictures = list(frames)
    encoder = av.CodecContext.create(codec, "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = (
        pictures[0].width,
        pictures[0].height,
        "yuv420p",
    )
    encoder.framerate, encoder.time_base = Fraction(25), Fraction(1, 25)
    encoder.options = {f"{codec.removeprefix('lib')}-params": f"scenecut=0:log-level=0:{options}"}
    coded = []
    for number, picture in enumerate(pictures):
        picture.pts = number
        coded += encoder.encode(picture)
    return tuple(bytes(packet) for packet in (*coded, *encoder.encode(None)))
