"""A wall clock that jumps between 1970 and the end of the century, and a second full of captures.

1,000 edges go through the real capture path into a real catalog while the clock is set to and fro,
the daemon and the machine are restarted, and the retention and the correction run in between. Only
the clocks and the camera are pretended. Then every file is compared with what was acknowledged, and
every time with the true one.
"""

from __future__ import annotations

import hashlib
import logging
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from bench.gates import Gate, report
from camera.frame import Frame, Pin
from capture_service import CaptureService, CaptureTicket
from cleanup_service import CleanupService
from clock_service import ClockService
from config import CleanupConfig, parse
from runtime.clock import Clock
from runtime.stats import Stats
from runtime.version import RELEASED_AT
from runtime.worker import stop_all
from store.catalog import Catalog
from store.rows import Image, ImageFilter
from tests.rigs.stores import JPEG, storage_config

EVENTS: Final = 1_000
SAME_SECOND: Final = 1_000
TRUE_START: Final = RELEASED_AT + timedelta(days=400)
RETENTION_DAYS: Final = 10
_LOST: Final = datetime(1970, 1, 1, 0, 0, 9, tzinfo=UTC)
_MISTYPED: Final = datetime(2099, 12, 31, tzinfo=UTC)
_PATIENCE_S: Final = 600.0
_CAMERAS: Final = tuple(camera for camera in parse({}).cameras)


class World:
    """True time, and a machine whose two clocks and whose kernel tell something else."""

    def __init__(self) -> None:
        self.true_s = TRUE_START.timestamp()
        self.boot = 0
        self.booted_s = self.true_s - 10
        self.wall_offset_s = 0.0
        self.synchronized: bool | None = False

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.true_s += seconds

    @property
    def uptime_s(self) -> float:
        """What the monotonic clock shows."""
        return self.true_s - self.booted_s

    @property
    def true_at(self) -> datetime:
        """What time it really is."""
        return datetime.fromtimestamp(self.true_s, UTC)

    def set_wall(self, shows: datetime | None, *, synchronized: bool | None) -> None:
        """Step the wall clock (`None`: to the right time)."""
        self.wall_offset_s = 0.0 if shows is None else shows.timestamp() - self.true_s
        self.synchronized = synchronized

    def reboot(self, shows: datetime | None) -> None:
        """Start the machine again; it was off for a while."""
        self.advance(3600)
        self.boot += 1
        self.booted_s = self.true_s - 10
        self.set_wall(shows, synchronized=False)

    def clock(self, newest_at: datetime | None, *, gullible: bool) -> Clock:
        """Return the clock as the daemon has it; a gullible one believes whatever it is shown."""
        return Clock(
            synchronized=lambda: True if gullible else self.synchronized,
            wall_s=lambda: self.true_s + self.wall_offset_s,
            monotonic_s=lambda: self.uptime_s,
            released_at=datetime.fromtimestamp(0, UTC) if gullible else RELEASED_AT,
            newest_at=newest_at,
        )


class Camera:
    """A camera whose every picture is another one."""

    def __init__(self) -> None:
        self._number = 0

    def pin(self, moment_s: float, within_s: float = 0.0) -> Pin:
        """Hold a moment."""
        return Pin(moment_s, within_s, None)

    def take(self, pin: Pin) -> Frame:
        """Return a picture of its own."""
        self._number += 1
        jpeg = JPEG + b"%d %d" % (id(self), self._number)
        return Frame(jpeg, b"small", 1920, 1080, pin.wanted_s, ())

    def drop(self, pin: Pin) -> None:
        """Let go of nothing."""


@dataclass
class Box:
    """The daemon's parts around one catalog, in one boot."""

    catalog: Catalog
    capture: CaptureService
    cleanup: CleanupService
    corrector: ClockService
    saved: list[Image]


@contextmanager
def box(folder: Path, world: World, cameras: int = 1, *, gullible: bool = False) -> Iterator[Box]:
    """Start the daemon's parts, without threads."""
    catalog = Catalog.open_owner(storage_config(folder), boot=f"boot {world.boot}")
    clock = world.clock(catalog.rows.newest_image_at(), gullible=gullible)
    saved: list[Image] = []
    capture = CaptureService(
        _CAMERAS[:cameras],
        {camera.key: Camera() for camera in _CAMERAS},
        catalog,
        Stats(),
        site_id="gate-1",
        uploads_enabled=True,
        on_saved=saved.append,
        clock=clock,
    )
    cleanup = CleanupService(
        CleanupConfig(RETENTION_DAYS, 24),
        catalog,
        Stats(),
        min_free_disk_bytes=0,
        uploads_enabled=True,
        clock=clock,
    )
    try:
        yield Box(catalog, capture, cleanup, ClockService(catalog, clock), saved)
    finally:
        catalog.close()


