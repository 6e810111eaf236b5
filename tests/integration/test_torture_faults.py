"""Failing writes, fsyncs, renames, unlinks, commits: the torture in a short form."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.rigs.faulty_disk import Fault
from tests.torture import faults

N_OF_ALL = 40
"""Of so many rounds of the whole torture one is played here."""


@pytest.fixture(scope="module")
def compiler() -> None:
    if shutil.which("gcc"):
        return
    if os.environ.get("CI"):
        pytest.fail("no gcc to build the failing disk with")
    pytest.skip("NOT TESTED, a failing disk: gcc is missing")


@pytest.fixture(scope="module")
def child(compiler: None) -> Iterator[faults.Child]:
    with faults.child() as started:
        yield started


def test_nothing_is_lost_whatever_call_fails(child: faults.Child) -> None:
    clean = child.play(None)
    assert clean["acknowledged"] == 11
    assert min(clean["calls"].values()) > 0  # of every kind
    results = [child.play(fault) for fault in faults.faults_of(clean["calls"])[::N_OF_ALL]]
    assert sum(result["failed"] for result in results) > len(results) // 2
    wrong = [r for r in results if any(r[name] for name in faults.COUNTS)]
    assert wrong == []


@pytest.mark.parametrize("kind", ["create", "unlink"])
def test_every_single_open_and_unlink_may_fail(child: faults.Child, kind: str) -> None:
    calls = child.play(None)["calls"][kind]
    for first in range(1, calls + 1):
        result = child.play(Fault(kind, first, 0, "EIO"))
        assert {name: result[name] for name in faults.COUNTS if result[name]} == {}, first


def test_a_careless_program_is_caught(compiler: None) -> None:
    with faults.child("careless") as broken:
        assert not any(broken.play(None)[name] for name in faults.COUNTS)
        results = [broken.play(fault) for fault in faults.control_faults()]
    assert any(any(result[name] for name in faults.COUNTS) for result in results)
