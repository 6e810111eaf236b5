"""Decoding a GOP picture by picture, with streams that a decoder does not like."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from camera.decoder import GopDecoder, PictureError, decode_jpeg, encode_jpeg, size_of
from rtsp.nal_units import START_CODE
from tests.rigs.gops import NO_PICTURE, encode, frame_of, h264, h264_open, h265, moving_noise

NOISE = START_CODE + b"\x65" + bytes(range(1, 256)) * 8000
SEI_ONLY = START_CODE + b"\x06\x05\x04abcd\x80"


@pytest.fixture(params=[1, 2, 4, 8], autouse=True)
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Pretend another computer: a decoder has a thread for each core."""
    count = int(request.param)
    monkeypatch.setattr("camera.decoder.os.cpu_count", lambda: count)
    return count


def numbers(given: Sequence[bytes], codec: str = "h264") -> list[int]:
    return [decoded.number for decoded in GopDecoder(codec).decode(given)]


def whole_ones(given: Sequence[bytes], codec: str = "h264") -> list[int]:
    decoder = GopDecoder(codec)
    came = [decoded.number for decoded in decoder.decode(given)]
    return sorted(number for number in came if decoder.is_whole(number))


def test_every_picture_comes_out_once_under_its_number() -> None:
    assert numbers(h264(12)) == list(range(12))
    assert numbers(h265(), "h265") == list(range(50))
    assert sorted(numbers(h265(3), "h265")) == list(range(50))
    assert numbers(h265(3), "h265") != list(range(50))


@pytest.mark.parametrize("other", [NO_PICTURE, SEI_ONLY])
@pytest.mark.parametrize("at", range(1, 7))
def test_what_comes_out_is_numbered_by_what_went_in_not_counted(other: bytes, at: int) -> None:
    given = h264(6)
    expected = [number for number in range(7) if number != at]
    assert numbers([*given[:at], other, *given[at:]]) == expected
    assert whole_ones([*given[:at], other, *given[at:]]) == expected


def test_a_picture_fed_later_is_the_same() -> None:
    given = h264(5)
    *_, expected = GopDecoder("h264").decode(given)
    decoder = GopDecoder("h264")
    found = [decoded for picture in given for decoded in decoder.feed(picture)] + decoder.flush()
    assert found[-1].number == 4
    assert np.array_equal(found[-1].bgr(), expected.bgr())


@pytest.mark.parametrize("given", [[NOISE] * 3, [b""], [b"\0"], []])
def test_what_cannot_be_decoded_gives_nothing(given: list[bytes]) -> None:
    assert numbers(given) == []


@pytest.mark.parametrize("at", range(1, 5))
def test_noise_between_pictures_does_not_end_the_decoding(at: int) -> None:
    given = h264(5)
    assert set(range(6)) - {at} <= set(numbers([*given[:at], NOISE, *given[at:]]))


def test_the_size_of_a_keyframe() -> None:
    assert size_of("h264", h264(1)[0]) == (1280, 720)
    assert size_of("h265", h265()[0]) == (320, 240)
    assert size_of("mjpeg", encode_jpeg(np.zeros((48, 64, 3), np.uint8), 90)) == (64, 48)
    assert size_of("h264", NOISE) is None
    assert size_of("mjpeg", NOISE) is None


def test_h265_tells_of_a_lost_picture_in_all_that_follow() -> None:
    assert whole_ones(h265(), "h265") == list(range(50))
    assert whole_ones([*h265()[:20], *h265()[21:]], "h265") == list(range(20))


def test_b_frames_that_build_on_a_picture_shown_later_are_not_whole_without_it() -> None:
    given = list(h265(3))
    assert whole_ones(given, "h265") == list(range(50))
    del given[5]  # after it, the three pictures shown before it are sent
    assert whole_ones(given, "h265") == list(range(5))


@pytest.mark.parametrize("kept", [0.05, 0.5])
def test_behind_a_torn_picture_none_is_whole(kept: float) -> None:
    given = h264(6)
    assert whole_ones(given) == list(range(6))
    given[3] = given[3][: max(12, round(len(given[3]) * kept))]
    assert whole_ones(given) == [0, 1, 2]


def test_pictures_before_the_keyframe_of_an_open_gop_damage_nothing() -> None:
    coded = h264_open(40)
    start = next(n for n in range(1, 40) if START_CODE[1:] + b"\x67" in coded[n])
    gop = coded[start : start + 12]
    assert sorted(numbers(gop)) == list(range(12))
    leading = numbers(gop).index(0)
    assert 1 <= leading <= 2
    assert set(whole_ones(gop)) >= set(numbers(gop)[leading:])


