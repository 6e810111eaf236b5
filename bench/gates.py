"""Figures with their limits, and what a process uses."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gate:
    """A figure with its limit."""

    name: str
    value: float
    limit: float
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Tell whether the limit holds."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def report(gates: Sequence[Gate]) -> int:
    """Print every figure beside its limit; return 0 when all are met, else 1."""
    width = max(len(gate.name) for gate in gates)
    for gate in gates:
        sign = ">=" if gate.at_least else "<="
        verdict = "ok" if gate.met else "MISSED"
        print(
            f"{gate.name:<{width}}  {gate.value:8.3g} {gate.unit:<12} {sign} {gate.limit:<6g}"
            f" {verdict}"
        )
    return 0 if all(gate.met for gate in gates) else 1


def cpu_s(pid: int) -> float:
    """Return the processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Return a process's resident memory."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", text)
    return int(found[1]) / 1000 if found else 0.0
