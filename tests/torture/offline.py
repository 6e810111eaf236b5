"""A week offline: 100,000 pictures wait, then the line comes back.

The daemon as its own process on a store of real pictures; how soon it is ready and sends, what
memory it takes beside one without a backlog, how fast it drains beside a bare loop with the same
bytes, and whether `pending_uploads.json` can be read at every moment.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from bench.gates import Gate, percentile, report, rss_mb
from tests.rigs.daemon import DaemonProcess, free_port
from tests.torture.backlog import cached, clone
from tests.torture.bare import bare_loop
from tests.torture.rounds import CACHE
from tests.torture.sink import figures, sink

PENDING: Final = 100_000
TURNS: Final = 10
TURN_S: Final = 3.0
CHECK_S: Final = 0.5
_PIN: Final = 18
_ONLINE: Final = re.compile(
    r"^(\S+ \S+) INFO online: .* reached; the backlog follows in ([\d.]+) s", re.MULTILINE
)


class ListWatcher:
    """Look at `pending_uploads.json` all the time: is it there, is it a whole array."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self.looks = 0
        self.versions = 0
        self.broken: list[str] = []
        self.entries: list[int] = []

    def look(self) -> None:
        """Look once; what was seen whole and has not changed is not parsed again."""
        self.looks += 1
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                version = (status.st_ino, status.st_mtime_ns, status.st_size)
                if version == self._seen:
                    return
                entries = json.load(file)
            if not isinstance(entries, list) or not all("filename" in entry for entry in entries):
                raise ValueError("not an array of entries")
        except (OSError, ValueError, TypeError) as error:
            self.broken.append(repr(error))
            return
        self._seen = version
        self.versions += 1
        self.entries.append(len(entries))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look on a thread of its own, every few milliseconds."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.005):
                self.look()

        thread = threading.Thread(target=watch, name="list-watcher")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


@dataclass
class Figures:
    """What came out."""

    ready_s: float = 0.0
    first_upload_s: float = 0.0
    memory_mb: float = 0.0
    memory_without_mb: float = 0.0
    rates: list[tuple[float, float]] = field(default_factory=list)
    """Uploads a second of the daemon and of the bare loop, turn by turn."""
    sent: int = 0
    distinct: int = 0
    left: int = 0
    looks: int = 0
    versions: int = 0
    broken: int = 0

    @property
    def shares(self) -> list[float]:
        """Return the daemon's part of the bare loop's speed, turn by turn."""
        return [ours / bare for ours, bare in self.rates]


