"""SIGKILL at random moments loses, tears and repeats nothing: the rig's short form."""

from __future__ import annotations

from tests.rigs.gates import gates
from tests.torture.crash import FAULTS, kill_daemon_series, kill_series
from tests.torture.driver import IN_PLACE


def assert_faultless(found: dict[str, int]) -> None:
    assert {kind: found[kind] for kind in FAULTS} == dict.fromkeys(FAULTS, 0)
    assert found["worst"] <= 1
    assert found["saved"] > 0


def test_nothing_is_lost_when_the_services_are_killed() -> None:
    found = kill_series(seed=6, kills=15)
    assert_faultless(found)
    assert found["starts_checked"] > 0


def test_the_rig_sees_pictures_that_are_torn() -> None:
    assert kill_series(seed=6, kills=12, careless=IN_PLACE)["torn"] > 0


def test_nothing_is_lost_when_the_daemon_is_killed() -> None:
    with gates("admin", "secret") as site:
        assert_faultless(kill_daemon_series(site, seed=6, kills=3))
