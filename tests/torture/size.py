"""700,000 images, 100,000 of them waiting for upload: how long the start and each question take.

The questions are those of the pages and of the upload workers, asked of a catalog of rows alone.
The start is that of the real daemon, beside as many (empty) files.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final

from bench.gates import Gate, percentile, report
from config import StorageConfig
from store.catalog import Catalog
from store.rows import IMAGE_STATES, ImageFilter, to_us
from tests.rigs.daemon import DaemonProcess
from tests.rigs.stores import storage_config

IMAGES: Final = 700_000
PENDING: Final = 100_000
DAYS: Final = 120
ROUNDS: Final = 15
PAGE: Final = 61
_DAY: Final = timedelta(days=1)
_FILL: Final = """
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :images),
of (i, camera, edge_us, state) AS (
    SELECT i,
        CASE WHEN i % 1000 = 7 THEN 'r3' WHEN i % 5 < 3 THEN 'r1' ELSE 'r2' END,
        :first_us + i * :step_us,
        CASE
            WHEN i > :images - :pending THEN 'pending'
            WHEN i % 200 = 1 THEN 'rejected' WHEN i % 200 = 2 THEN 'skipped'
            WHEN i % 200 = 3 THEN 'unknown' WHEN i % 1000 = 4 THEN 'missing'
            ELSE 'uploaded'
        END
    FROM n
)
"""
_EVENTS: Final = (
    "INSERT INTO events (id, camera, source, edge_us, state)"  # noqa: S608
    + _FILL
    + " SELECT i, camera, 'gpio', edge_us, 'saved' FROM of"
)
_IMAGES: Final = (
    "INSERT INTO images (event_id, filename, camera, source, edge_us, offset_ms, clock_trusted,"  # noqa: S608
    " width, height, size_bytes, sha256, state, attempts, next_attempt_us, wait_for)"
    + _FILL
    + " SELECT i, camera || '_' || (edge_us / 1000000) || '.jpg', camera, 'gpio', edge_us,"
    " 4.5, 1, 1920, 1080, 300000 + i % 1000, lower(hex(randomblob(32))), state, 1,"
    " CASE state WHEN 'pending' THEN :due_us + i ELSE 0 END, 'server' FROM of"
)


def fill(config: StorageConfig, images: int, pending: int) -> None:
    """Make rows over the last months, the newest of them pending and waiting for an hour."""
    Catalog.open_owner(config).close()
    now = datetime.now(UTC)
    step_us = DAYS * 86_400_000_000 // images
    parameters = {
        "images": images,
        "pending": pending,
        "first_us": to_us(now) - images * step_us,
        "step_us": step_us,
        "due_us": to_us(now + timedelta(hours=1)),
    }
    with closing(sqlite3.connect(config.state_dir / "catalog.sqlite3")) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -200000")
        with connection:
            connection.execute(_EVENTS, parameters)
            connection.execute(_IMAGES, parameters)


def make_due(catalog: Catalog) -> None:
    """End the wait of all that is pending."""
    with catalog._db.transaction() as sql:
        sql.execute("UPDATE images SET next_attempt_us = 0 WHERE state = 'pending'")


def times_ms(ask: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return how long a question takes, but for the odd slow time on a busy computer."""
    found = []
    for _ in range(rounds):
        began_s = time.perf_counter()
        ask()
        found.append((time.perf_counter() - began_s) * 1000)
    return percentile(found, 0.8)