@dataclass
class Acknowledged:
    """A picture as it was acknowledged, and when it was really taken."""

    image: Image
    taken_at: datetime
    boot: int


@dataclass
class Findings:
    """What was found wrong, and what was done to make something go wrong."""

    events: int = 0
    jumps: int = 0
    restarts: int = 0
    cleanups: int = 0
    untrusted: int = 0
    corrected: int = 0
    correctable: int = 0
    deleted: int = 0
    renamed_or_altered: int = 0
    out_of_order: int = 0
    wrongly_trusted: int = 0
    worst_error_s: float = 0.0
    settled_boots: dict[int, int] = field(default_factory=dict)
    """For each boot whose clock came right: how many edges there had been by then."""


def jump(world: World, chance: random.Random) -> None:
    """Set the clock to something else, most often wrong."""
    unsure = chance.choice((False, None))
    what = chance.randrange(5)
    if what == 0:
        world.set_wall(_LOST, synchronized=unsure)
    elif what == 1:
        world.set_wall(_LOST, synchronized=True)  # a kernel that has not noticed
    elif what == 2:
        world.set_wall(_MISTYPED, synchronized=False)
    elif what == 3:
        world.set_wall(world.true_at - timedelta(days=3), synchronized=False)
    else:
        world.set_wall(None, synchronized=True)


def run(folder: Path, events: int, *, gullible: bool = False) -> Findings:
    """Let the clock jump over so many edges and return what came of it."""
    chance, world, found = random.Random(1970), World(), Findings()
    ledger: list[Acknowledged] = []
    while len(ledger) < events:
        with box(folder, world, gullible=gullible) as parts:
            edges = min(chance.randint(5, 60), events - len(ledger))
            ledger.extend(one_edge(parts, world, chance, found) for _ in range(edges))
        found.restarts += 1
        if chance.random() < 0.5:
            world.reboot(chance.choice((_LOST, world.true_at - timedelta(days=1), _MISTYPED)))
    world.set_wall(None, synchronized=True)
    with box(folder, world, gullible=gullible) as parts:
        settle(parts, world, found, len(ledger))
        parts.cleanup.run()
        compare(parts.catalog, ledger, found)
    return found


def one_edge(parts: Box, world: World, chance: random.Random, found: Findings) -> Acknowledged:
    """Take a picture, and let what else a daemon does happen now and then."""
    world.advance(chance.choice((0.0, 0.3, 1.7, 20.0)))
    if chance.random() < 0.2:
        jump(world, chance)
        found.jumps += 1
    number = found.events = found.events + 1
    image = captured(parts, world)
    taken_at = world.true_at
    found.untrusted += not image.clock_trusted
    if chance.random() < 0.8:  # or it would not age anyway
        parts.catalog.states.mark_uploaded(image.id, None)
    if chance.random() < 0.2:
        if world.synchronized and world.wall_offset_s == 0:
            settle(parts, world, found, number)
        else:
            parts.corrector.step()
    if chance.random() < 0.1:
        parts.cleanup.run()
        found.cleanups += 1
    return Acknowledged(image, taken_at, world.boot)


def captured(parts: Box, world: World) -> Image:
    """Let an edge fall now and serve it."""
    worker = parts.capture.workers["camera_1"]
    ticket = parts.capture.request("camera_1", edge_s=world.uptime_s)
    worker.step()
    outcome = ticket.result(0)
    assert outcome is not None
    assert outcome.image is not None, outcome.reason
    return outcome.image


def settle(parts: Box, world: World, found: Findings, edges: int) -> None:
    """Give the corrector the looks it needs at a clock that is right."""
    while parts.corrector.step() == 0.0:
        pass
    world.advance(5.0)
    while parts.corrector.step() == 0.0:
        pass
    found.settled_boots[world.boot] = edges


def compare(catalog: Catalog, ledger: list[Acknowledged], found: Findings) -> None:
    """Look for every acknowledged picture."""
    for number, entry in enumerate(ledger, start=1):
        correctable = number <= found.settled_boots.get(entry.boot, 0)
        was_untrusted = not entry.image.clock_trusted
        found.correctable += was_untrusted and correctable
        path = catalog.rows.path_of(entry.image.filename)
        try:
            row = catalog.rows.image(entry.image.filename)
        except KeyError:
            found.deleted += 1
            continue
        if not path.exists():
            found.deleted += 1
        elif hashlib.sha256(path.read_bytes()).hexdigest() != entry.image.sha256 or (
            (row.id, row.sha256, row.event_id)
            != (entry.image.id, entry.image.sha256, entry.image.event_id)
        ):
            found.renamed_or_altered += 1
        error_s = abs((row.captured_at - entry.taken_at).total_seconds())
        if row.clock_trusted:
            found.corrected += was_untrusted
            found.wrongly_trusted += error_s > 0.002
            found.worst_error_s = max(found.worst_error_s, error_s)
    in_order = [entry.image.filename for entry in ledger]
    listed = [i.filename for i in catalog.rows.images(ImageFilter(), limit=len(ledger) + 1)][::-1]
    found.out_of_order = sum(a != b for a, b in zip(in_order, listed, strict=False))
    found.out_of_order += abs(len(listed) - len(in_order))


