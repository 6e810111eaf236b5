"""Pages and documents at 300,000 images: first, filtered and deep pages, status and statistics.

A real catalog on disk, the real application on its real server, one request after the other.
Prints a table; exits 1 when a gate is missed. Run: make bench-web
"""

from __future__ import annotations

import random
import sqlite3
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.gates import Gate, percentile, report
from config import StorageConfig
from simulator.site import free_port
from store.catalog import Catalog
from store.rows import to_us
from tests.rigs.web import make_app
from web.server import WebServer

IMAGES = 300_000
SMALL = 3_000
ROUNDS = 40


def fill(folder: Path, images: int) -> StorageConfig:
    """Make a catalog of so many images over 120 days, its files left out."""
    config = StorageConfig(folder / "images", folder / "state", folder / "pending.json", 0)
    Catalog.open_owner(config).close()
    chance = random.Random(5)
    begin = datetime.now(UTC) - timedelta(days=120)
    step = timedelta(days=120) / images
    states = ("uploaded",) * 19 + ("pending",)
    with sqlite3.connect(config.state_dir / "catalog.sqlite3") as connection:
        for n in range(images):
            at = begin + n * step
            camera = f"r{chance.randint(1, 3)}"
            row = (n + 1, camera, "gpio", to_us(at), "saved")
            connection.execute(
                "INSERT INTO events (id, camera, source, edge_us, state) VALUES (?, ?, ?, ?, ?)",
                row,
            )
            connection.execute(
                "INSERT INTO images (event_id, filename, camera, source, edge_us, clock_trusted,"
                " width, height, size_bytes, sha256, state) VALUES"
                " (?, ?, ?, 'gpio', ?, 1, 1920, 1080, 300000, ?, ?)",
                (n + 1, f"{camera}_{int(at.timestamp())}_{n}.jpg", camera, to_us(at), "0" * 64,
                 chance.choice(states)),
            )  # fmt: skip
    connection.close()
    return config


def times_ms(base: str, path: str) -> list[float]:
    """Return how long each of some requests took."""
    found = []
    for _ in range(ROUNDS):
        began_s = time.perf_counter()
        with urllib.request.urlopen(base + path, timeout=30) as reply:  # noqa: S310
            reply.read()
        found.append((time.perf_counter() - began_s) * 1000)
    return found


def measure(images: int) -> dict[str, list[float]]:
    """Return the times in ms of every page."""
    with tempfile.TemporaryDirectory() as name:
        catalog = Catalog.open_owner(fill(Path(name), images))
        middle = datetime.now(UTC) - timedelta(days=60)
        old_day = (middle - timedelta(days=30)).strftime("%Y-%m-%d")
        server = WebServer(make_app(catalog, Path(name)), "127.0.0.1", port := free_port())
        server.start()
        paths = {
            "first screen": "/",
            "gallery, first page": "/photos",
            "gallery, one camera": "/photos?camera=r2",
            "gallery, one day of long ago": f"/photos?date={old_day}",
            "gallery, a day, a camera, a state": f"/photos?date={old_day}&camera=r2&state=pending",
            "gallery, pending": "/photos?state=pending",
            "gallery, deep cursor": f"/photos?before={images // 10}",
            "gallery, deep cursor, one camera": f"/photos?camera=r3&before={images // 10}",
            "images, first page": "/api/images",
            "images, deep cursor": f"/api/images?before={images // 10}",
            "images, deep page number": f"/api/images?page={images // 60}",
            "images, a day": f"/api/images?date={old_day}&per_page=200",
            "refreshed parts": "/parts/state",
            "statistics, with the chart": "/parts/stats",
            "uploads": "/uploads",
        }
        try:
            base = f"http://127.0.0.1:{port}"
            wait_for(base)
            return {what: times_ms(base, path) for what, path in paths.items()}
        finally:
            server.stop()
            server.join(5)
            catalog.close()


def wait_for(base: str) -> None:
    """Wait until the server answers."""
    deadline_s = time.monotonic() + 10
    while True:
        try:
            urllib.request.urlopen(base + "/healthz", timeout=5).close()  # noqa: S310
            return
        except OSError:
            if time.monotonic() > deadline_s:
                raise


def main() -> int:
    """Measure at both sizes and return the exit code."""
    small, large = measure(SMALL), measure(IMAGES)
    gates = [Gate(f"{what}, p95", percentile(ms, 0.95), 50, "ms") for what, ms in large.items()]
    first = "gallery, first page"
    ratio = percentile(large[first], 0.5) / percentile(small[first], 0.5)
    gates.append(Gate(f"{first}, median: {IMAGES} / {SMALL} images", ratio, 1.1, ""))
    return report(gates)


if __name__ == "__main__":
    sys.exit(main())
