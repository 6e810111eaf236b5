"""Cameras whose packets are spoiled, in short; `make torture-camera` runs it whole."""

from __future__ import annotations

import pytest

from rtsp.rtp_nal import NalAssembler
from tests.torture.camera import CLIPS, play, throw_rubbish
from tests.torture.dialogues import fuzz_dialogue


@pytest.mark.parametrize("udp", [False, True])
@pytest.mark.parametrize("codec", CLIPS)
def test_no_wrong_picture_without_a_flag(codec: str, udp: bool) -> None:
    for seed, rate in enumerate((0.0, 0.01, 0.05)):
        found = play(codec, seed, rate=rate, udp=udp)
        assert found.captures == 15
        assert found.wrong == 0
        assert found.unflagged > 0
        assert rate or found.unflagged == 15


def test_the_rig_notices_losses_that_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NalAssembler, "_lose", lambda _: None)
    assert sum(play("h265", seed, rate=0.05, udp=False).wrong for seed in range(3)) > 0


@pytest.mark.parametrize("codec", CLIPS)
def test_rubbish_is_borne_and_got_over(codec: str) -> None:
    for seed in range(6):
        assert throw_rubbish(codec, seed).wrong == 0


def test_dialogues_changed_at_random_are_borne() -> None:
    played = sum(map(fuzz_dialogue, range(25)))
    assert 0 < played < 25, "some are too broken to play, and none raises"