def filters() -> Iterator[tuple[str, ImageFilter]]:
    """Yield what the gallery offers: any, a busy, a quiet camera, with days and states."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = {"": None, "yesterday": today - _DAY, "long ago": today - 90 * _DAY, "no": today + _DAY}
    cameras, states = (None, "r1", "r3"), (None, *IMAGE_STATES)
    for camera, (word, day), state in product(cameras, days.items(), states):
        until = day + _DAY if day else None
        name = f"{camera or 'any camera'}, {word or 'any'} day, {state or 'any state'}"
        yield name, ImageFilter(camera, state, day, until)


def questions(catalog: Catalog, images: int) -> dict[str, list[tuple[str, Callable[[], object]]]]:
    """Return what is asked, by what it is asked for."""
    now = datetime.now(UTC)
    cursors = (("first", None), ("middle", images // 2), ("deep", images // 50))
    return {
        "due work": [(f"limit {n}", partial(catalog.rows.due_uploads, now, n)) for n in (1, 5)],
        "next attempt": [("", partial(catalog.rows.next_attempt_at, now))],
        "oldest pending": [("", catalog.rows.oldest_pending)],
        "totals": [("", catalog.rows.totals)],
        "newest image": [("", catalog.rows.newest_image_at)],
        "chart of a day": [("", partial(catalog.rows.hours, now - timedelta(hours=23)))],
        "counts of a filter": [
            (name, partial(catalog.rows.count, which)) for name, which in filters()
        ],
        "gallery page": [
            (f"{name}, {where}", partial(catalog.rows.images, which, limit=PAGE, before_id=before))
            for (name, which), (where, before) in product(filters(), cursors)
        ],
        "events page": [
            (str(state), partial(catalog.rows.events, state, limit=PAGE))
            for state in (None, "saved", "failed")
        ],
    }


def measure(catalog: Catalog, images: int, when: str) -> list[Gate]:
    """Return the slowest question of each kind, and say which it was."""
    gates = []
    for kind, asked in questions(catalog, images).items():
        ms, name = max((times_ms(ask), name) for name, ask in asked)
        print(f"  {when}, {kind}: slowest of {len(asked)}: {ms:.2f} ms {name}", flush=True)
        gates.append(Gate(f"{kind}, {when}", ms, 5, "ms"))
    return gates


def ask_everything(folder: Path, images: int, pending: int) -> list[Gate]:
    """Measure all questions while all that is pending waits, and when all of it is due."""
    config = storage_config(folder)
    fill(config, images, pending)
    catalog = Catalog.open_owner(config)
    try:
        gates = measure(catalog, images, "all pending wait")
        make_due(catalog)
        return gates + measure(catalog, images, "all pending due")
    finally:
        catalog.close()


def make_files(config: StorageConfig) -> int:
    """Make an empty file for every row that has one; return how many."""
    with closing(sqlite3.connect(config.state_dir / "catalog.sqlite3")) as connection:
        names = connection.execute("SELECT filename FROM images WHERE state != 'missing'")
        made = 0
        for (name,) in names:
            (config.image_dir / name).touch()
            made += 1
    return made


def start(folder: Path, images: int, pending: int) -> list[Gate]:
    """Start the real daemon on it and measure until it answers."""
    daemon = DaemonProcess(folder, {"UPLOAD_ENABLED": "true", "S3_API_URL": "http://127.0.0.1:9/"})
    config = storage_config(folder)
    fill(config, images, pending)
    began_s = time.perf_counter()
    files = make_files(config)
    print(f"  {files} files made in {time.perf_counter() - began_s:.0f} s", flush=True)
    began_s = time.perf_counter()
    Catalog.open_owner(config).close()
    opened_s = time.perf_counter() - began_s
    with daemon:
        began_s = time.perf_counter()
        daemon.start()
        daemon.wait_until("an answer", lambda: daemon.request("/healthz")[0] in (200, 503), 60)
        answered_s = time.perf_counter() - began_s
        status = daemon.get("/api/status")
        shown_s = time.perf_counter() - began_s
        assert status["upload"]["pending"] == pending, status["upload"]
        is_exported = (folder / "pending_uploads.json").exists
        daemon.wait_until("the end of the reconciliation", is_exported, 300)
        print(f"  files and rows compared after {time.perf_counter() - began_s:.1f} s", flush=True)
        assert daemon.stop() == 0, daemon.log()
    assert "files without a row" not in daemon.log(), daemon.log()
    return [
        Gate("the catalog is open", opened_s, 3, "s"),
        Gate("the daemon answers /healthz", answered_s, 3, "s"),
        Gate("the daemon answers /api/status", shown_s, 3, "s"),
    ]


def main() -> int:
    """Measure everything at full size and return the exit code."""
    with tempfile.TemporaryDirectory() as name:
        gates = ask_everything(Path(name) / "rows", IMAGES, PENDING)
        (Path(name) / "start").mkdir()
        gates += start(Path(name) / "start", IMAGES, PENDING)
    return report(gates)


if __name__ == "__main__":
    sys.exit(main())