DAMAGED = """
import os, random, sys, threading, time
from camera.decoder import GopDecoder

os.cpu_count = lambda: int(sys.argv[2])

def count():
    while True:
        sum(range(1000))
        time.sleep(0.0005)

threading.Thread(target=count, daemon=True).start()
sizes = [int(size) for size in sys.argv[1].split(",")]
whole = [sys.stdin.buffer.read(size) for size in sizes]
chance = random.Random(1)
for _ in range(60):
    damaged = list(whole)
    for _ in range(8):
        number = chance.randrange(1, len(damaged))
        damaged[number] = damaged[number][: len(damaged[number]) // 2]
    list(GopDecoder("h265").decode(damaged))
    next(GopDecoder("h265").decode(damaged))
print("done")
"""


def test_damage_never_locks_the_interpreter(cores: int) -> None:
    """A decoder's thread must not need the interpreter while that waits for the thread."""
    sizes = ",".join(str(len(picture)) for picture in h265())
    done = subprocess.run(
        [sys.executable, "-c", DAMAGED, sizes, str(cores)],
        input=b"".join(h265()),
        capture_output=True,
        cwd=Path(__file__).parents[3],
        timeout=60,
        check=True,
    )
    assert done.stdout == b"done\n"


@pytest.mark.parametrize("codec", ["h264", "h265", "mjpeg"])
def test_pictures_beyond_the_limit_are_refused_in_words(codec: str) -> None:
    if codec == "mjpeg":
        keyframe = encode_jpeg(np.zeros((720, 1280, 3), np.uint8), 90)
    else:
        keyframe = h264(1)[0] if codec == "h264" else h265()[0]
    size = size_of(codec, keyframe)
    assert size is not None
    pixels = size[0] * size[1]
    assert size_of(codec, keyframe, pixels) == size
    with pytest.raises(PictureError, match="than CAMERA_MAX_MEGAPIXELS allows") as refused:
        size_of(codec, keyframe, pixels - 1)
    assert "CAMERA_MAX_MEGAPIXELS" in refused.value.hint


def noisy_jpeg() -> bytes:
    noise = np.random.default_rng(1).integers(0, 255, (480, 640, 3), np.uint8)
    return encode_jpeg(noise, 80)


@pytest.mark.parametrize("part", [0.3, 0.7, 0.95, 0.999])
def test_a_jpeg_that_was_cut_is_known(part: float) -> None:
    jpeg = noisy_jpeg()
    whole = decode_jpeg(jpeg)
    cut = decode_jpeg(jpeg[: int(len(jpeg) * part)] + b"\xff\xd9")
    assert whole is not None
    assert cut is not None
    assert (whole[1], cut[1]) == (True, False)
    assert cut[0].shape == whole[0].shape


@pytest.mark.parametrize("behind", [b"", b"\0\0\0", b"\xff\xd9", b"garbage"])
def test_what_comes_behind_a_jpeg_does_not_matter(behind: bytes) -> None:
    found = decode_jpeg(noisy_jpeg() + behind)
    assert found is not None
    assert found[1]


SEEN = {"left": (30, 60, 200), "right": (180, 120, 20)}


def two_colours(width: int, height: int) -> av.VideoFrame:
    bgr = np.empty((height, width, 3), np.uint8)
    bgr[:, : width // 2], bgr[:, width // 2 :] = SEEN["left"], SEEN["right"]
    return frame_of(bgr)


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (1366, 766), (322, 182)])
@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020c"])
def test_colours_are_those_that_the_camera_saw(width: int, height: int, matrix: str) -> None:
    """Of `bt2020c`, which FFmpeg can't convert, only that there is a picture."""
    space = "ITU709" if matrix == "bt709" else "ITU601"
    frame = two_colours(width, height).reformat(format="yuv420p", dst_colorspace=space)
    [decoded] = GopDecoder("h264").decode(encode("libx264", f"colormatrix={matrix}", [frame]))
    assert decoded.size == (width, height)
    bgr = decoded.bgr()
    assert bgr.shape == (height, width, 3)
    for x, seen in ((width // 4, SEEN["left"]), (3 * width // 4, SEEN["right"])):
        assert np.abs(bgr[height // 2, x].astype(int) - seen).max() <= 8


def test_a_picture_that_cannot_be_converted_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    [decoded] = GopDecoder("h264").decode(encode("libx264", "colormatrix=bt2020c", moving_noise(1)))
    monkeypatch.setattr("camera.decoder._KNOWN_MATRICES", frozenset(range(20)))
    with pytest.raises(PictureError, match="colours"):
        decoded.bgr()
