"""Frames of chosen pictures, and a GOP decoded while its wanted picture is still to come."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import cv2
import pytest

from camera import frame_maker
from camera.decoder import Bgr, Decoded, GopDecoder, PictureError, size_of
from camera.frame import Choice, Frame
from camera.frame_maker import FrameMaker, Turn
from config import CaptureConfig
from tests.rigs.gops import NO_PICTURE, encode, h264, h265, moving_noise

PICTURES = h264(8)
OTHER_GOP = [bytes(picture) + b"\0" for picture in PICTURES]


def chosen(pictures: Sequence[bytes], codec: str = "h264", shot_s: float = 1.0) -> Choice:
    """Choose the last of these pictures."""
    return Choice(
        codec=codec,
        pictures=tuple(pictures),
        index=len(pictures) - 1,
        shot_s=shot_s,
        damaged=False,
        timing_unsure=False,
    )


@pytest.fixture
def slots() -> threading.Semaphore:
    return threading.Semaphore(1)


@pytest.fixture
def maker(slots: threading.Semaphore) -> FrameMaker:
    return FrameMaker(CaptureConfig(5, 250, 92, 40_000_000, "tcp"), slots)


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return what decoders are fed from now on."""
    pictures: list[bytes] = []

    class Decoder(GopDecoder):
        def feed(self, picture: bytes) -> list[Decoded]:
            pictures.append(picture)
            return super().feed(picture)

    monkeypatch.setattr(frame_maker, "GopDecoder", Decoder)
    return pictures


def is_free(slots: threading.Semaphore) -> bool:
    free = slots.acquire(blocking=False)
    if free:
        slots.release()
    return free


def frame_of(maker: FrameMaker, choice: Choice, **more: object) -> Frame:
    with maker.turn() as turn:
        return turn.frame((choice,), 1.0, **more)  # type: ignore[arg-type]


def decode(pictures: Sequence[bytes], codec: str = "h264") -> dict[int, Bgr]:
    return {one.number: one.bgr() for one in GopDecoder(codec).decode(pictures)}


def shows(frame: Frame, bgr: Bgr) -> bool:
    """Tell whether a frame's JPEG is of this very picture."""
    done, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert done
    return bool(jpeg.tobytes() == frame.jpeg)


def early(turn: Turn, choice: Choice, wait_s: float = 1.0) -> None:
    turn.decode_early(choice, wait_s, lambda: True)


@pytest.mark.parametrize("there", range(1, 7))
def test_it_is_the_picture_that_a_decode_from_the_start_gives(
    maker: FrameMaker, slots: threading.Semaphore, fed: list[bytes], there: int
) -> None:
    with maker.turn() as turn:
        early(turn, chosen(PICTURES[:there]))
        assert len(fed) == there
        assert not is_free(slots)
        frame = turn.frame((chosen(PICTURES[:6]),), 1.0)
        assert is_free(slots)
    assert fed == PICTURES[:6], "each is decoded once"
    assert shows(frame, decode(PICTURES[:6])[5])
    assert "damaged" not in frame.flags


def test_decoding_goes_on_with_every_picture_that_comes(
    maker: FrameMaker, fed: list[bytes]
) -> None:
    with maker.turn() as turn:
        for there in range(1, 7):
            early(turn, chosen(PICTURES[:there]))
            assert fed == PICTURES[:there]
        frame = turn.frame((chosen(PICTURES[:6]),), 1.0)
    assert fed == PICTURES[:6]
    assert shows(frame, decode(PICTURES[:6])[5])


@pytest.mark.parametrize("wanted", [OTHER_GOP[:1], OTHER_GOP[:6], PICTURES[:2]])
def test_a_picture_of_another_gop_or_one_further_back_is_decoded_anew(
    maker: FrameMaker, slots: threading.Semaphore, fed: list[bytes], wanted: list[bytes]
) -> None:
    with maker.turn() as turn:
        early(turn, chosen(PICTURES[:4]))
        frame = turn.frame((chosen(wanted),), 1.0)
    assert fed == [*PICTURES[:4], *wanted]
    assert shows(frame, decode(wanted)[len(wanted) - 1])
    assert is_free(slots)


