"""A daemon without cameras, pins and pages, made to be killed.

The process reads jobs from its standard input, one JSON line each, and runs each in a fork of its
own: nothing has to be imported again, so that a start takes milliseconds. It tells what happens on
its standard output, one JSON line each; what is `saved` there has been acknowledged.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from select import select
from types import TracebackType
from typing import Any, Final, Self

from camera.frame import Frame, Pin, StreamError
from capture_service import CaptureService
from cleanup_service import CleanupService
from config import CameraConfig, CleanupConfig
from runtime.clock import Clock
from runtime.stats import Stats
from store.catalog import Catalog
from store.image_files import ImageFolder
from store.pending_file import PendingExporter
from store.reconcile import Reconciler
from store.rows import Image
from tests.rigs.stores import storage_config, upload_config
from tests.torture import pictures
from tests.torture.evidence import ledger_faults
from upload.http_target import HttpTarget
from uploader import UploadService

ROOT: Final = Path(__file__).parents[2]
RETRY_WORKERS: Final = 2
UPLOAD_WORKERS: Final = 1 + RETRY_WORKERS
IN_PLACE: Final = "images written in place"
NO_FILE_FSYNC: Final = "no fsync of image files"
NO_FSYNC: Final = "no fsync at all"
_SITE: Final = "gate-1"
_SOURCES: Final = ("gpio", "gpio", "gpio", "gpio", "manual", "test")
_TICKET_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one run of the daemon does: saves pictures until it is killed.

    With `drain` it saves none, but tells when everything is uploaded. `make_room_bytes` is how much
    too little space the disk is made to have. `careless` breaks the program, for a rig to prove
    itself by: IN_PLACE, NO_FILE_FSYNC or NO_FSYNC.
    """

    folder: str
    url: str
    seed: int
    burst: bool = False
    drain: bool = False
    make_room_bytes: int = 0
    largest_bytes: int = 200_000
    careless: str = ""


class _Camera:
    """Give a different picture for every moment, sometimes none."""

    def __init__(self, seed: int, largest_bytes: int) -> None:
        self._chance = random.Random(seed)
        self._largest_bytes = largest_bytes

    def pin(self, moment_s: float, within_s: float = 0.0) -> Pin:
        return Pin(moment_s, within_s, None)

    def take(self, pin: Pin) -> Frame:
        if self._chance.random() < 0.03:
            raise StreamError("no picture", "None is wanted.")
        jpeg = pictures.make(self._chance, self._chance.randint(5_000, self._largest_bytes))
        return Frame(jpeg, pictures.THUMBNAIL, 1920, 1080, pin.wanted_s, ())

    def drop(self, pin: Pin) -> None:
        pass


def _tell(**words: object) -> None:
    """Write one line at once; without a reader there is no point in going on."""
    try:
        os.write(1, json.dumps(words).encode() + b"\n")
    except OSError:
        os._exit(1)


class _Catalog(Catalog):
    """Tell what a cleanup deletes."""

    def delete(self, images: Iterable[Image]) -> list[Image]:
        images = list(images)
        for image in images:
            _tell(freed=image.filename)
        return super().delete(images)


class _Site:
    """Wire the services as `daemon.py` does, with cameras of our own."""

    def __init__(self, job: Job) -> None:
        storage = storage_config(Path(job.folder))
        self.catalog = catalog = _Catalog.open_owner(storage)
        stats = Stats()
        upload = upload_config(
            job.url,
            retry_workers=RETRY_WORKERS,
            offline_retry_interval_s=0.2,
            connectivity_check_interval_s=1.0,
        )
        self.uploads = uploads = UploadService(
            upload, catalog, stats, make_target=lambda: HttpTarget(upload, _SITE)
        )
        self.clock = _steady_clock()
        cameras = [_camera(1), _camera(2)]
        self.capture = CaptureService(
            cameras,
            {c.key: _Camera(job.seed + n, job.largest_bytes) for n, c in enumerate(cameras)},
            catalog,
            stats,
            site_id=_SITE,
            uploads_enabled=True,
            on_saved=self._on_saved,
            clock=self.clock,
            burst_ms=(-200, 0, 200) if job.burst else (0,),
        )
        free_bytes = catalog.disk_usage()[0] if job.make_room_bytes else 0
        cleanup = CleanupService(
            CleanupConfig(365, 24.0),
            catalog,
            stats,
            min_free_disk_bytes=free_bytes + job.make_room_bytes if free_bytes else 0,
            uploads_enabled=True,
        )
        self._exporter = PendingExporter(catalog, storage.pending_file)
        reconciler = Reconciler(catalog, storage, uploads_enabled=True, on_done=self._on_reconciled)
        self._state_dir = storage.state_dir
        for worker in (
            *(self._exporter, *uploads.workers, cleanup, reconciler),
            *self.capture.workers.values(),
        ):
            worker.died = lambda: os._exit(1)
            worker.start()

    def _on_saved(self, image: Image) -> None:
        _tell(
            **{"saved": image.filename, "sha256": image.sha256},
            **{"event": image.event_id, "source": image.source},
        )
        self.uploads.submit(image)

    def _on_reconciled(self) -> None:
        self._exporter.allow()
        self.uploads.wake()
        faults = ledger_faults(
            self._state_dir / "catalog.sqlite3", ended_up_to=self.catalog.events.last_earlier_id
        )
        _tell(reconciled=True, ledger_faults=faults)


def _steady_clock() -> Clock:
    """Return a clock that names a moment the same whenever it is asked."""
    offset_s = time.time() - time.monotonic()
    return Clock(synchronized=lambda: True, wall_s=lambda: offset_s, monotonic_s=lambda: 0.0)


