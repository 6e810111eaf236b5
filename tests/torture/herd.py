"""Two hundred gates come online at the same moment, with 300 pictures each.

The real upload service, line, retry worker, backoff and catalog of every gate; only the server and
the clock are simulated. The server takes 60 pictures a second; what it does with the others is
what the cases differ in.
"""

from __future__ import annotations

import heapq
import logging
import random
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from bench.gates import Gate, report
from runtime.stats import Stats
from store.catalog import Catalog
from store.rows import Image
from tests.rigs.stores import JPEG, upload_config
from tests.torture.backlog import fill, storage_of
from tests.torture.rounds import Rounds
from upload.outcomes import Delivered, Outcome, classify
from upload.pacing import Jitter
from uploader import RetryWorker, UploadService

GATES: Final = 200
PICTURES: Final = 300
RATE: Final = 60.0
SLOWER_THAN_IDEAL: Final = 1.3
_NOON: Final = datetime(2026, 12, 1, 12, tzinfo=UTC)
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - nothing here has to survive


@dataclass(frozen=True)
class Case:
    """What the server does with more than it can take.

    `status` refuses it, with `headers`; without a status it waits in a queue. After `patience_s`
    in it a gateway answers 504, although the server works through it all the same. A case is not
    `limited` when the server itself asks for more waiting than it needs.
    """

    name: str
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    latency_s: float = 0.02
    burst: float = RATE
    patience_s: float = 30.0
    limited: bool = True


CASES: Final = (
    Case("503", 503),
    Case("503, no bursts", 503, burst=1),
    Case("503, 0.1 s away", 503, latency_s=0.1),
    Case("429, Retry-After 5", 429, (("retry-after", "5"),)),
    Case("429, Retry-After 120", 429, (("retry-after", "120"),), limited=False),
    Case("queue", latency_s=0.1),
    Case("queue, 504 after 2 s", patience_s=2.0),
)


class Clock:
    """Both clocks of the upload service; the gate whose turn it is sets it."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def monotonic(self) -> float:
        """Stand in for `time.monotonic`."""
        return 1000.0 + self.passed_s

    def now(self) -> datetime:
        """Stand in for `datetime.now(UTC)`."""
        return _NOON + timedelta(seconds=self.passed_s)


class Server:
    """Take `RATE` pictures a second; requests come in the order of their times."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._tokens = case.burst
        self._counted_s = 0.0
        self._free_s = 0.0
        self.requests = 0
        self.refused = 0
        self.delivered_s: dict[tuple[int, int], float] = {}
        """When each gate's image arrived for the first time."""

    def take(self, which: tuple[int, int], now_s: float) -> tuple[Outcome, float]:
        """Return what the client gets for a request, and when."""
        self.requests += 1
        case = self._case
        if case.status is None:
            return self._queue(which, now_s)
        self._tokens += (now_s - self._counted_s) * RATE
        self._tokens = min(case.burst, self._tokens)
        self._counted_s = now_s
        answered_s = now_s + case.latency_s
        if self._tokens < 1:
            self.refused += 1
            return classify(case.status, dict(case.headers), b""), answered_s
        self._tokens -= 1
        self.delivered_s.setdefault(which, answered_s)
        return Delivered(None), answered_s

    def _queue(self, which: tuple[int, int], now_s: float) -> tuple[Outcome, float]:
        self._free_s = max(self._free_s, now_s) + 1 / RATE
        answered_s = self._free_s + self._case.latency_s
        self.delivered_s.setdefault(which, answered_s)
        if answered_s > now_s + self._case.patience_s:
            self.refused += 1
            return classify(504, {}, b""), now_s + self._case.patience_s
        return Delivered(None), answered_s