def test_a_gop_that_begins_meanwhile_is_gone_on_with(maker: FrameMaker, fed: list[bytes]) -> None:
    with maker.turn() as turn:
        early(turn, chosen(PICTURES[:4]))
        early(turn, chosen(OTHER_GOP[:1]))
        frame = turn.frame((chosen(OTHER_GOP[:2]),), 1.0)
    assert fed == [*PICTURES[:4], *OTHER_GOP[:2]]
    assert shows(frame, decode(OTHER_GOP[:2])[1])


def test_a_turn_without_a_frame_leaves_everything_to_others(
    maker: FrameMaker, slots: threading.Semaphore
) -> None:
    with maker.turn() as turn:
        early(turn, chosen(PICTURES[:4]))
    assert is_free(slots)

    def fail() -> None:
        with maker.turn() as turn:
            early(turn, chosen(PICTURES[:4]))
            raise RuntimeError("no picture comes")

    with pytest.raises(RuntimeError, match="no picture"):
        fail()
    assert is_free(slots)
    assert frame_of(maker, chosen(PICTURES[:2])).flags == ()


def test_early_decoding_stops_between_two_pictures_when_it_may_not_go_on(
    maker: FrameMaker, fed: list[bytes]
) -> None:
    with maker.turn() as turn:
        turn.decode_early(chosen(PICTURES[:6]), 1.0, lambda: len(fed) < 3)
        assert fed == PICTURES[:3]
        frame = turn.frame((chosen(PICTURES[:6]),), 1.0)
    assert fed == PICTURES[:6], "what was decoded is gone on from"
    assert shows(frame, decode(PICTURES[:6])[5])


