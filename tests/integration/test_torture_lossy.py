"""Lost replies and poison in a short form: waits of milliseconds instead of seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture import lossy
from upload import pacing


@pytest.fixture(autouse=True)
def short_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the same backoff begin at milliseconds, and keep stores in the test's folder."""
    monkeypatch.setattr(pacing, "_BACKOFF_START_S", 0.005)
    monkeypatch.setattr(lossy, "CACHE", tmp_path)


def test_all_arrive_exactly_once_although_replies_are_lost() -> None:
    found = lossy.run_lossy(gates=3, backlog=60, live=10, patience_s=60)
    assert found.lost_replies > 20
    assert (found.arrived, found.pending) == (found.pictures, 0)
    assert found.stored_twice == 0
    assert found.repeats > 0


def test_a_receiver_that_does_not_look_at_keys_stores_twice() -> None:
    found = lossy.run_lossy(gates=2, backlog=40, live=0, honour_keys=False, patience_s=60)
    assert (found.arrived, found.pending) == (found.pictures, 0)
    assert found.stored_twice > 0


@pytest.mark.parametrize(("every", "rejected"), [(0, 0), (20, 10)])
def test_poison_is_set_aside_and_the_rest_delivered(every: int, rejected: int) -> None:
    found = lossy.run_poison(200, every, patience_s=60)
    assert (found.delivered, found.rejected, found.tried_again) == (200 - rejected, rejected, 0)
