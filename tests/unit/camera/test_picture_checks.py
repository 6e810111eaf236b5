"""What is wrong with a picture can be seen, and what is merely dark, plain or foggy is not."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from camera.decoder import Bgr
from camera.picture_checks import FreezeWatch, judge

CLIPS = sorted((Path(__file__).parents[3] / "demo" / "clips").glob("*.h264"))


def frames(path: Path, count: int) -> list[Bgr]:
    capture = cv2.VideoCapture(str(path))
    found = [np.asarray(capture.read()[1], np.uint8) for _ in range(count)]
    capture.release()
    return found


@pytest.fixture(scope="module", params=CLIPS, ids=lambda path: path.stem)
def picture(request: pytest.FixtureRequest) -> Bgr:
    return frames(request.param, 1)[0]


def noise(shape: tuple[int, ...], seed: int = 1) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0, 2.5, shape)


def toned(picture: Bgr, gain: float, lift: float) -> Bgr:
    levels = picture * gain + lift + noise(picture.shape)
    return np.asarray(np.clip(levels, 0, 255), np.uint8)


def test_a_good_picture_has_no_flag(picture: Bgr) -> None:
    assert judge(picture).flags == ()


@pytest.mark.parametrize(("gain", "lift"), [(0.35, 4.0), (0.15, 150.0), (1.0, 60.0)])
def test_dusk_fog_and_glare_are_no_faults(picture: Bgr, gain: float, lift: float) -> None:
    assert judge(toned(picture, gain, lift)).flags == ()


def test_a_night_with_one_lamp_is_not_black(picture: Bgr) -> None:
    night = toned(picture, 0.05, 2.0)
    height, width = night.shape[:2]
    night[: height // 12, : width // 12] = 250
    assert "black" not in judge(night).flags


@pytest.mark.parametrize("level", [0, 16, 24])
def test_black_is_seen(picture: Bgr, level: int) -> None:
    assert judge(toned(np.zeros_like(picture), 0.0, level)).flags == ("black",)


@pytest.mark.parametrize("level", [128, 130])
@pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
def test_a_part_without_data_is_smeared(picture: Bgr, level: int, share: float) -> None:
    torn = picture.copy()
    torn[round(picture.shape[0] * (1 - share)) :] = level
    assert judge(torn).flags == ("smeared",)


def test_a_last_row_drawn_on_and_on_is_smeared(picture: Bgr) -> None:
    torn = picture.copy()
    row = picture.shape[0] * 6 // 10
    torn[row:] = torn[row]
    assert judge(torn).flags == ("smeared",)


def test_colour_bars_are_no_fault() -> None:
    """Servers under test show them: rows that are equal, in two bands."""
    bars = np.repeat(np.linspace(20, 235, 8).astype(np.uint8), 160)
    pattern = np.empty((720, 1280, 3), np.uint8)
    pattern[:480], pattern[480:] = bars[:, None], bars[::-1, None]
    assert "smeared" not in judge(pattern).flags
    pattern[:] = bars[:, None]
    pattern[:300:7, ::11] = 128  # something moves in front of them
    assert "smeared" not in judge(pattern).flags


@pytest.mark.parametrize("level", [128, 130])
@pytest.mark.parametrize("deviation", [1.0, 3.0])
def test_a_grey_wall_is_no_fault(picture: Bgr, level: int, deviation: float) -> None:
    wall = picture.copy()
    height = wall.shape[0] // 2
    grain = np.random.default_rng(1).normal(0, deviation, (height, wall.shape[1], 1))
    wall[:height] = np.round(level + grain).astype(np.uint8)
    assert judge(wall).flags == ()


def test_a_picture_out_of_focus_is_blurred_and_less_sharp(picture: Bgr) -> None:
    blurred = np.asarray(cv2.GaussianBlur(picture, (0, 0), 6), np.uint8)
    assert judge(blurred).flags == ("blurred",)
    assert judge(blurred).sharpness < judge(picture).sharpness / 10


@pytest.mark.parametrize("size", [(352, 288), (640, 480), (1920, 1080), (2688, 1520), (64, 64)])
def test_any_size_can_be_judged(size: tuple[int, int]) -> None:
    width, height = size
    found = judge(np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8))
    assert found.flags == ()
    assert found.small.shape[1] == 640


def test_the_same_picture_for_a_second_is_frozen() -> None:
    watch = FreezeWatch()
    one, other = (judge(frame).grey for frame in frames(CLIPS[0], 30)[::29])
    assert [watch.is_frozen(one, shot_s) for shot_s in (10.0, 10.5, 11.0, 12.0)] == [
        *(False, False, True, True)
    ]
    assert not watch.is_frozen(other, 13.0)
    assert not watch.is_frozen(one, 14.0)


def test_two_encodings_of_one_picture_are_the_same() -> None:
    watch = FreezeWatch()
    found = []
    for shot_s, quality in ((0.0, 95), (2.0, 80)):
        jpeg = cv2.imencode(".jpg", frames(CLIPS[0], 1)[0], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        bgr = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)
        found.append(watch.is_frozen(judge(bgr).grey, shot_s))
    assert found == [False, True]


def test_noise_alone_is_life() -> None:
    watch = FreezeWatch()
    still = frames(CLIPS[0], 1)[0].astype(np.float64)
    looks = [
        judge(np.clip(still + noise(still.shape, seed), 0, 255).astype(np.uint8)) for seed in (1, 2)
    ]
    assert [watch.is_frozen(look.grey, s) for look, s in zip(looks, (0.0, 5.0), strict=True)] == [
        *(False, False)
    ]


def test_a_camera_that_changes_its_size_is_not_frozen() -> None:
    watch = FreezeWatch()
    for shot_s, size in ((0.0, (1280, 720)), (5.0, (640, 480))):
        black = np.zeros((size[1], size[0], 3), np.uint8)
        assert not watch.is_frozen(judge(black).grey, shot_s)
