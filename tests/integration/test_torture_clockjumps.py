"""A clock that jumps, in short; `make torture-clockjumps` runs it whole."""

from __future__ import annotations

from pathlib import Path

from tests.torture.clockjumps import run, same_second


def test_a_clock_that_jumps_deletes_renames_and_reorders_nothing(tmp_path: Path) -> None:
    found = run(tmp_path, 120)
    assert (found.deleted, found.renamed_or_altered, found.out_of_order) == (0, 0, 0)
    assert found.wrongly_trusted == 0
    assert found.corrected == found.correctable > 0
    assert found.cleanups > 0


def test_the_rig_notices_a_clock_that_is_believed(tmp_path: Path) -> None:
    found = run(tmp_path, 120, gullible=True)
    assert found.deleted > 0
    assert found.wrongly_trusted > 0


def test_captures_in_one_second_do_not_collide(tmp_path: Path) -> None:
    crowd = same_second(tmp_path, 60, cameras=3)
    assert (crowd.acknowledged, crowd.distinct_names, crowd.intact) == (60, 60, 60)
