"""The pace of logins: guessers are slowed down, the owner is not locked out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from web.throttle import LoginThrottle


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_guessing_is_slowed_down_and_a_success_clears_it() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock)
    assert [throttle.wait_s("10.0.0.1") for _ in range(5)] == [0] * 5
    wait_s = throttle.wait_s("10.0.0.1")
    assert 0 < wait_s <= 10
    assert throttle.wait_s("10.0.0.2") == 0, "others are not concerned"
    clock.now_s += wait_s
    assert throttle.wait_s("10.0.0.1") == 0
    throttle.succeeded("10.0.0.1")
    assert [throttle.wait_s("10.0.0.1") for _ in range(5)] == [0] * 5


def test_many_guessers_do_not_lock_the_owner_out() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock)
    passed = 0
    for round_number in range(600):
        clock.now_s += 0.1
        passed += throttle.wait_s(f"10.0.{round_number % 20}.1") == 0
    assert passed < 180, "twenty guessers together in a minute"
    assert throttle.wait_s("192.168.1.5") == 0, "the owner gets his attempt"


def test_an_ipv6_network_is_one_client() -> None:
    throttle = LoginThrottle(Clock())
    waits = [throttle.wait_s(f"2001:db8::{n:x}") for n in range(6)]
    assert [wait_s == 0 for wait_s in waits] == [True] * 5 + [False]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=60))
def test_nobody_waits_for_more_than_a_minute(tries: list[tuple[str, float]]) -> None:
    clock = Clock()
    throttle = LoginThrottle(clock)
    for client, pause_s in tries:
        clock.now_s += pause_s
        assert 0 <= throttle.wait_s(client) <= 60
