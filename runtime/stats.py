"""The counters that all services share, since the start of the process."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

_SAMPLES: Final = 500


@dataclass(frozen=True)
class Percentiles:
    """The median and the 95th percentile of recent samples; `None` without any."""

    p50: float | None
    p95: float | None


_NONE: Final = Percentiles(None, None)


@dataclass(frozen=True)
class StatsSnapshot:
    """All counters at one moment."""

    triggers_by_camera: Mapping[str, int] = field(default_factory=dict)
    captures_succeeded: int = 0
    captures_failed: int = 0
    captures_by_camera: Mapping[str, int] = field(default_factory=dict)
    capture_latency_ms: Percentiles = _NONE
    capture_offset_ms: Percentiles = _NONE
    """The median is signed, the 95th percentile is of the absolute values."""
    uploaded: int = 0
    failed_attempts: int = 0
    uploaded_bytes: int = 0
    last_upload_at: datetime | None = None
    cleanup_last_run_at: datetime | None = None
    cleanup_deleted: int = 0
    cleanup_freed_bytes: int = 0


class Stats:
    """Count under one lock; every method is for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = StatsSnapshot()
        self._triggers: Counter[str] = Counter()
        self._captures: Counter[str] = Counter()
        self._latency_ms: deque[float] = deque(maxlen=_SAMPLES)
        self._offset_ms: deque[float] = deque(maxlen=_SAMPLES)

    def count_trigger(self, camera: str) -> None:
        """Count an edge that debounce let through."""
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
            self._now = replace(self._now, captures_failed=self._now.captures_failed + 1)

    def count_upload(self, size_bytes: int) -> None:
        """Count an image that the server took."""
        with self._lock:
            self._now = replace(
                self._now,
                uploaded=self._now.uploaded + 1,
                uploaded_bytes=self._now.uploaded_bytes + size_bytes,
                last_upload_at=datetime.now(UTC),
            )

    def count_failed_attempt(self) -> None:
        """Count an upload that did not succeed."""
        with self._lock:
            self._now = replace(self._now, failed_attempts=self._now.failed_attempts + 1)

    def count_cleanup(self, deleted: int, freed_bytes: int) -> None:
        """Count a run of the retention."""
        with self._lock:
            self._now = replace(
                self._now,
                cleanup_last_run_at=datetime.now(UTC),
                cleanup_deleted=self._now.cleanup_deleted + deleted,
                cleanup_freed_bytes=self._now.cleanup_freed_bytes + freed_bytes,
            )

    def snapshot(self) -> StatsSnapshot:
        """Return all counters as they are at one moment."""
        with self._lock:
            return replace(
                self._now,
                triggers_by_camera=dict(self._triggers),
                captures_succeeded=self._captures.total(),
                captures_by_camera=dict(self._captures),
                capture_latency_ms=_percentiles(self._latency_ms),
                capture_offset_ms=Percentiles(
                    p50=_percentiles(self._offset_ms).p50,
                    p95=_percentiles([abs(offset) for offset in self._offset_ms]).p95,
                ),
            )


def _percentiles(samples: Sequence[float]) -> Percentiles:
    if not samples:
        return _NONE
    ordered = sorted(samples)
    last = len(ordered) - 1
    return Percentiles(round(ordered[last // 2], 1), round(ordered[round(last * 0.95)], 1))
