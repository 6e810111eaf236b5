"""Decoding a GOP picture by picture, with streams that a decoder does not like."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from frame_decoder import GopDecoder, decode, encode_jpeg, size_of
from nal_units import START_CODE
from tests.rigs.gops import NO_PICTURE, h264, h265

NOISE = START_CODE + b"\x65" + bytes(range(1, 256)) * 8000


def numbers(given: list[bytes]) -> list[int]:
    return [decoded.number for decoded in decode("h264", given)]


def test_every_picture_comes_out_once_under_its_number() -> None:
    assert numbers(h264(12)) == list(range(12))


def test_what_comes_out_is_numbered_by_what_went_in_not_counted() -> None:
    given = h264(6)
    assert numbers([*given[:3], NO_PICTURE, *given[3:]]) == [0, 1, 2, 4, 5, 6]


def test_a_picture_fed_later_is_the_same() -> None:
    given = h264(5)
    *_, expected = decode("h264", given)
    decoder = GopDecoder("h264")
    found = [decoded for picture in given for decoded in decoder.feed(picture)] + decoder.flush()
    assert found[-1].number == 4
    assert np.array_equal(found[-1].bgr(), expected.bgr())


@pytest.mark.parametrize("given", [[NOISE] * 3, [b""], [b"\0"], []])
def test_what_cannot_be_decoded_gives_nothing(given: list[bytes]) -> None:
    assert numbers(given) == []


def test_noise_between_pictures_does_not_end_the_decoding() -> None:
    given = h264(4)
    assert {0, 1, 3, 4} <= set(numbers([*given[:2], NOISE, *given[2:]]))


def test_the_size_of_a_keyframe() -> None:
    size = size_of("h264", h264(1)[0])
    assert size is not None
    assert size_of("mjpeg", encode_jpeg(np.zeros((48, 64, 3), np.uint8), 90)) == (64, 48)
    assert size_of("h264", NOISE) is None
    assert size_of("mjpeg", NOISE) is None


def test_h265_tells_of_a_lost_picture_in_all_that_follow() -> None:
    whole = list(h265())
    assert all(decoded.is_whole for decoded in decode("h265", whole))
    told = [decoded.is_whole for decoded in decode("h265", [*whole[:20], *whole[21:]])]
    assert told == [True] * 20 + [False] * 29


def test_a_torn_picture_is_not_whole() -> None:
    given = h264(6)
    given[3] = given[3][: len(given[3]) // 2]
    assert [decoded.is_whole for decoded in decode("h264", given)].index(False) == 3


DAMAGED = """
import random, sys, threading, time
from frame_decoder import decode

def count():
    while True:
        sum(range(1000))
        time.sleep(0.0005)

threading.Thread(target=count, daemon=True).start()
sizes = [int(size) for size in sys.argv[1].split(",")]
whole = [sys.stdin.buffer.read(size) for size in sizes]
chance = random.Random(1)
for _ in range(150):
    damaged = list(whole)
    for _ in range(8):
        number = chance.randrange(1, len(damaged))
        damaged[number] = damaged[number][: len(damaged[number]) // 2]
    list(decode("h265", damaged))
    next(decode("h265", damaged))
print("done")
"""


def test_damage_never_locks_the_interpreter() -> None:
    """A decoder given up while its threads are at work must not wait for them for ever."""
    sizes = ",".join(str(len(picture)) for picture in h265())
    done = subprocess.run(
        [sys.executable, "-c", DAMAGED, sizes],
        input=b"".join(h265()),
        capture_output=True,
        cwd=Path(__file__).parents[2],
        timeout=60,
        check=True,
    )
    assert done.stdout == b"done\n"


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (1366, 766), (322, 182)])
@pytest.mark.parametrize("matrix", ["bt709", "smpte170m"])
def test_colours_are_those_that_the_camera_saw(width: int, height: int, matrix: str) -> None:
    seen = np.empty((height, width, 3), np.uint8)
    seen[:, : width // 2], seen[:, width // 2 :] = (30, 60, 200), (180, 120, 20)
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(25), Fraction(1, 25)
    encoder.options = {"x264-params": f"colormatrix={matrix}", "crf": "10"}
    frame = av.VideoFrame.from_ndarray(seen, format="bgr24").reformat(
        format="yuv420p", dst_colorspace="ITU709" if matrix == "bt709" else "ITU601"
    )
    frame.pts = 0
    coded = [bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None))]
    [decoded] = decode("h264", coded)
    bgr = decoded.bgr()
    assert bgr.shape == (height, width, 3)
    assert decoded.size == (width, height)
    for x in (width // 4, 3 * width // 4):
        assert np.abs(bgr[height // 2, x].astype(int) - seen[0, x]).max() <= 8
