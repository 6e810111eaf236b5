"""A power cut loses and tears nothing: the rig's short form."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torture import power
from tests.torture.driver import NO_FILE_FSYNC, NO_FSYNC


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder whose files can be cloned; say loudly when there can't be one."""
    reason = power.missing()
    if reason is not None and os.environ.get("CI"):
        pytest.fail(f"no power can be cut: {reason}")
    if reason is not None:
        pytest.skip(f"NOT TESTED, no power can be cut: {reason}")
    with power.host(tmp_path_factory.mktemp("power")) as found:
        yield found


@pytest.mark.parametrize("filesystem", [power.EXT4, power.XFS])
def test_nothing_is_lost_when_the_power_is_cut(place: Path, filesystem: str) -> None:
    found = power.cut_series(place, filesystem, seed=6, cuts=6)
    assert {kind: found[kind] for kind in power.FAULTS} == dict.fromkeys(power.FAULTS, 0)
    assert found["looked_at"] > 0


@pytest.mark.parametrize(("careless", "fault"), [(NO_FILE_FSYNC, "torn"), (NO_FSYNC, "lost")])
def test_the_rig_sees_what_is_lost_without_fsync(place: Path, careless: str, fault: str) -> None:
    assert power.cut_series(place, power.EXT4, seed=6, cuts=6, careless=careless)[fault] > 0