class HerdGate:
    """One gate: the real service on a catalog of its own."""

    def __init__(
        self,
        number: int,
        folder: Path,
        pictures: int,
        server: Server,
        clock: Clock,
        jitter: Jitter,
    ) -> None:
        self._number = number
        self._server = server
        self._clock = clock
        self.catalog = Catalog.open_owner(storage_of(folder / str(number)))
        fill(self.catalog, pictures, [JPEG])
        self._service = UploadService(
            upload_config(),
            self.catalog,
            Stats(),
            make_target=lambda: self,
            clock=clock.monotonic,
            now=clock.now,
            jitter=jitter,
        )
        worker = self._service.workers[0]
        assert isinstance(worker, RetryWorker)
        self.worker = worker

    def send(self, image: Image, jpeg: bytes, *, replay: bool) -> Outcome:
        """Be the gate's upload target."""
        outcome, self._clock.passed_s = self._server.take(
            (self._number, image.id), self._clock.passed_s
        )
        return outcome

    def close(self) -> None:
        """Close the catalog."""
        self.catalog.close()

    def come_online(self) -> None:
        """Let the line come back."""
        self._service._line.note_unreachable("no route")
        self._service._line.note_reached()


@dataclass(frozen=True)
class Drained:
    """How a herd was drained."""

    seconds: float
    requests: int
    refused: int
    pending: int
    first_gate_s: float


def run_case(
    case: Case, gates: int, pictures: int, *, seed: int = 6, jitter: Jitter = random.uniform
) -> Drained:
    """Let so many gates come online together and return how they were drained."""
    clock, server = Clock(), Server(case)
    random.seed(seed)
    logging.disable(logging.WARNING)
    try:
        with ExitStack() as stack:
            folder = _MEMORY if _MEMORY.is_dir() else None
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="herd-", dir=folder))
            herd = [HerdGate(n, Path(name), pictures, server, clock, jitter) for n in range(gates)]
            for gate in herd:
                stack.callback(gate.close)
            _drain(herd, server, clock, pictures)
            pending = sum(gate.catalog.rows.totals().by_state["pending"] for gate in herd)
    finally:
        logging.disable(logging.NOTSET)
    done_s = [max(server.delivered_s[n, i + 1] for i in range(pictures)) for n in range(gates)]
    return Drained(max(done_s), server.requests, server.refused, pending, min(done_s))


def _drain(herd: list[HerdGate], server: Server, clock: Clock, pictures: int) -> None:
    """Let each worker step when its wait is over, in the order of time, until all are through."""
    for gate in herd:
        gate.come_online()
    turns = [(0.0, number) for number in range(len(herd))]
    limit_s = 20 * len(herd) * pictures / RATE + 7200
    while turns:
        clock.passed_s, number = heapq.heappop(turns)
        if clock.passed_s > limit_s:
            raise RuntimeError(f"not drained after {limit_s:.0f} s")
        gate = herd[number]
        wait_s = gate.worker.step()
        if gate.catalog.rows.totals().by_state["pending"]:
            heapq.heappush(turns, (clock.passed_s + wait_s, number))


def main() -> int:
    """Run all cases and print how each was drained."""

    def say(text: str) -> None:
        print(text, flush=True)

    rounds = Rounds("herd", len(CASES), [GATES, PICTURES, RATE])
    for number in rounds.left():
        rounds.note(number, **vars(run_case(CASES[number], GATES, PICTURES)))
    return report(gates_of([drained_of(r) for r in rounds.results], say))


def drained_of(result: dict[str, Any]) -> Drained:
    """Return what was noted of a round."""
    return Drained(**{name: value for name, value in result.items() if name != "round"})


def gates_of(drained: list[Drained], say: Callable[[str], None]) -> list[Gate]:
    """Put the figures beside their limits."""
    ideal_s = GATES * PICTURES / RATE
    found = []
    for case, result in zip(CASES, drained, strict=True):
        say(
            f"{case.name}: {result.requests} requests, {result.refused} of them refused or left;"
            f" the first gate was through after {result.first_gate_s:.0f} s,"
            f" the last after {result.seconds:.0f} s"
        )
        slower = result.seconds / ideal_s
        if case.limited:
            found.append(Gate(f"drained, {case.name}", slower, SLOWER_THAN_IDEAL, "x ideal"))
        found.append(Gate(f"not sent, {case.name}", result.pending, 0, ""))
    return found


if __name__ == "__main__":
    sys.exit(main())