def test_a_decoder_that_fails_at_its_end_leaves_everything_to_others(
    maker: FrameMaker, slots: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(GopDecoder):
        def flush(self) -> list[Decoded]:
            raise MemoryError

    def give_up() -> None:
        with maker.turn() as turn:
            early(turn, chosen(PICTURES[:4]))

    with monkeypatch.context() as patch:
        patch.setattr(frame_maker, "GopDecoder", Broken)
        with pytest.raises(MemoryError):
            give_up()
    assert is_free(slots)
    assert frame_of(maker, chosen(PICTURES[:2])).flags == ()


def test_a_turn_can_be_given_up_and_taken_again(
    maker: FrameMaker, slots: threading.Semaphore, fed: list[bytes]
) -> None:
    with maker.turn() as turn:
        early(turn, chosen(PICTURES[:4]))
        turn.give_up()
        assert is_free(slots)
        with maker.turn() as other:
            early(other, chosen(PICTURES[:1]), 0.0)
            assert not is_free(slots)
        early(turn, chosen(PICTURES[:5]))
        assert shows(turn.frame((chosen(PICTURES[:5]),), 1.0), decode(PICTURES[:5])[4])
    assert fed == [*PICTURES[:4], *PICTURES[:1], *PICTURES[:5]]


def test_what_others_hold_up_is_not_begun(
    maker: FrameMaker, slots: threading.Semaphore, fed: list[bytes]
) -> None:
    with maker.turn() as turn:
        with slots:
            early(turn, chosen(PICTURES[:2]), 0.01)
        with maker.turn() as other:
            early(other, chosen(PICTURES[:2]), 0.01)
            assert len(fed) == 2
            early(turn, chosen(PICTURES[:2]), 0.01)
            assert len(fed) == 2
        assert frame_of(maker, chosen(PICTURES[:2])).flags == ()


def test_no_other_frame_of_the_camera_comes_between_a_decode_and_its_use(
    slots: threading.Semaphore, maker: FrameMaker, fed: list[bytes]
) -> None:
    """A look at the live picture would make a capture late by a decode."""
    looked = threading.Event()

    def look() -> None:
        frame_of(maker, chosen(PICTURES[:2]))
        looked.set()

    with maker.turn() as turn:
        early(turn, chosen(PICTURES[:4]))
        looker = threading.Thread(target=look)
        looker.start()
        turn.frame((chosen(PICTURES[:4]),), 1.0)
        assert is_free(slots)
        assert not looked.wait(0.2)
        assert fed == PICTURES[:4]
    assert looked.wait(10)
    looker.join(10)


def test_a_decoder_that_cannot_be_had_leaves_the_slot_to_others(
    maker: FrameMaker, slots: threading.Semaphore
) -> None:
    with pytest.raises(KeyError), maker.turn() as turn:
        early(turn, chosen(PICTURES[:2], "vp9"))
    assert is_free(slots)


def test_a_picture_that_lacks_another_gives_way_to_a_whole_one(maker: FrameMaker) -> None:
    whole = list(h265())
    wanted = chosen([*whole[:20], *whole[21:25]], "h265")
    frame = frame_of(maker, wanted, neighbours=lambda: (chosen(whole[:20], "h265", 0.8),))
    assert (frame.shot_s, "damaged" in frame.flags) == (0.8, False)


def test_a_picture_that_lacks_another_is_flagged_when_there_is_no_better_one(
    maker: FrameMaker,
) -> None:
    whole = list(h265())
    wanted = chosen([*whole[:20], *whole[21:25]], "h265")
    frame = frame_of(maker, wanted)
    assert (frame.shot_s, "damaged" in frame.flags) == (1.0, True)
    with maker.turn() as turn:
        early(turn, chosen(wanted.pictures[:19], "h265"))
        assert "damaged" in turn.frame((wanted,), 1.0).flags


def test_of_a_picture_that_does_not_come_the_last_one_before_it_is_shown(
    maker: FrameMaker,
) -> None:
    wanted = chosen([*PICTURES[:3], NO_PICTURE])
    for decoded_early in (False, True):
        with maker.turn() as turn:
            if decoded_early:
                early(turn, chosen(PICTURES[:2]))
            frame = turn.frame((wanted,), 1.0)
        assert "damaged" in frame.flags
        assert (frame.width, frame.height) == size_of("h264", PICTURES[0])


def test_of_several_pictures_the_nearest_whole_one_is_taken(maker: FrameMaker) -> None:
    whole = list(h265())
    pictures = (*whole[:20], *whole[21:25])

    def around() -> list[Choice]:
        return [
            Choice("h265", pictures, index, 1.0 + (index - 21) * 0.04, False, False)
            for index in range(16, 24)
        ]

    frame = frame_of(maker, chosen(pictures[:22], "h265"), neighbours=around)
    assert frame.shot_s == pytest.approx(1.0 - 2 * 0.04)
    assert "damaged" not in frame.flags


@pytest.mark.parametrize("there", [1, 2, 5, 9])
def test_b_frames_can_be_decoded_early_too(maker: FrameMaker, there: int) -> None:
    coded = list(h265(3))
    for wanted in range(there, there + 5):
        with maker.turn() as turn:
            early(turn, chosen(coded[:there], "h265"))
            frame = turn.frame((chosen(coded[:wanted], "h265"),), 1.0)
        assert "damaged" not in frame.flags
        assert shows(frame, decode(coded[:wanted], "h265")[wanted - 1])


def test_colours_that_cannot_be_converted_are_a_reason_not_a_defect(
    maker: FrameMaker, slots: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("camera.decoder._KNOWN_MATRICES", frozenset(range(20)))
    wanted = chosen(list(encode("libx264", "colormatrix=bt2020c", moving_noise(1))))
    for decoded_early in (False, True):
        with maker.turn() as turn:
            if decoded_early:
                early(turn, wanted)
            with pytest.raises(PictureError, match="colours"):
                turn.frame((wanted,), 1.0)
        assert is_free(slots)


@pytest.mark.parametrize(
    ("distance_s", "stale"),
    [(0.0, False), (0.25, False), (-0.25, False), (0.251, True), (-2, True)],
)
def test_a_picture_too_far_from_the_moment_is_stale(
    maker: FrameMaker, distance_s: float, stale: bool
) -> None:
    frame = frame_of(maker, chosen(PICTURES[:1], shot_s=1.0 + distance_s))
    assert ("stale" in frame.flags) == stale