class Site:
    """The daemon with a camera that is away, and pins that a test can pull."""

    def __init__(self, folder: Path, url: str) -> None:
        self.daemon = DaemonProcess(
            folder,
            {
                "CAMERA_1_ENABLED": "true",
                "CAMERA_1_RTSP": "rtsp://127.0.0.1:1/none",
                "GPIO_ENABLED": "true",
                "UPLOAD_ENABLED": "true",
                "S3_API_URL": url,
                "CONNECTIVITY_CHECK_INTERVAL": str(CHECK_S),
                "IMAGE_RETENTION_DAYS": "3650",
            },
        )
        self.peak_mb = 0.0

    def start(self) -> float:
        """Start and return the seconds until it is healthy and has taken an edge."""
        started_s = time.monotonic()
        self.daemon.start()
        self.daemon.wait_until("ready", lambda: self.daemon.request("/healthz")[0] == 200)
        self.daemon.pull(_PIN)
        self.daemon.let_go(_PIN)
        self.daemon.wait_until("an edge taken", lambda: self.daemon.get("/api/events")["events"])
        return time.monotonic() - started_s

    def pending(self) -> int:
        """Return how many images wait."""
        self.peak_mb = max(self.peak_mb, rss_mb(self.daemon.pid))
        return int(self.daemon.get("/api/status")["upload"]["pending"])

    def watch_memory(self, seconds: float) -> None:
        """Note the most memory that is used for a while."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self.peak_mb = max(self.peak_mb, rss_mb(self.daemon.pid))
            time.sleep(0.05)


def run(pending: int, turns: int, turn_s: float, say: Callable[[str], None]) -> Figures:
    """Let a backlog of `pending` pictures be met, started with and drained."""
    say(f"a store of {pending} pictures ...")
    store = cached(pending)
    found = Figures()
    with tempfile.TemporaryDirectory(prefix="offline-", dir=CACHE) as name:
        folder = Path(name)
        found.memory_without_mb = memory_without_backlog(folder / "empty", turn_s)
        clone(store, folder / "site")
        port = free_port()
        site = Site(folder / "site", f"http://127.0.0.1:{port}/api")
        with site.daemon:
            found.ready_s = site.start()
            watcher = ListWatcher(folder / "site" / "pending_uploads.json")
            with watcher.watching():
                site.daemon.wait_until("offline", lambda: "offline:" in site.daemon.log())
                site.watch_memory(turn_s)
                with sink(port) as url:
                    come_back(site, url, found)
                    say("draining in turns with a bare loop ...")
                    found.rates = list(take_turns(site, url, store / "images", turns, turn_s))
                    say("draining the rest ...")
                    drain(site, pending)
                    found.left = site.pending()
                    found.distinct = figures(url)["distinct"]
                    found.sent = pending - found.left
                    site.daemon.stop()
                watcher.look()
        found.memory_mb = site.peak_mb
        found.looks, found.versions = watcher.looks, watcher.versions
        found.broken = len(watcher.broken)
        say("\n".join(watcher.broken[:3]) or f"lists of {watcher.entries} entries were seen")
    return found


def memory_without_backlog(folder: Path, seconds: float) -> float:
    """Return the most memory that the same daemon takes when nothing waits."""
    folder.mkdir()
    with sink(free_port()) as url:
        site = Site(folder, url)
        with site.daemon:
            site.start()
            site.watch_memory(seconds)
            site.pending()
    return site.peak_mb


def come_back(site: Site, url: str, found: Figures) -> None:
    """Wait for the first upload; it is counted from the end of the herd's delay."""
    site.daemon.wait_until("an upload", lambda: figures(url)["first_at"] is not None)
    noticed = _ONLINE.search(site.daemon.log())
    if noticed is None:
        raise RuntimeError("the daemon does not say that it is online")
    at = datetime.strptime(noticed[1], "%Y-%m-%d %H:%M:%S,%f").astimezone()
    found.first_upload_s = figures(url)["first_at"] - at.timestamp() - float(noticed[2])


def take_turns(
    site: Site, url: str, folder: Path, turns: int, turn_s: float
) -> Iterator[tuple[float, float]]:
    """Yield uploads a second of the daemon and of the bare loop, one after the other."""
    pause = threading.Event()
    with bare_loop(url, folder) as upload:
        for _ in range(turns):
            before, started_s = figures(url)["uploads"], time.perf_counter()
            pause.wait(turn_s)
            ours = (figures(url)["uploads"] - before) / (time.perf_counter() - started_s)
            site.peak_mb = max(site.peak_mb, rss_mb(site.daemon.pid))
            site.daemon.send(signal.SIGSTOP)
            uploads, took_s = upload(turn_s)
            site.daemon.send(signal.SIGCONT)
            yield ours, uploads / took_s


def drain(site: Site, pending: int) -> None:
    """Wait until nothing is left."""
    site.daemon.wait_until("drained", lambda: site.pending() == 0, 30 + pending / 100)


def gates_of(found: Figures, pending: int) -> list[Gate]:
    """Put the figures beside their limits."""
    share = percentile(found.shares, 0.5)
    return [
        Gate(f"ready with {pending} pending", found.ready_s, 5, "s"),
        Gate("first upload after the return", found.first_upload_s, 2, "s"),
        Gate("memory more than without", found.memory_mb - found.memory_without_mb, 20, "MB"),
        Gate("drain beside a bare loop", 100 * share, 80, "%", at_least=True),
        Gate("pending that did not arrive", pending - found.distinct, 0, ""),
        Gate("pending left", found.left, 0, ""),
        Gate("looks at a list that was broken", found.broken, 0, f"of {found.looks}"),
    ]


def main() -> int:
    """Run it whole."""

    def say(text: str) -> None:
        print(text, flush=True)

    found = run(PENDING, TURNS, TURN_S, say)
    ours, bare = (sum(rates) / len(rates) for rates in zip(*found.rates, strict=True))
    say(f"drained {ours:.0f} images a second, the bare loop {bare:.0f}")
    say("share, turn by turn: " + " ".join(f"{share:.2f}" for share in found.shares))
    say(f"most memory {found.memory_mb:.1f} MB, without a backlog {found.memory_without_mb:.1f}")
    say(f"{found.versions} versions of the list")
    return report(gates_of(found, PENDING))


if __name__ == "__main__":
    sys.exit(main())