def _camera(number: int) -> CameraConfig:
    return CameraConfig(f"camera_{number}", f"r{number}", "Gate", True, "", 0, 0, None)


def _run(job: Job) -> None:
    _be_careless(job.careless)
    site = _Site(job)
    if job.drain:
        while site.catalog.rows.totals().by_state["pending"]:
            time.sleep(0.02)
        _tell(drained=True)
        signal.pause()
    chance = random.Random(job.seed)
    while True:
        for _ in range(chance.randint(1, 12)):
            tickets = []
            for camera in site.capture.workers:
                edge_s, source = time.monotonic(), chance.choice(_SOURCES)
                _tell(edge=site.clock.at(edge_s).at.isoformat(), source=source)
                tickets.append(site.capture.request(camera, edge_s=edge_s, source=source))
            for ticket in tickets:
                ticket.result(_TICKET_S)
        time.sleep(chance.uniform(0, 0.1))  # the backlog's turn


def _be_careless(how: str) -> None:
    if how == IN_PLACE:
        ImageFolder._write_claimed = _write_in_place  # type: ignore[method-assign, assignment]
    if how in (NO_FILE_FSYNC, NO_FSYNC):
        os.fsync = lambda fd: None
    if how == NO_FSYNC:
        connect = functools.partial(sqlite3.connect, factory=_Careless)
        sqlite3.connect = connect  # type: ignore[assignment]


def _write_in_place(folder: ImageFolder, name: str, jpeg: bytes) -> bool:
    with (folder.path / name).open("xb") as file:
        file.write(jpeg[: len(jpeg) // 2])
        file.flush()
        time.sleep(0.02)
        file.write(jpeg[len(jpeg) // 2 :])
    return True


class _Careless(sqlite3.Connection):
    """Trust the disk to be written some day."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return super().execute(sql.replace("synchronous = FULL", "synchronous = OFF"), *parameters)


def main() -> int:
    """Run one job after the other, each in a fork."""
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    logging.getLogger("capture_service").setLevel(logging.CRITICAL)  # some are wanted to fail
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the rig ends us
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                _run(Job(**json.loads(line)))
            except BaseException:  # noqa: BLE001 - a fork must never go on as the reader of jobs
                traceback.print_exc()
            finally:
                os._exit(1)
        _tell(started=child)
        _tell(ended=os.waitpid(child, 0)[1])
    return 0


class Driver:
    """The driver's process, and what it told."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._unread = b""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.driver"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)
        self._process.kill()
        self._process.communicate()

    def start(self, job: Job, timeout_s: float = 30) -> None:
        """Start a run and return as soon as it exists."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(dataclasses.asdict(job)).encode() + b"\n")
        self._process.stdin.flush()
        for message in self.messages(timeout_s):
            if "started" in message:
                self._pid = message["started"]
                return
        raise AssertionError("the driver does not start")

    def messages(self, within_s: float) -> Iterator[dict[str, Any]]:
        """Yield what is told until so many seconds are over; with 0 what has been told already.

        Raises:
            AssertionError: the run ended by itself.
        """
        deadline_s = time.monotonic() + within_s
        for message in self._lines(deadline_s):
            if "ended" in message:
                self._pid = None
                raise AssertionError(f"the run ended by itself: {message['ended']}")
            yield message

    def kill(self, timeout_s: float = 30) -> list[dict[str, Any]]:
        """Kill the run with SIGKILL and return what it still told."""
        assert self._pid is not None
        os.kill(self._pid, signal.SIGKILL)
        last: list[dict[str, Any]] = []
        for message in self._lines(time.monotonic() + timeout_s):
            if "ended" in message:
                self._pid = None
                assert message["ended"] == signal.SIGKILL, f"it had ended: {message['ended']}"
                return last
            last.append(message)
        raise AssertionError("the killed run did not end")

    def _lines(self, deadline_s: float) -> Iterator[dict[str, Any]]:
        assert self._process is not None
        assert self._process.stdout is not None
        stdout = self._process.stdout.fileno()
        while True:
            line, newline, rest = self._unread.partition(b"\n")
            if newline:
                self._unread = rest
                yield json.loads(line)
                continue
            if not select([stdout], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
                return
            read = os.read(stdout, 65_536)
            if not read:
                raise AssertionError("the driver has gone")
            self._unread += read


def wait_for(driver: Driver, word: str, timeout_s: float) -> dict[str, Any]:
    """Return the first message with this word.

    Raises:
        AssertionError: it does not come in time.
    """
    for message in driver.messages(timeout_s):
        if word in message:
            return message
    raise AssertionError(f"not {word} within {timeout_s:g} s")


class ReceiverProcess:
    """The upload server, which outlives every kill and notes what it accepts before it answers."""

    def __init__(self, store: Path, delay_s: float = 0.0) -> None:
        self._store = store
        self._delay_s = delay_s
        self.url = ""

    def __enter__(self) -> Self:
        words = ["--store", str(self._store), "--delay-s", str(self._delay_s)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.rigs.receiver", *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().removeprefix("listening ").strip()
        assert self.url, "the receiver does not start"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.communicate(timeout=30)

    def url_of(self, run: int) -> str:
        """Return the address that tells which run an upload came from."""
        return f"{self.url}&run={run}"

    def accepted(self) -> list[dict[str, Any]]:
        """Return what was accepted, oldest first."""
        path = self._store / "received.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    # Forks don't take threads with them.
    assert threading.active_count() == 1
    sys.exit(main())
