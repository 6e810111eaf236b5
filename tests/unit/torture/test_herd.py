"""Many gates at once, in a short form: the real services, a simulated clock and server."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

import uploader
from tests.torture import herd
from tests.torture.herd import CASES, Case, run_case
from upload import line as upload_line


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_gate_is_drained(case: Case) -> None:
    drained = run_case(case, gates=12, pictures=10)
    assert drained.pending == 0
    assert drained.requests >= 120
    assert drained.seconds >= 120 / herd.RATE - 1


def test_a_herd_without_backoff_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("503", 503, burst=1)
    polite = run_case(case, gates=30, pictures=10)
    monkeypatch.setattr(uploader, "backoff_s", lambda *_: 0.05)
    rude = run_case(case, gates=30, pictures=10)
    assert rude.refused > 2 * polite.refused


def test_the_clock_is_given_back() -> None:
    run_case(CASES[0], gates=1, pictures=1)
    assert {vars(uploader)["time"], vars(upload_line)["time"]} == {time}
    assert vars(uploader)["datetime"] is datetime