@dataclass(frozen=True)
class Crowd:
    """What came of captures in one second."""

    acknowledged: int
    distinct_names: int
    intact: int


def same_second(folder: Path, captures: int, cameras: int) -> Crowd:
    """Let so many edges fall at one moment, shared out among cameras, each on its own thread.

    A second process' catalog, as `--test-capture` has one, saves pictures of the same cameras
    meanwhile.
    """
    world = World()
    world.set_wall(None, synchronized=True)
    with box(folder, world, cameras) as parts, box_beside(folder, world, cameras) as beside:
        workers = [*parts.capture.workers.values(), *beside.workers.values()]
        for worker in workers:
            worker.start()
        tickets: list[CaptureTicket] = []
        saved: list[Image] = []
        for number in range(captures):
            key = _CAMERAS[number % cameras].key
            service = parts.capture if number % 4 else beside
            tickets.append(service.request(key, edge_s=world.uptime_s))
            if number % 100 == 99:  # a camera's queue has room for 200
                saved += [image_of(ticket) for ticket in tickets]
                tickets.clear()
        saved += [image_of(ticket) for ticket in tickets]
        assert stop_all(workers, _PATIENCE_S) == []
        intact = 0
        for image in saved:
            row = parts.catalog.rows.image(image.filename)
            data = parts.catalog.rows.path_of(image.filename).read_bytes()
            intact += row.sha256 == image.sha256 == hashlib.sha256(data).hexdigest()
    return Crowd(len(saved), len({image.filename for image in saved}), intact)


@contextmanager
def box_beside(folder: Path, world: World, cameras: int) -> Iterator[CaptureService]:
    """Open the same catalog once more, as another process does."""
    catalog = Catalog.open_beside(storage_config(folder))
    try:
        yield CaptureService(
            _CAMERAS[:cameras],
            {camera.key: Camera() for camera in _CAMERAS},
            catalog,
            Stats(),
            site_id="gate-1",
            uploads_enabled=True,
            on_saved=lambda image: None,
            clock=world.clock(None, gullible=False),
        )
    finally:
        catalog.close()


def image_of(ticket: CaptureTicket) -> Image:
    """Wait for a capture's picture."""
    outcome = ticket.result(_PATIENCE_S)
    assert outcome is not None, "a capture did not end"
    assert outcome.image is not None, outcome.reason
    return outcome.image


def main() -> int:
    """Run everything whole and return the exit code."""
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = run(folder / "jumps", EVENTS)
        control = run(folder / "control", EVENTS, gullible=True)
        alone = same_second(folder / "alone", SAME_SECOND, cameras=1)
        crowd = same_second(folder / "crowd", SAME_SECOND, cameras=3)
    print(
        f"{found.events} edges, {found.jumps} jumps of the clock, {found.restarts} restarts in"
        f" {len(found.settled_boots)} boots whose clock came right, {found.cleanups} cleanups;"
        f" {found.untrusted} edges with a wrong clock, {found.corrected} of them corrected, the"
        " rest"
        " of boots that ended before the clock came right"
    )
    left = found.correctable - found.corrected
    gates = [
        Gate("images deleted", found.deleted, 0, ""),
        Gate("images renamed or altered", found.renamed_or_altered, 0, ""),
        Gate("images out of order", found.out_of_order, 0, ""),
        Gate("wrong times passed off as right", found.wrongly_trusted, 0, ""),
        Gate("worst error of a trusted time", found.worst_error_s * 1000, 2, "ms"),
        Gate("wrong times left that could be corrected", left, 0, ""),
        Gate("wrong times corrected", found.corrected, found.events / 10, "", at_least=True),
        Gate("cleanups in between", found.cleanups, found.events / 20, "", at_least=True),
        Gate("control believing the clock: deleted", control.deleted, 1, "", at_least=True),
        Gate("control: wrong times as right", control.wrongly_trusted, 1, "", at_least=True),
    ]
    for what, seen in (("one camera", alone), ("three cameras", crowd)):
        name = f"same second, {what}"
        gates.append(Gate(f"{name}: distinct files", seen.distinct_names, SAME_SECOND, "", True))
        gates.append(Gate(f"{name}: intact files", seen.intact, SAME_SECOND, "", True))
    return report(gates)


if __name__ == "__main__":
    sys.exit(main())
