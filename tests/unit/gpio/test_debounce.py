"""The rules of the debounce, as tables of what happens to a pin and when it triggers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import config
from gpio.debounce import Debouncer, Trigger

SETTINGS = config.parse({}).gpio  # hold-off 300 ms, re-arm 50 ms, no glitch time
POLL_MS = 10
IDLE_POLL_MS = 1000

Table = list[tuple[float, str]]


def run(table: Table, *, glitch_ms: int = 0, hold_off_ms: int = 300) -> list[tuple[float, bool]]:
    """Feed (ms, "edge" | "low" | "high") and return (ms of the edge, late) of each trigger."""
    debouncer = Debouncer(replace(SETTINGS, glitch_ms=glitch_ms, hold_off_ms=hold_off_ms))
    triggers = []
    for at_ms, what in table:
        if what == "edge":
            trigger = debouncer.edge(at_ms / 1000)
        else:
            trigger = debouncer.level(at_ms / 1000, what == "low")
        if trigger is not None:
            triggers.append((round(trigger.edge_s * 1000, 3), trigger.late))
    return triggers


def polled(start_ms: int, end_ms: int, what: str) -> Table:
    return [(at_ms, what) for at_ms in range(start_ms, end_ms, POLL_MS)]


@pytest.mark.parametrize(
    ("table", "triggers"),
    [
        pytest.param([(5, "edge")], [5], id="the leading edge triggers at once"),
        pytest.param([(5, "edge"), (6, "edge"), (9, "edge")], [5], id="bounce at the press"),
        pytest.param(
            [(0, "edge"), *polled(10, 1000, "low"), (1000, "edge"), (1003, "edge"),
             *polled(1010, 1200, "high"), (1205, "edge")],
            [0, 1205],
            id="bounce at the release",
        ),
        pytest.param(
            [(0, "edge"), *polled(10, 40, "low"), *polled(40, 200, "high"), (200, "edge")],
            [0],
            id="again within the hold-off",
        ),
        pytest.param(
            [(0, "edge"), *polled(10, 40, "low"), *polled(40, 320, "high"), (320, "edge")],
            [0, 320],
            id="again after the hold-off",
        ),
        pytest.param(
            [(0, "edge"), *polled(10, 60_000, "low"), (60_000, "low")], [0], id="long LOW"
        ),
        pytest.param(
            [(0, "edge"), *polled(10, 500, "low"), *polled(500, 540, "high"), (540, "edge"),
             *polled(550, 2000, "low")],
            [0],
            id="HIGH shorter than the re-arm time",
        ),
        pytest.param(
            [(0, "edge"), *polled(10, 500, "low"), *polled(500, 560, "high"), (560, "edge")],
            [0, 560],
            id="HIGH as long as the re-arm time",
        ),
        pytest.param(
            [(0, "edge"), *polled(10, 100, "low"), *polled(100, 140, "high"), (140, "edge"),
             *polled(150, 400, "high"), (400, "edge")],
            [0, 400],
            id="an edge starts the re-arm time anew",
        ),
        pytest.param(
            [(0, "high"), (1000, "high"), (2000, "high"), (2500, "edge")],
            [2500],
            id="quiet line",
        ),
    ],
)  # fmt: skip
def test_edges(table: Table, triggers: list[float]) -> None:
    assert run(table) == [(at_ms, False) for at_ms in triggers]


@pytest.mark.parametrize(
    ("table", "triggers"),
    [
        pytest.param([(5, "edge")], [], id="not before the glitch time is over"),
        pytest.param(
            [(5, "edge"), (15, "low"), (25, "low")], [5], id="the edge keeps its own time"
        ),
        pytest.param([(5, "edge"), (15, "high"), (25, "low")], [], id="a glitch"),
        pytest.param(
            [(5, "edge"), (6, "edge"), (7, "edge"), (15, "low"), (25, "low")],
            [5],
            id="bounce within the glitch time",
        ),
        pytest.param(
            [(5, "edge"), (15, "high"), (40, "edge"), (50, "low"), (65, "low")],
            [40],
            id="a glitch does not hold off the real edge",
        ),
    ],
)
def test_the_glitch_filter(table: Table, triggers: list[float]) -> None:
    assert run(table, glitch_ms=20) == [(at_ms, False) for at_ms in triggers]


def test_a_lost_edge_is_found_by_its_level_and_flagged_late() -> None:
    assert run([(0, "high"), (1000, "low"), (1010, "low"), (1020, "low")]) == [(1000, True)]


def test_an_edge_whose_callback_is_only_delayed_is_not_late() -> None:
    assert run([(0, "high"), (1000, "low"), (1002, "edge"), (1010, "low")]) == [(1002, False)]


def test_a_dip_seen_by_chance_is_no_lost_edge() -> None:
    assert run([(0, "high"), (1000, "low"), (1010, "high"), (1020, "high")]) == []


def test_two_dips_far_apart_are_not_taken_for_one_low() -> None:
    assert run([(1000, "low"), (1010, "high"), (2000, "low"), (2010, "high")]) == []


def test_a_late_callback_after_the_level_was_believed_triggers_no_second_time() -> None:
    assert run([(1000, "low"), (1010, "low"), (1015, "edge"), (1020, "low")]) == [(1000, True)]


def test_a_lost_edge_passes_the_glitch_filter_with_its_own_time() -> None:
    table = [(1000.0, "low"), (1010.0, "low"), (1030.0, "low")]
    assert run(table, glitch_ms=20) == [(1000, True)]


def test_low_at_start_triggers_only_after_it_was_high() -> None:
    debouncer = Debouncer(SETTINGS)
    debouncer.hold(10.0)
    assert [debouncer.level(10 + n / 100, True) for n in range(1, 50)] == [None] * 49
    assert debouncer.edge(10.6) is None
    assert [debouncer.level(10.7 + n / 100, False) for n in range(10)] == [None] * 10
    assert debouncer.edge(11.0) == Trigger(11.0, late=False)


def test_what_is_suppressed_is_counted() -> None:
    debouncer = Debouncer(replace(SETTINGS, glitch_ms=20))
    debouncer.edge(0.0)
    debouncer.edge(0.001)
    debouncer.level(0.01, False)
    assert debouncer.suppressed == 2


def test_the_level_is_wanted_often_only_while_it_matters() -> None:
    debouncer = Debouncer(SETTINGS)
    seen = [debouncer.watching]
    debouncer.edge(0.0)
    seen.append(debouncer.watching)
    debouncer.level(0.3, False)
    seen.append(debouncer.watching)
    debouncer.level(0.36, False)
    seen.append(debouncer.watching)
    debouncer.level(1.0, True)
    seen.append(debouncer.watching)
    assert seen == [False, True, True, False, True]


def drive(phases: list[tuple[int, int]], bounces: list[int]) -> list[float]:
    """Play (HIGH ms, LOW ms) phases with polls as the service does them; return triggers in ms.

    Every change of the line bounces for some milliseconds, a falling edge in each.
    """
    debouncer = Debouncer(SETTINGS)
    low_at: list[tuple[int, int]] = []
    edges: list[int] = []
    at_ms = 0
    for number, (high_ms, low_ms) in enumerate(phases):
        at_ms += high_ms
        bounce_ms = bounces[number % len(bounces)]
        edges += range(at_ms, at_ms + bounce_ms + 1)
        low_at.append((at_ms, at_ms + low_ms))
        at_ms += low_ms
        edges += range(at_ms + 1, at_ms + bounce_ms + 1)
    triggers = []
    pending = sorted(edges)
    next_look_ms = 0
    while pending or next_look_ms <= at_ms + 500:
        now_ms = min(next_look_ms, pending[0]) if pending else next_look_ms
        trigger = None
        if pending and pending[0] == now_ms:
            pending.pop(0)
            trigger = debouncer.edge(now_ms / 1000)
            next_look_ms = min(next_look_ms, now_ms + POLL_MS)
        else:
            is_low = any(start <= now_ms < end for start, end in low_at)
            trigger = debouncer.level(now_ms / 1000, is_low)
            next_look_ms = now_ms + (POLL_MS if debouncer.watching else IDLE_POLL_MS)
        if trigger is not None:
            triggers.append(trigger.edge_s * 1000)
    return triggers


@given(
    st.lists(st.tuples(st.integers(0, 800), st.integers(1, 800)), min_size=1, max_size=8),
    st.lists(st.integers(0, 15), min_size=1, max_size=3),
)
def test_triggers_are_never_closer_than_the_hold_off(
    phases: list[tuple[int, int]], bounces: list[int]
) -> None:
    triggers = drive(phases, bounces)
    gaps = [later - earlier for earlier, later in pairwise(triggers)]
    assert all(gap >= SETTINGS.hold_off_ms - 0.001 for gap in gaps)


@given(
    st.lists(st.tuples(st.integers(80, 2000), st.integers(300, 2000)), min_size=1, max_size=8),
    st.lists(st.integers(0, 15), min_size=1, max_size=3),
)
def test_every_low_after_a_long_enough_high_triggers_once_at_its_edge(
    phases: list[tuple[int, int]], bounces: list[int]
) -> None:
    # 80 ms HIGH: the re-arm time, the bounce, and one look's interval.
    expected, at_ms = [], 0
    for high_ms, low_ms in phases:
        at_ms += high_ms
        expected.append(at_ms)
        at_ms += low_ms
    assert [round(trigger) for trigger in drive(phases, bounces)] == expected
