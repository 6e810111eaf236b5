"""Rounds of a rig that can be interrupted and taken up again.

What a round came to is kept in `bench/.cache/torture/`, together with a mark of the code it was
measured on: after a change of the program, or of the rig, it begins anew.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "bench" / ".cache" / "torture"


class Rounds:
    """Results of rounds numbered from 0, kept as one JSON line each.

    `settings` are what the results depend on beside the code.
    """

    def __init__(
        self, name: str, total: int, settings: object = None, *, folder: Path = CACHE
    ) -> None:
        self.total = total
        self._path = folder / f"{name}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        mark = {"code": _code_mark(), "settings": settings}
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        if not lines or _parsed(lines[0]) != json.loads(json.dumps(mark)):
            lines = [json.dumps(mark)]
            self._path.write_text(lines[0] + "\n", encoding="utf-8")
        found = [_parsed(line) for line in lines[1:]]
        self._results = {r["round"]: r for r in found if r is not None and r["round"] < total}

    @property
    def results(self) -> list[dict[str, Any]]:
        """Return what the rounds done so far came to."""
        return [self._results[number] for number in sorted(self._results)]

    def left(self) -> Iterator[int]:
        """Yield the numbers of the rounds still to be done, and say how far it is."""
        for number in range(self.total):
            if number not in self._results:
                yield number
            if sys.stdout.isatty() or (number + 1) % max(1, self.total // 10) == 0:
                end = "\r" if sys.stdout.isatty() else "\n"
                print(f"  {number + 1} of {self.total}", end=end, flush=True)
        if sys.stdout.isatty():
            print()

    def note(self, number: int, **figures: object) -> None:
        """Keep what a round came to."""
        result = {"round": number, **figures}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        self._results[number] = json.loads(json.dumps(result))

    def sum(self, figure: str) -> int:
        """Return the sum of a figure over all rounds done."""
        return sum(int(result[figure]) for result in self.results)


def _code_mark() -> str:
    sources = [*ROOT.glob("*.py"), *ROOT.glob("*/*.py")]
    sources += [*ROOT.glob("tests/rigs/*.py"), *ROOT.glob("tests/torture/*.py")]
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:  # the line that an interruption cut
        return None
