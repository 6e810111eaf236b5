"""Let every single write, fsync, rename, unlink and commit of the program fail, one after another.

`make torture-faults`. A scripted scenario of captures, uploads, retention, exports and restarts is
played with the real services on a real folder, in a child whose C library can let the n-th call of
a kind fail (`tests/rigs/faulty_disk`). First each call once, with several errors; then every
second, third, ... call while it runs. Then the disk works again, and what was acknowledged is
looked for: first in the running program, then after a restart.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.gates import Gate, report
from tests.rigs.faulty_disk import Fault, FaultyDisk
from tests.torture.rounds import ROOT, Rounds

ERRORS = ("ENOSPC", "EIO", "EROFS")
EVERY = (2, 3, 5, 7, 11, 13, 17, 23)
COUNTS = (
    "lost",
    "torn",
    "unsent",
    "rowless",
    "fileless",
    "stray",
    "unbalanced",
    "repeated",
    "dead",
)


def faults_of(calls: dict[str, int]) -> list[Fault]:
    """Return every fault to be tried when a round makes so many calls of each kind."""
    found = []
    for kind, number in calls.items():
        for first in range(1, number + 1):
            found += [Fault(kind, first, 0, error) for error in ("ENOSPC", "EIO")]
            if kind in ("write", "commit"):
                found.append(Fault(kind, first, 0, "ENOSPC", is_short=True))
        for every in EVERY:
            found += [Fault(kind, every, every, error) for error in ERRORS]
        found += [
            Fault(kind, first, 1, "EROFS") for first in range(1, number, max(1, number // 12))
        ]
    return found


def control_faults() -> list[Fault]:
    """Return some faults that a careless program does not survive."""
    return [Fault("create", n, n, "ENOSPC") for n in range(1, 13)]


class Child:
    """The process whose disk fails; plays one round after another."""

    def __init__(self, folder: Path, control: str = "") -> None:
        self._disk = FaultyDisk(folder / "table", folder / "disk")
        command = [sys.executable, "-m", "tests.torture.faults", "--child", str(folder)]
        self._process = subprocess.Popen(
            [*command, "--control", control],
            cwd=ROOT,
            env={**os.environ, **self._disk.environment(), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def play(self, fault: Fault | None) -> dict[str, Any]:
        """Play a round and return its figures."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(fault and asdict(fault)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the child died of {fault}"
        result: dict[str, Any] = json.loads(answer)
        return result

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        self._disk.close()


@contextmanager
def child(control: str = "") -> Iterator[Child]:
    """Start the child on a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "disk").mkdir()
        started = Child(Path(name), control)
        try:
            yield started
        finally:
            started.close()


def serve(folder: Path, control: str) -> None:
    """Play rounds as told on the standard input; the child's side."""
    from tests.torture import faults_round  # the parent does without the program

    logging.disable(logging.CRITICAL)
    faults_round.break_program(control)
    disk = FaultyDisk(folder / "table", folder / "disk")
    for line in sys.stdin:
        told = json.loads(line)
        disk.heal()
        place = folder / "disk" / "round"
        result = faults_round.play(place, disk, Fault(**told) if told else None)
        shutil.rmtree(place)
        print(json.dumps(result), flush=True)
    disk.close()


def gates_of(results: Sequence[dict[str, Any]], control: Sequence[dict[str, Any]]) -> list[Gate]:
    """Return the figures of all rounds with their limits."""
    total = Counter[str]()
    for result in results:
        total.update({name: int(result[name]) for name in (*COUNTS, "failed", "acknowledged")})
    caught = sum(any(result[name] for name in COUNTS) for result in control)
    return [
        Gate("rounds", len(results), len(results), "", at_least=True),
        Gate("failures injected", total["failed"], len(results) * 0.9, "", at_least=True),
        Gate("images acknowledged", total["acknowledged"], len(results), "", at_least=True),
        Gate("acknowledged images lost", total["lost"], 0, ""),
        Gate("torn files, images or lists", total["torn"], 0, ""),
        Gate("acknowledged, never sent", total["unsent"], 0, ""),
        Gate("acknowledged files without a row", total["rowless"], 0, ""),
        Gate("rows without a file", total["fileless"], 0, ""),
        Gate("stray temporary files", total["stray"], 0, ""),
        Gate("event ledgers that don't add up", total["unbalanced"], 0, ""),
        Gate("images sent twice in one run", total["repeated"], 0, ""),
        Gate("threads that would have died", total["dead"], 0, ""),
        Gate(
            f"broken program caught, of {len(control)}",
            caught,
            len(control) // 2,
            "",
            at_least=True,
        ),
    ]


def measure() -> list[Gate]:
    """Play all rounds, and some with a program that is broken on purpose."""
    with child() as clean:
        calls = clean.play(None)["calls"]
    print("calls in one round:", ", ".join(f"{kind} {n}" for kind, n in calls.items()))
    faults = faults_of(calls)
    rounds = Rounds("faults", len(faults), calls)
    with child() as process:
        for number in rounds.left():
            result = process.play(faults[number])
            rounds.note(number, **result)
            if any(result[name] for name in COUNTS):
                print(f"  {faults[number]}: {result}")
    with child("careless") as broken:
        control = [broken.play(fault) for fault in control_faults()]
    return gates_of(rounds.results, control)


def main() -> int:
    """Run the rig, or be its child."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", type=Path)
    parser.add_argument("--control", default="")
    options = parser.parse_args()
    if options.child is not None:
        serve(options.child, options.control)
        return 0
    return report(measure())


if __name__ == "__main__":
    sys.exit(main())
