"""A line that loses the reply to three of ten uploads, and pictures that the server refuses.

Real upload services on their real threads, with their real waits, over real HTTP. Several gates
at once, since a gate waits seconds after each loss.
"""

from __future__ import annotations

import logging
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from bench.gates import Gate, percentile, report
from runtime.stats import Stats
from runtime.worker import stop_all
from store.catalog import Catalog
from tests.rigs.receiver import Answer, Receiver, text
from tests.rigs.stores import JPEG, save, upload_config
from tests.torture.backlog import fill, storage_of
from tests.torture.rounds import CACHE
from upload.http_target import HttpTarget
from uploader import UploadService

GATES: Final = 25
PICTURES: Final = 200
LIVE: Final = 50
LOSS: Final = 0.3
POISON_EVERY: Final = 100
POISON_TURNS: Final = 5
_POLL_S: Final = 0.02
_REFUSALS: Final = (400, 413, 422)


class LossyGate:
    """One gate with a backlog, whose newest pictures come while it drains."""

    def __init__(self, name: str, folder: Path, backlog: int, receiver: Receiver) -> None:
        self.catalog = Catalog.open_owner(storage_of(folder / name))
        fill(self.catalog, backlog, [JPEG])
        config = upload_config(receiver.url, connectivity_check_interval_s=1.0)
        self._service = UploadService(
            config, self.catalog, Stats(), make_target=partial(HttpTarget, config, name)
        )

    def start(self) -> None:
        """Begin to drain."""
        for worker in self._service.workers:
            worker.start()

    def capture(self) -> None:
        """Save a picture and hand it over as a capture does."""
        self._service.submit(save(self.catalog))

    def count(self, state: str) -> int:
        """Return how many images are in a state."""
        return self.catalog.rows.totals().by_state[state]

    def close(self) -> None:
        """Stop everything."""
        stop_all(self._service.workers, 10)
        self.catalog.close()


@dataclass(frozen=True)
class Lossy:
    """What became of pictures whose replies were lost."""

    pictures: int
    arrived: int
    stored_twice: int
    repeats: int
    lost_replies: int
    pending: int
    seconds: float


def run_lossy(
    gates: int, backlog: int, live: int, *, honour_keys: bool = True, patience_s: float = 900
) -> Lossy:
    """Let `gates` deliver their pictures to a receiver of whose replies some are lost."""
    chance = random.Random(6)
    started_s = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(_folder()))
        receiver = stack.enter_context(Receiver(honour_keys=honour_keys))
        receiver.answer_for(lambda _: chance.random() < LOSS, Answer(drop_reply=True))
        sites = [LossyGate(f"gate-{n}", folder, backlog, receiver) for n in range(gates)]
        for site in sites:
            stack.callback(site.close)
            site.start()
        for _ in range(live):
            for site in sites:
                site.capture()
        _wait_until(lambda: not any(site.count("pending") for site in sites), patience_s)
        pending = sum(site.count("pending") for site in sites)
        stored = Counter((r.headers["x-site-id"], r.filename) for r in receiver.accepted)
        requests = receiver.requests
    return Lossy(
        pictures=gates * (backlog + live),
        arrived=len(stored),
        stored_twice=sum(times - 1 for times in stored.values()),
        repeats=sum(request.repeat for request in requests),
        lost_replies=sum(request.fault == "drop_reply" for request in requests),
        pending=pending,
        seconds=time.monotonic() - started_s,
    )


@dataclass(frozen=True)
class Poison:
    """What became of pictures among which the server refuses some."""

    delivered: int
    rejected: int
    tried_again: int
    seconds: float


def run_poison(pictures: int, every: int, patience_s: float = 300) -> Poison:
    """Drain a backlog of which every so-many-th picture is refused; 0 is none."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(_folder()))
        receiver = stack.enter_context(Receiver())
        site = LossyGate("gate", folder, pictures, receiver)
        stack.callback(site.close)
        for number, image in enumerate(site.catalog.rows.oldest_pending(pictures)):
            if every and number % every == 0:
                refusal = text(_REFUSALS[number // every % len(_REFUSALS)], "no")
                receiver.answer_for(image.filename, refusal)
        started_s = time.monotonic()
        site.start()
        _wait_until(lambda: not site.count("pending"), patience_s)
        seconds = time.monotonic() - started_s
        tries = Counter(request.filename for request in receiver.requests)
        return Poison(
            delivered=site.count("uploaded"),
            rejected=site.count("rejected"),
            tried_again=sum(times - 1 for times in tries.values()),
            seconds=seconds,
        )


def _folder() -> tempfile.TemporaryDirectory[str]:
    CACHE.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="lossy-", dir=CACHE)


def _wait_until(condition: Callable[[], bool], patience_s: float) -> None:
    """Wait until a condition holds or the patience ends."""
    until_s = time.monotonic() + patience_s
    pause = threading.Event()
    while not condition() and time.monotonic() < until_s:
        pause.wait(_POLL_S)


def main() -> int:
    """Run it whole."""

    def say(text: str) -> None:
        print(text, flush=True)

    logging.disable(logging.ERROR)
    say(f"{GATES} gates with {PICTURES} pictures each ...")
    lossy = run_lossy(GATES, PICTURES - LIVE, LIVE)
    say(
        f"{lossy.lost_replies} replies lost, {lossy.repeats} uploads recognised by their keys,"
        f" {lossy.seconds:.0f} s"
    )
    say("the control: a receiver that does not look at keys ...")
    control = run_lossy(5, 20, 0, honour_keys=False)
    pictures = 10 * POISON_EVERY
    say(f"10 poison in {pictures} ...")
    turns = [
        (run_poison(pictures, 0), run_poison(pictures, POISON_EVERY)) for _ in range(POISON_TURNS)
    ]
    slower = percentile([poison.seconds / clean.seconds for clean, poison in turns], 0.5)
    worst = min(turns, key=lambda turn: turn[1].delivered)[1]
    return report(
        [
            Gate(f"of {lossy.pictures} not arrived", lossy.pictures - lossy.arrived, 0, ""),
            Gate("stored twice", lossy.stored_twice, 0, ""),
            Gate("left pending", lossy.pending, 0, ""),
            Gate("control: stored twice", control.stored_twice, 1, "", at_least=True),
            Gate("poison: delivered", worst.delivered, 990, "", at_least=True),
            Gate("poison: rejected", worst.rejected, 10, "", at_least=True),
            Gate("poison: tried again", max(poison.tried_again for _, poison in turns), 0, ""),
            Gate("poison: slower than without", slower, 1.1, "x"),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
