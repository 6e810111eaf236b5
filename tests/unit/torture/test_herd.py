"""Many gates at once, in a short form: the real services, a simulated clock and server."""

from __future__ import annotations

import pytest

from tests.torture import herd
from tests.torture.herd import CASES, Case, run_case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_gate_is_drained(case: Case) -> None:
    drained = run_case(case, gates=12, pictures=10)
    assert drained.pending == 0
    assert drained.requests >= 120
    assert drained.seconds >= 120 / herd.RATE - 1


def test_a_herd_without_backoff_is_noticed() -> None:
    case = Case("503", 503, burst=1)
    polite = run_case(case, gates=30, pictures=10)
    rude = run_case(case, gates=30, pictures=10, jitter=lambda *_: 0.05)
    assert rude.refused > 2 * polite.refused
