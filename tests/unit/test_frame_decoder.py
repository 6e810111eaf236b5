"""Decoding ahead of the wanted picture, with streams that a decoder does not like."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from frame_decoder import Bgr, EarlyDecode, set_up_opencv
from nal_units import START_CODE
from simulator import clip

CLIP = clip.load(Path(__file__).parents[2] / "demo" / "clips" / "entry.h264")
WAIT_S = 20.0
FILLER = START_CODE + b"\x0c" + b"\xff" * 3_000_000 + b"\x80"  # more than any pipe holds


def pictures(count: int) -> list[bytes]:
    return [b"".join(START_CODE + nal for nal in one.nals) for one in CLIP.pictures[:count]]


def within_time(work: Callable[[], Bgr | None]) -> Bgr | None:
    """Return what `work` returns, and fail when it hangs."""
    set_up_opencv()
    found: list[Bgr | None] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(WAIT_S)
    assert found, "it hangs"
    return found[0]


def test_more_bytes_than_the_pipe_holds_once_the_decoder_waits() -> None:
    given = pictures(4)

    def work() -> Bgr | None:
        early = EarlyDecode(given[:1], 1)
        return early.finish([*given[:3], FILLER + given[3]], 4)

    assert within_time(work) is not None


def test_a_keyframe_larger_than_the_pipe_that_is_the_wanted_picture_or_before_it() -> None:
    key, *others = pictures(3)
    large = key + FILLER

    def work() -> Bgr | None:
        return EarlyDecode([large], 1).finish([large, *others], 3)

    assert within_time(work) is not None


def test_a_stream_that_cannot_be_decoded_holds_nobody_up() -> None:
    noise = [START_CODE + b"\x65" + bytes(range(1, 256)) * 8000] * 3
    assert within_time(lambda: EarlyDecode(noise, 3).finish([*noise, noise[0]], 4)) is None


def test_an_abandoned_decode_ends() -> None:
    def work() -> Bgr | None:
        EarlyDecode([*pictures(2), FILLER], 2).abandon()
        return None

    assert within_time(work) is None
