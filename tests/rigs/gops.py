"""Whole GOPs in memory, picture by picture, for what decodes them."""

from __future__ import annotations

import functools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from nal_units import START_CODE
from simulator import clip

CLIP = Path(__file__).parents[2] / "demo" / "clips" / "entry.h264"
NO_PICTURE = START_CODE + b"\x0c\x80"  # filler data


def h264(count: int) -> list[bytes]:
    """Return the first pictures of the demo's clip: one GOP without B-frames."""
    pictures = clip.load(CLIP).pictures[:count]
    return [b"".join(START_CODE + nal for nal in picture.nals) for picture in pictures]


@functools.cache
def h265() -> tuple[bytes, ...]:
    """Encode 50 pictures of noise that moves, 320 by 240: one GOP without B-frames."""
    encoder = av.CodecContext.create("libx265", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 320, 240, "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(25), Fraction(1, 25)
    encoder.options = {"x265-params": "bframes=0:keyint=100:scenecut=0:log-level=none"}
    noise = np.random.default_rng(1).integers(0, 255, (240, 320, 3), np.uint8)
    coded = []
    for number in range(50):
        frame = av.VideoFrame.from_ndarray(np.roll(noise, number, axis=1), format="bgr24")
        frame.pts = number
        coded += encoder.encode(frame)
    return tuple(bytes(packet) for packet in (*coded, *encoder.encode(None)))
