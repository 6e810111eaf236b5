"""The counters that all services share, since the start of the process."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

_SAMPLES: Final = 500


@dataclass(frozen=True)
class Percentiles:
    """The median and the 95th percentile of recent samples; `None` without any."""

    p50: float | None
    p95: float | None


@dataclass(frozen=True)
class StatsSnapshot:
    """All counters at one moment."""

    triggers_by_camera: dict[str, int]
    captures_succeeded: int
    captures_failed: int
    captures_by_camera: dict[str, int]
    capture_latency_ms: Percentiles
    capture_offset_ms: Percentiles
    """The median is signed, the 95th percentile of the distances."""
    uploaded: int
    failed_attempts: int
    uploaded_bytes: int
    last_upload_at: datetime | None
    cleanup_last_run_at: datetime | None
    cleanup_deleted: int
    cleanup_freed_bytes: int


class Stats:
    """Count under one lock; every method is for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._triggers: Counter[str] = Counter()
        self._captures: Counter[str] = Counter()
        self._captures_failed = 0
        self._latency_ms: deque[float] = deque(maxlen=_SAMPLES)
        self._offset_ms: deque[float] = deque(maxlen=_SAMPLES)
        self._uploaded = 0
        self._failed_attempts = 0
        self._uploaded_bytes = 0
        self._last_upload_at: datetime | None = None
        self._cleanup_last_run_at: datetime | None = None
        self._cleanup_deleted = 0
        self._cleanup_freed_bytes = 0

    def count_trigger(self, camera: str) -> None:
        """Count an edge that was taken for a trigger."""
        with self._lock:
            self._triggers[camera] += 1

    def count_capture(self, camera: str, latency_ms: float, offset_ms: float) -> None:
        """Count a picture that is safely on disk."""
        with self._lock:
            self._captures[camera] += 1
            self._latency_ms.append(latency_ms)
            self._offset_ms.append(offset_ms)

    def count_failed_capture(self) -> None:
        """Count an edge that gave no picture."""
        with self._lock:
            self._captures_failed += 1

    def count_upload(self, size_bytes: int) -> None:
        """Count an image that the server took."""
        with self._lock:
            self._uploaded += 1
            self._uploaded_bytes += size_bytes
            self._last_upload_at = datetime.now(UTC)

    def count_failed_attempt(self) -> None:
        """Count an upload that did not succeed."""
        with self._lock:
            self._failed_attempts += 1

    def count_cleanup(self, deleted: int, freed_bytes: int) -> None:
        """Count a run of the retention."""
        with self._lock:
            self._cleanup_last_run_at = datetime.now(UTC)
            self._cleanup_deleted += deleted
            self._cleanup_freed_bytes += freed_bytes

    def snapshot(self) -> StatsSnapshot:
        """Return all counters as they are at one moment."""
        with self._lock:
            return StatsSnapshot(
                triggers_by_camera=dict(self._triggers),
                captures_succeeded=self._captures.total(),
                captures_failed=self._captures_failed,
                captures_by_camera=dict(self._captures),
                capture_latency_ms=_percentiles(self._latency_ms),
                capture_offset_ms=Percentiles(
                    p50=_percentiles(self._offset_ms).p50,
                    p95=_percentiles([abs(offset) for offset in self._offset_ms]).p95,
                ),
                uploaded=self._uploaded,
                failed_attempts=self._failed_attempts,
                uploaded_bytes=self._uploaded_bytes,
                last_upload_at=self._last_upload_at,
                cleanup_last_run_at=self._cleanup_last_run_at,
                cleanup_deleted=self._cleanup_deleted,
                cleanup_freed_bytes=self._cleanup_freed_bytes,
            )


def _percentiles(samples: Sequence[float]) -> Percentiles:
    if not samples:
        return Percentiles(None, None)
    ordered = sorted(samples)
    last = len(ordered) - 1
    return Percentiles(round(ordered[last // 2], 1), round(ordered[round(last * 0.95)], 1))
