"""One round of `tests.torture.faults`: a day in the life of a box, played by hand, and the search.

Workers are stepped by hand through the loop that outlives failures, so that the n-th call is the
same one in every round; what would escape that loop counts as a dead thread.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from camera.frame import Frame, Pin, StreamError
from capture_service import CaptureService
from cleanup_service import CleanupService
from config import CleanupConfig, parse
from runtime.clock import Clock
from runtime.stats import Stats
from runtime.worker import Worker
from store.catalog import Catalog
from store.errors import StorageError
from store.image_files import ImageFolder
from store.pending_file import PendingExporter
from store.reconcile import Reconciler
from store.rows import Image, parse_name
from tests.rigs.faulty_disk import KINDS, Fault, FaultyDisk
from tests.rigs.stores import JPEG, storage_config, upload_config
from upload.outcomes import Deferred, Delivered, Outcome, Rejected
from uploader import UploadService

_ORPHAN = "r1_1700000000.jpg"
_STRAY = ".r1_1700000001.jpg.tmp"
_LONG_AGO = timedelta(days=60)
_DISK_BYTES = 10**12
_MOST_STEPS = 60
_STARTS = 3


class Found:
    """What a round did and what is wrong, over all its runs of the program."""

    def __init__(self) -> None:
        self.requests = 0
        self.acknowledged: dict[str, str | None] = {}
        self.to_send = {_ORPHAN}
        self.sent: dict[str, str] = {}
        self.wrong = Counter[str]()
        self.unwritten = 0

    def acknowledge(self, image: Image) -> None:
        """Note that an image counts as saved; its checksum was made from what is in memory."""
        self.acknowledged[image.filename] = image.sha256
        if image.state == "pending":
            self.to_send.add(image.filename)


class Camera:
    """Give each moment a picture of its own, of a size that takes more than one write."""

    def __init__(self) -> None:
        self.works = True

    def pin(self, moment_s: float, within_s: float = 0.0) -> Pin:
        """Hold nothing."""
        return Pin(moment_s, within_s, None)

    def take(self, pin: Pin) -> Frame:
        """Return a picture of noise."""
        if not self.works:
            raise StreamError("no picture")
        jpeg = JPEG[:-2] + os.urandom(20_000) + b"\xff\xd9"
        return Frame(jpeg, JPEG, 1920, 1080, pin.wanted_s, ())

    def drop(self, pin: Pin) -> None:
        """Hold nothing."""


class Server:
    """Take uploads, now and then not, and notice what comes twice or torn."""

    def __init__(self, found: Found, outcomes: list[Outcome]) -> None:
        self._found = found
        self._outcomes = outcomes
        self._taken: set[str] = set()

    def send(self, image: Image, jpeg: bytes, *, replay: bool) -> Outcome:
        """Answer as scripted, then take everything."""
        outcome = self._outcomes.pop(0) if self._outcomes else Delivered(None)
        is_old = datetime.now(UTC) - image.captured_at > _LONG_AGO / 2
        if is_old and isinstance(outcome, Rejected):  # retention would forget it
            outcome = Delivered(None)
        if isinstance(outcome, Delivered):
            sha256 = hashlib.sha256(jpeg).hexdigest()
            self._found.wrong["torn"] += sha256 != image.sha256
            self._found.wrong["repeated"] += image.filename in self._taken
            self._taken.add(image.filename)
            self._found.sent[image.filename] = sha256
        return outcome

    def close(self) -> None:
        """Hold nothing."""


class Run:
    """The program's services from one start to its end."""

    def __init__(
        self, folder: Path, found: Found, *, burst_ms: tuple[int, ...], outcomes: list[Outcome]
    ) -> None:
        self.found = found
        self._age_s = 0.0
        self.storage = storage_config(folder)
        self.catalog = Catalog.open_owner(self.storage)
        stats, self.camera = Stats(), Camera()
        self.server = Server(found, outcomes)
        self.uploads = UploadService(
            upload_config(), self.catalog, stats, make_target=lambda: self.server
        )
        cameras = parse({}).cameras[:2]
        self.captures = CaptureService(
            cameras,
            {camera.key: self.camera for camera in cameras},
            self.catalog,
            stats,
            site_id="gate-1",
            uploads_enabled=True,
            on_saved=self._on_saved,
            clock=Clock(synchronized=lambda: True, wall_s=lambda: time.time() - self._age_s),
            burst_ms=burst_ms,
        )
        self.cleanup = CleanupService(
            CleanupConfig(30, 1e6),
            self.catalog,
            stats,
            min_free_disk_bytes=0,
            uploads_enabled=True,
        )
        self.exporter = PendingExporter(self.catalog, self.storage.pending_file)
        self.reconciler = Reconciler(
            self.catalog,
            self.storage,
            uploads_enabled=True,
            on_done=self.exporter.allow,
        )
        self.retry, self.live, _ = self.uploads.workers

    def _on_saved(self, image: Image) -> None:
        self.found.acknowledge(image)
        self.uploads.submit(image)

    def step(self, worker: Worker, times: int = 1) -> None:
        """Let a worker do what its thread would."""
        for _ in range(times):
            self._alive(worker._guarded_step)

    def capture(self, number: int, age: timedelta = timedelta(), source: str = "gpio") -> None:
        """Trigger a camera."""
        self.found.requests += 1
        self._age_s = age.total_seconds()
        key = f"camera_{number}"
        self._alive(lambda: self.captures.request(key, edge_s=time.monotonic(), source=source))
        self._age_s = 0.0
        self.step(self.captures.workers[key])

    def make_room(self) -> None:
        """Let the disk be nearly full, so that the oldest sent image has to go."""

        def usage() -> tuple[int, int]:
            return _DISK_BYTES - sum(file.size_bytes for file in real.scan()), _DISK_BYTES

        real = ImageFolder(self.storage.image_dir)
        self.catalog._files.disk_usage = usage  # type: ignore[method-assign]
        self.cleanup._min_free_bytes = usage()[0] + 1
        self.step(self.cleanup)
        self.cleanup._min_free_bytes = 0
        del self.catalog._files.disk_usage

    def run_retention(self) -> None:
        """Let the retention's time have come."""
        self.cleanup._next_run_s = 0.0
        self.step(self.cleanup)

    def close(self) -> None:
        """End the program as its stop does."""
        for worker in (
            *self.captures.workers.values(),
            self.live,
            self.retry,
            self.cleanup,
            self.exporter,
        ):
            self._alive(worker.close)
        self._alive(self.catalog.close)
        self.found.unwritten += self.catalog.unrecorded

    def _alive(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception:  # noqa: BLE001 - what would end a thread is what is looked for
            self.found.wrong["dead"] += 1


def break_program(control: str) -> None:
    """Make the program careless, to see whether that is noticed."""
    if control != "careless":
        return

    def write_claimed(self: ImageFolder, name: str, jpeg: bytes) -> bool:
        with suppress(OSError):  # as if it could not happen
            (self.path / name).write_bytes(jpeg)
        return True

    ImageFolder._write_claimed = write_claimed  # type: ignore[method-assign]


def play(folder: Path, disk: FaultyDisk, fault: Fault | None) -> dict[str, Any]:
    """Play a round and return what was found."""
    found = Found()
    _prepare(folder)
    if fault is not None and not fault.every:
        disk.fail(fault)
    run = _start(folder, disk, found, (0,), [Delivered(None), Deferred("503", "server")])
    if fault is not None and fault.every:  # what fails again and again fails while it runs
        disk.fail(fault)
    _first_day(run)
    run.close()
    _check_list(folder, found)
    run = _start(folder, disk, found, (0, 300), [Delivered(None), Rejected("400")])
    _second_day(run)
    _check_list(folder, found)
    disk.work_again()
    calls = {kind: disk.calls(kind) for kind in KINDS}
    failed = sum(disk.failed(kind) for kind in KINDS)
    _recover(run)
    _check_running(run)
    run.close()
    run = _start(folder, disk, found, (0,), [])
    _recover(run)
    run.close()
    _check_restarted(folder, found)
    return {
        **{name: found.wrong[name] for name in found.wrong},
        **{n: found.wrong[n] for n in ("lost", "torn", "unsent", "rowless", "fileless", "stray")},
        **{n: found.wrong[n] for n in ("unbalanced", "repeated", "dead")},
        "failed": failed,
        "acknowledged": len(found.acknowledged),
        "calls": calls,
    }


def _prepare(folder: Path) -> None:
    """Leave what an older install leaves: a picture still to be sent, and half of one."""
    images = folder / "images"
    images.mkdir(parents=True)
    (images / _ORPHAN).write_bytes(JPEG)
    (folder / "pending_uploads.json").write_text(json.dumps([_ORPHAN]), encoding="utf-8")
    (images / _STRAY).write_bytes(JPEG[:20])


def _start(
    folder: Path,
    disk: FaultyDisk,
    found: Found,
    burst_ms: tuple[int, ...],
    outcomes: list[Outcome],
) -> Run:
    """Start the program as systemd does: again when its storage can't be used."""
    for _ in range(_STARTS):
        try:
            return Run(folder, found, burst_ms=burst_ms, outcomes=outcomes)
        except StorageError:
            continue
        except Exception:  # noqa: BLE001 - anything but exit 74 is a traceback in the log
            found.wrong["dead"] += 1
    disk.work_again()  # for this one start
    run = Run(folder, found, burst_ms=burst_ms, outcomes=outcomes)
    disk.fail_again()
    return run


def _first_day(run: Run) -> None:
    run.step(run.reconciler)
    run.step(run.exporter)
    run.capture(1)
    run.capture(1)  # the same second, most likely
    run.step(run.live, 3)
    run.capture(2)
    run.camera.works = False
    run.capture(2)
    run.camera.works = True
    run.step(run.exporter)
    run.capture(1, _LONG_AGO)
    run.capture(2, source="test")
    run.step(run.retry, 3)
    run.step(run.live, 3)
    run.run_retention()
    run.step(run.reconciler)
    run.step(run.exporter)


def _second_day(run: Run) -> None:
    run.step(run.reconciler)
    run.step(run.exporter)
    run.capture(1)
    run.capture(2)
    run.step(run.live, 4)
    run.step(run.retry, 3)
    run.make_room()
    run.capture(1, 2 * _LONG_AGO)  # a name of its own
    run.run_retention()
    run.step(run.reconciler)
    run.step(run.exporter)


def _recover(run: Run) -> None:
    """Let some minutes pass."""
    run.step(run.cleanup)
    run.step(run.reconciler)
    for worker in run.captures.workers.values():
        run.step(worker)
    run._alive(run.uploads.retry)
    for _ in range(_MOST_STEPS):
        run.step(run.live)
        run.retry.hurry()  # type: ignore[attr-defined]
        run.step(run.retry)
        if not run.catalog.rows.totals().by_state["pending"]:
            break
        run._alive(run.uploads.retry)
    run.step(run.exporter)
    run.step(run.cleanup)


def _check_running(run: Run) -> None:
    """Look for what was acknowledged in the program that went through the failures."""
    wrong = run.found.wrong
    wrong["unbalanced"] += run.catalog.unrecorded
    wrong["dead"] += not run.reconciler.done
    for name, sha256 in run.found.acknowledged.items():
        if not run.catalog.rows.has_row(name):
            # What was sent, or not to be sent, may have made room.
            wrong["rowless"] += name in run.found.to_send - run.found.sent.keys()
        elif run.catalog.rows.image(name).state != "missing":
            wrong["fileless"] += not run.catalog.rows.path_of(name).exists()
        if run.catalog.rows.path_of(name).exists():
            wrong["torn"] += hashlib.sha256(run.catalog.read(name)).hexdigest() != sha256
    wrong["unbalanced"] += run.catalog.write_error is not None


def _check_list(folder: Path, found: Found) -> None:
    path = folder / "pending_uploads.json"
    try:
        if path.exists():
            json.loads(path.read_bytes())
    except ValueError:
        found.wrong["torn"] += 1


def _check_restarted(folder: Path, found: Found) -> None:
    """Look at everything that is left, without the program."""
    images, wrong = folder / "images", found.wrong
    with closing(sqlite3.connect(images / ".state" / "catalog.sqlite3")) as sql:
        rows = dict(sql.execute("SELECT filename, state FROM images"))
        checksums = dict(sql.execute("SELECT filename, sha256 FROM images"))
        wrong["torn"] += sql.execute("PRAGMA quick_check").fetchone()[0] != "ok"
        _check_ledger(sql, found)
    files = {path.name for path in images.iterdir() if parse_name(path.name)}
    for name in files:
        jpeg = (images / name).read_bytes()
        wrong["rowless"] += name not in rows
        wrong["torn"] += not jpeg.startswith(b"\xff\xd8") or not jpeg.endswith(b"\xff\xd9")
        wrong["torn"] += checksums.get(name) not in (None, hashlib.sha256(jpeg).hexdigest())
    wrong["fileless"] += sum(s != "missing" and n not in files for n, s in rows.items())
    for name, sha256 in found.acknowledged.items():
        kept = name in files and rows.get(name) not in (None, "missing")
        wrong["lost"] += not kept and name in found.to_send - found.sent.keys()
        wrong["torn"] += found.sent.get(name, sha256) != sha256
    wrong["unsent"] += len(found.to_send - found.sent.keys())
    wrong["stray"] += sum(path.name.endswith(".tmp") for path in folder.rglob("*"))
    _check_list(folder, found)


def _check_ledger(sql: sqlite3.Connection, found: Found) -> None:
    """Count the edges: each has one event, and each event has ended."""
    counted = dict(sql.execute("SELECT state, count(*) FROM events GROUP BY state"))
    kept = dict(sql.execute("SELECT state, events FROM event_totals"))
    found.wrong["unbalanced"] += {s: n for s, n in kept.items() if n} != counted
    found.wrong["unbalanced"] += counted.get("capturing", 0)
    since_us = (time.time() - 86400) * 1e6
    recent = sql.execute("SELECT count(*) FROM events WHERE edge_us > ?", (since_us,)).fetchone()[0]
    aged = 2  # requests with an edge long ago, which retention forgets
    least = found.requests - aged - found.unwritten
    found.wrong["unbalanced"] += not least <= recent <= found.requests - aged
    pictureless = sql.execute(
        "SELECT count(*) FROM events WHERE state = 'saved' AND edge_us > ? AND NOT EXISTS"
        " (SELECT 1 FROM images WHERE event_id = events.id)",
        (since_us,),
    ).fetchone()[0]
    found.wrong["unbalanced"] += pictureless > 1  # one sent picture made room on the full disk
