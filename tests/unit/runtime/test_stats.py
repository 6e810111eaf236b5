"""The counters that all services share."""

from __future__ import annotations

import threading
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime

import pytest

from runtime.stats import Percentiles, Stats, StatsSnapshot


def test_nothing_happened_yet() -> None:
    nothing = Percentiles(None, None)
    assert Stats().snapshot() == StatsSnapshot(
        triggers_by_camera={},
        captures_succeeded=0,
        captures_failed=0,
        captures_by_camera={},
        capture_latency_ms=nothing,
        capture_offset_ms=nothing,
        uploaded=0,
        failed_attempts=0,
        uploaded_bytes=0,
        last_upload_at=None,
        cleanup_last_run_at=None,
        cleanup_deleted=0,
        cleanup_freed_bytes=0,
    )


def test_every_verb_counts() -> None:
    before = datetime.now(UTC)
    stats = Stats()
    for camera in ("r1", "r1", "r2"):
        stats.count_trigger(camera)
    stats.count_capture("r1", 150.0, -4.0)
    stats.count_capture("r2", 250.0, 12.0)
    stats.count_failed_capture()
    stats.count_upload(1000)
    stats.count_upload(500)
    stats.count_failed_attempt()
    stats.count_cleanup(3, 900)
    stats.count_cleanup(1, 100)
    seen = stats.snapshot()
    assert seen.triggers_by_camera == {"r1": 2, "r2": 1}
    assert (seen.captures_succeeded, seen.captures_failed) == (2, 1)
    assert seen.captures_by_camera == {"r1": 1, "r2": 1}
    assert seen.capture_latency_ms == Percentiles(150.0, 250.0)
    assert seen.capture_offset_ms == Percentiles(-4.0, 12.0)
    assert (seen.uploaded, seen.uploaded_bytes, seen.failed_attempts) == (2, 1500, 1)
    assert (seen.cleanup_deleted, seen.cleanup_freed_bytes) == (4, 1000)
    assert seen.last_upload_at is not None
    assert seen.cleanup_last_run_at is not None
    assert before <= seen.last_upload_at <= seen.cleanup_last_run_at <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([5.0], Percentiles(5.0, 5.0)),
        ([3.0, 1.0, 2.0], Percentiles(2.0, 3.0)),
        ([float(n) for n in range(101)], Percentiles(50.0, 95.0)),
        ([1.26], Percentiles(1.3, 1.3)),
    ],
)
def test_percentiles(samples: list[float], expected: Percentiles) -> None:
    stats = Stats()
    for sample in samples:
        stats.count_capture("r1", sample, sample)
    seen = stats.snapshot()
    assert (seen.capture_latency_ms, seen.capture_offset_ms) == (expected, expected)


def test_only_recent_samples_count_for_the_percentiles() -> None:
    stats = Stats()
    for _ in range(1000):
        stats.count_capture("r1", 9999.0, 0.0)
    for _ in range(500):
        stats.count_capture("r1", 100.0, 0.0)
    seen = stats.snapshot()
    assert seen.capture_latency_ms == Percentiles(100.0, 100.0)
    assert seen.captures_succeeded == 1500


def test_a_snapshot_stays_as_it_was() -> None:
    stats = Stats()
    stats.count_trigger("r1")
    seen = stats.snapshot()
    stats.count_trigger("r1")
    assert seen.triggers_by_camera == {"r1": 1}
    with pytest.raises(FrozenInstanceError):
        seen.uploaded = 5  # type: ignore[misc]


def test_threads_lose_no_count() -> None:
    stats = Stats()

    def count() -> None:
        for _ in range(500):
            stats.count_trigger("r1")
            stats.count_capture("r1", 1.0, 1.0)
            stats.count_upload(2)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = stats.snapshot()
    assert seen.triggers_by_camera == {"r1": 4000}
    assert seen.captures_by_camera == {"r1": 4000}
    assert (seen.uploaded, seen.uploaded_bytes) == (4000, 8000)
