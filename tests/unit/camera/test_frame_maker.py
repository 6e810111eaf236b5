"""Frames of what is held, and a GOP decoded while its wanted picture is still to come."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from camera.decoder import GopDecoder, size_of
from camera.frame_maker import FrameMaker, Held, PictureError
from camera.packet_ring import Choice
from config import CaptureConfig
from tests.rigs.gops import NO_PICTURE, encode, h264, h265, moving_noise

PICTURES = h264(8)
OTHER_GOP = [bytes(picture) + b"\0" for picture in PICTURES]


PERIOD_S = 0.04
GOP_S = 2.0


def held(pictures: Sequence[bytes], codec: str = "h264", shot_s: float = 1.0) -> Held:
    choice = Choice(
        pictures=tuple(pictures),
        index=len(pictures) - 1,
        shot_s=shot_s,
        damaged=False,
        timing_unsure=False,
    )
    return Held(choice, codec)


@pytest.fixture
def slots() -> threading.Semaphore:
    return threading.Semaphore(1)


@pytest.fixture
def maker(slots: threading.Semaphore) -> FrameMaker:
    return FrameMaker(CaptureConfig(5, 250, 92, "tcp"), slots)


def is_free(slots: threading.Semaphore) -> bool:
    free = slots.acquire(blocking=False)
    if free:
        slots.release()
    return free


@pytest.mark.parametrize("there", range(1, 7))
@pytest.mark.parametrize("fed", [0, 1, 3, 9])
def test_it_is_the_picture_that_a_decode_from_the_start_gives(
    maker: FrameMaker, slots: threading.Semaphore, there: int, fed: int
) -> None:
    early = maker.begin_early(held(PICTURES[:there]), 1.0)
    assert early is not None
    assert not is_free(slots)
    turns = iter(range(fed))
    early.decode_while(lambda: next(turns, None) is not None)
    found = early.end(held(PICTURES[:6]))
    expected = [decoded.bgr() for decoded in GopDecoder("h264").decode(PICTURES[:6])][-1]
    assert found is not None
    assert found.complete
    assert np.array_equal(found.bgr, expected)
    assert is_free(slots)


@pytest.mark.parametrize(
    "wanted", [None, held(OTHER_GOP[:1]), held(OTHER_GOP[:6]), held(PICTURES[:2])]
)
def test_a_picture_of_another_gop_or_one_further_back_cannot_be_had(
    maker: FrameMaker, slots: threading.Semaphore, wanted: Held | None
) -> None:
    early = maker.begin_early(held(PICTURES[:4]), 1.0)
    assert early is not None
    early.decode_while(lambda: True)
    assert early.end(wanted) is None
    assert is_free(slots)


def test_a_picture_that_cannot_be_decoded_cannot_be_had(maker: FrameMaker) -> None:
    early = maker.begin_early(held(PICTURES[:2]), 1.0)
    assert early is not None
    early.decode_while(lambda: True)
    assert early.end(held([*PICTURES[:2], NO_PICTURE])) is None


def test_what_others_hold_up_is_not_begun(maker: FrameMaker, slots: threading.Semaphore) -> None:
    with slots:
        assert maker.begin_early(held(PICTURES[:2]), 0.01) is None
    assert maker.begin_early(held(PICTURES[:2]), 0.01) is not None
    assert maker.begin_early(held(PICTURES[:2]), 0.01) is None


def test_a_decoder_that_cannot_be_had_leaves_the_slot_to_others(
    maker: FrameMaker, slots: threading.Semaphore
) -> None:
    with pytest.raises(KeyError):
        maker.begin_early(held(PICTURES[:2], "vp9"), 1.0)
    assert is_free(slots)


def test_a_picture_that_lacks_another_gives_way_to_a_whole_one(maker: FrameMaker) -> None:
    whole = list(h265())
    wanted = held([*whole[:20], *whole[21:25]], "h265")
    frame = maker.frame((wanted,), 1.0, neighbours=lambda: (held(whole[:20], "h265", 0.8),))
    assert (frame.shot_s, "damaged" in frame.flags) == (0.8, False)


def test_a_picture_that_lacks_another_is_flagged_when_there_is_no_better_one(
    maker: FrameMaker,
) -> None:
    whole = list(h265())
    wanted = held([*whole[:20], *whole[21:25]], "h265")
    frame = maker.frame((wanted,), 1.0)
    assert (frame.shot_s, "damaged" in frame.flags) == (1.0, True)
    early = maker.begin_early(held(whole[:19], "h265"), 1.0)
    assert early is not None
    early.decode_while(lambda: True)
    shown = early.end(wanted)
    assert shown is not None
    assert not shown.complete
    assert "damaged" in maker.frame((wanted,), 1.0, shown=shown).flags


def test_of_a_picture_that_does_not_come_the_last_one_before_it_is_shown(
    maker: FrameMaker,
) -> None:
    frame = maker.frame((held([*PICTURES[:3], NO_PICTURE]),), 1.0)
    assert "damaged" in frame.flags
    assert (frame.width, frame.height) == size_of("h264", PICTURES[0])


def test_of_several_pictures_the_nearest_whole_one_is_taken(maker: FrameMaker) -> None:
    whole = list(h265())
    pictures = (*whole[:20], *whole[21:25])

    def around() -> list[Held]:
        return [
            Held(Choice(pictures, index, 1.0 + (index - 21) * 0.04, False, False), "h265")
            for index in range(16, 24)
        ]

    frame = maker.frame((held(list(pictures[:22]), "h265"),), 1.0, neighbours=around)
    assert frame.shot_s == pytest.approx(1.0 - 2 * 0.04)
    assert "damaged" not in frame.flags


@pytest.mark.parametrize("there", [1, 2, 5, 9])
def test_b_frames_can_be_decoded_early_too(maker: FrameMaker, there: int) -> None:
    coded = list(h265(3))
    for wanted in range(there, there + 5):
        early = maker.begin_early(held(coded[:there], "h265"), 1.0)
        assert early is not None
        early.decode_while(lambda: True)
        found = early.end(held(coded[:wanted], "h265"))
        came = {decoded.number: decoded for decoded in GopDecoder("h265").decode(coded[:wanted])}
        assert found is not None
        assert found.complete
        assert np.array_equal(found.bgr, came[wanted - 1].bgr())


def test_colours_that_cannot_be_converted_are_a_reason_not_a_defect(
    maker: FrameMaker, slots: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("camera.decoder._KNOWN_MATRICES", frozenset(range(20)))
    wanted = held(list(encode("libx264", "colormatrix=bt2020c", moving_noise(1))))
    with pytest.raises(PictureError, match="colours"):
        maker.frame((wanted,), 1.0)
    early = maker.begin_early(wanted, 1.0)
    assert early is not None
    assert early.end(wanted) is None
    assert is_free(slots)


def maker_whose_decoder_takes(
    picture_s: float, slots: threading.Semaphore, learnt_from: int = 20
) -> FrameMaker:
    """Make one that has seen a capture of so many pictures, on a clock of its own."""
    ticks = itertools.count()
    maker = FrameMaker(CaptureConfig(5, 250, 92, "tcp"), slots, lambda: next(ticks) * picture_s)
    wanted = held(h265()[:learnt_from], "h265")
    early = maker.begin_early(wanted)
    assert early is not None
    assert early.end(wanted) is not None
    return maker


def decode_ahead(maker: FrameMaker, pictures: Sequence[bytes], codec: str = "h265") -> int:
    """Let all be decoded ahead that ever is, and return the number of turns it took."""
    turns = 0
    while maker.decode_ahead(held(pictures, codec), PERIOD_S, GOP_S):
        turns += 1
    return turns


def capture(maker: FrameMaker, pictures: Sequence[bytes], codec: str = "h265") -> int:
    """Capture the last of these, compare it with what a decode from the start gives.

    Return how many had been decoded ahead.
    """
    wanted = held(pictures, codec)
    early = maker.begin_early(wanted)
    assert early is not None
    ahead = early.fed
    early.decode_while(lambda: True)
    found = early.end(wanted)
    came = {decoded.number: decoded for decoded in GopDecoder(codec).decode(pictures)}
    assert found is not None
    assert found.complete
    assert np.array_equal(found.bgr, came[len(pictures) - 1].bgr())
    return ahead


LEFT = 23  # in 0.1 s: 20 pictures, of which a keyframe counts six times, took 21 ticks of 5 ms


@pytest.mark.parametrize("there", [LEFT + 1, 30, 47, 50])
@pytest.mark.parametrize("b_frames", [0, 3])
def test_a_capture_goes_on_from_what_was_decoded_ahead(
    slots: threading.Semaphore, there: int, b_frames: int
) -> None:
    maker = maker_whose_decoder_takes(0.005, slots)
    for came in range(1, there + 1):
        decode_ahead(maker, h265(b_frames)[:came])
        assert is_free(slots)
    assert capture(maker, h265(b_frames)[:there]) == there - LEFT
    assert is_free(slots)


def test_h264_is_decoded_ahead_too(slots: threading.Semaphore) -> None:
    maker = maker_whose_decoder_takes(0.005, slots)
    pictures = h264(40)
    decode_ahead(maker, pictures, "h264")
    assert capture(maker, pictures, "h264") == 40 - LEFT


def test_ahead_is_20_ms_at_a_time(slots: threading.Semaphore) -> None:
    maker = maker_whose_decoder_takes(0.005, slots)
    assert decode_ahead(maker, h265()) == -(-(50 - LEFT) // 4)  # of 4.2 ms


def test_a_slow_machine_decodes_nothing_ahead_however_seldom_pictures_come(
    slots: threading.Semaphore,
) -> None:
    maker = maker_whose_decoder_takes(0.013, slots)
    assert not maker.decode_ahead(held(h265(), "h265"), 0.2, 10.0)


@pytest.mark.parametrize(
    ("picture_s", "learnt_from", "why"),
    [
        (0.003, 20, "a whole GOP takes hardly longer than a capture may"),
        (0.009, 20, "pictures come nearly as fast"),
        (0.005, 7, "too few pictures tell how long one takes"),
    ],
)
def test_nothing_is_decoded_ahead_where(
    slots: threading.Semaphore, picture_s: float, learnt_from: int, why: str
) -> None:
    maker = maker_whose_decoder_takes(picture_s, slots, learnt_from)
    assert decode_ahead(maker, h265()) == 0, why


def test_nothing_is_decoded_ahead_while_others_decode(slots: threading.Semaphore) -> None:
    maker = maker_whose_decoder_takes(0.005, slots)
    with slots:
        assert decode_ahead(maker, h265()) == 0
    early = maker.begin_early(held(h265()[:2], "h265"))
    assert early is not None
    assert decode_ahead(maker, h265()) == 0
    early.end(None)
    assert decode_ahead(maker, h265()) > 0


@pytest.mark.parametrize(
    "wanted", [h265()[:10], h265()[: 50 - LEFT], [bytes(p) + b"\0" for p in h265()[:45]]]
)
def test_a_capture_of_anything_else_begins_at_its_keyframe(
    slots: threading.Semaphore, wanted: Sequence[bytes]
) -> None:
    maker = maker_whose_decoder_takes(0.005, slots)
    decode_ahead(maker, h265())
    assert capture(maker, wanted) == 0
    assert capture(maker, wanted) == 0


def test_a_gop_just_begun_does_not_end_what_was_decoded_ahead(slots: threading.Semaphore) -> None:
    maker = maker_whose_decoder_takes(0.005, slots)
    decode_ahead(maker, h265())
    decode_ahead(maker, h265(3)[:LEFT])
    assert capture(maker, h265()) == 50 - LEFT


def test_a_gop_under_way_takes_the_place_of_the_one_before(slots: threading.Semaphore) -> None:
    maker = maker_whose_decoder_takes(0.005, slots)
    decode_ahead(maker, h265())
    decode_ahead(maker, h265(3))
    assert capture(maker, h265(3)) == 50 - LEFT


def test_a_picture_lost_before_what_was_decoded_ahead_is_told(slots: threading.Semaphore) -> None:
    maker = maker_whose_decoder_takes(0.005, slots)
    wanted = held([*h265()[:10], *h265()[11:]], "h265")
    decode_ahead(maker, wanted.choice.pictures)
    early = maker.begin_early(wanted)
    assert early is not None
    assert early.fed > 20
    shown = early.end(wanted)
    assert shown is not None
    assert not shown.complete


def test_nothing_is_decoded_ahead_behind_damage(slots: threading.Semaphore) -> None:
    maker = maker_whose_decoder_takes(0.005, slots)
    whole = held(h265(), "h265")
    damaged = Held(replace(whole.choice, damaged=True), "h265")
    assert not maker.decode_ahead(damaged, PERIOD_S, GOP_S)
    assert maker.decode_ahead(whole, PERIOD_S, GOP_S)


def test_what_was_decoded_ahead_is_given_up(slots: threading.Semaphore) -> None:
    maker = maker_whose_decoder_takes(0.005, slots)
    decode_ahead(maker, h265())
    assert maker.rest()
    assert not maker.rest()
    assert capture(maker, h265()) == 0


def test_how_long_a_picture_takes_is_learnt_from_what_is_left_too(
    slots: threading.Semaphore,
) -> None:
    takes_s = [0.005]
    now_s = [0.0]

    def clock() -> float:
        now_s[0] += takes_s[0]
        return now_s[0]

    maker = FrameMaker(CaptureConfig(5, 250, 92, "tcp"), slots, clock)
    capture(maker, h265()[:20])
    decode_ahead(maker, h265())
    takes_s[0] = 0.02
    assert capture(maker, h265()) == 50 - LEFT
    assert decode_ahead(maker, h265()) == 0, "it is too slow now"
    takes_s[0] = 0.004
    assert capture(maker, h265()) == 0
    for left in (26, 24):  # of 3.71 ms, a keyframe among them, and of 4.15 ms without one
        decode_ahead(maker, h265())
        assert capture(maker, h265()) == 50 - left


def test_a_picture_that_waits_for_nobody_leaves_what_was_decoded_ahead(
    slots: threading.Semaphore,
) -> None:
    maker = maker_whose_decoder_takes(0.005, slots)
    decode_ahead(maker, h265())
    maker.frame((held(h265(), "h265"),), 1.0)
    assert capture(maker, h265()) == 50 - LEFT
