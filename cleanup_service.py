"""Retention: delete old images, and sent ones early on a nearly full disk; keep pending ones."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Final

from config import CleanupConfig
from runtime.clock import Clock
from runtime.stats import Stats
from runtime.version import RELEASED_AT
from runtime.worker import Worker
from store.catalog import Catalog
from store.rows import Image

_log = logging.getLogger(__name__)

_DISK_CHECK_S: Final = 60.0
_CHUNK: Final = 200
_DAY: Final = timedelta(days=1)
_SHORTEST_JUDGED: Final = timedelta(hours=1)
_LONGEST_PLAUSIBLE_PAUSE: Final = timedelta(days=30)
_AGEING: Final = ("uploaded", "skipped", "unknown", "rejected", "missing")


class AlreadyRunningError(Exception):
    """A cleanup is under way."""


@dataclass(frozen=True)
class CleanupReport:
    """What a run did, or would do. `held_back` is the reason why it deletes nothing, if any."""

    deleted: int
    freed_bytes: int
    kept_pending: int
    held_back: str | None = None


class CleanupService(Worker):
    """Run the retention every `CLEANUP_INTERVAL_HOURS` and watch the free space in between.

    Pending images are kept whatever their age while uploads are enabled.
    """

    def __init__(
        self,
        config: CleanupConfig,
        catalog: Catalog,
        stats: Stats,
        *,
        min_free_disk_bytes: int,
        uploads_enabled: bool,
        clock: Clock | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("cleanup")
        self._retention = timedelta(days=config.retention_days)
        self._interval_s = config.interval_hours * 3600
        self._catalog = catalog
        self._stats = stats
        self._min_free_bytes = min_free_disk_bytes
        self._states = _AGEING if uploads_enabled else (*_AGEING, "pending")
        self._clock = clock or Clock()
        self._running = threading.Lock()
        self._monotonic_s = monotonic_s
        self._next_run_s = monotonic_s() + _DISK_CHECK_S
        self.nothing_left_to_delete = False
        """Whether the disk is nearly full and all images on it are still to be sent."""

    def step(self) -> float:
        """Run the retention when it is time, and make room when there is too little."""
        self._catalog.finish_deleting()
        self.make_room()  # first: on a full disk everything else fails
        self._catalog.record_unrecorded()
        if self._monotonic_s() >= self._next_run_s:
            try:
                self.run()
            except AlreadyRunningError:
                _log.info("cleanup skipped: one is under way")
            self._next_run_s = self._monotonic_s() + self._interval_s
        self._catalog.check_writing()  # last: what fails here must not keep the rest from running
        return _DISK_CHECK_S

    def run(self) -> CleanupReport:
        """Delete what is older than the retention.

        Raises:
            AlreadyRunningError: another thread is at it.
        """
        if not self._running.acquire(blocking=False):
            raise AlreadyRunningError("a cleanup is already running")
        try:
            report = self._delete_expired(self._clock.wall())
        finally:
            self._running.release()
        self._stats.count_cleanup(report.deleted, report.freed_bytes)
        if report.held_back:
            _log.warning("cleanup deleted nothing: %s", report.held_back)
        else:
            _log.info(
                "cleanup: %d images deleted, %.1f MB freed, %d older ones kept for upload",
                report.deleted,
                report.freed_bytes / 1e6,
                report.kept_pending,
            )
        return report

    def preview(self) -> CleanupReport:
        """Return what `run` would do now."""
        now = self._clock.wall()
        held_back = self._why_held_back(now)
        count, size_bytes = self._catalog.rows.expired_totals(now - self._retention, self._states)
        if held_back:
            count, size_bytes = 0, 0
        return CleanupReport(count, size_bytes, self._kept_pending(now), held_back)

    def make_room(self) -> int:
        """Delete sent images, oldest first, until enough of the disk is free; return how many."""
        deleted = 0
        while not self.stopping and (free_bytes := self._free_bytes()) < self._min_free_bytes:
            sent = self._catalog.rows.oldest_sent(_CHUNK)
            images = _enough(sent, self._min_free_bytes - free_bytes)
            self.nothing_left_to_delete = not images
            if not images:
                break
            deleted += len(self._catalog.delete(images))
        else:
            self.nothing_left_to_delete = False
        if deleted:
            _log.warning("disk nearly full: %d sent images deleted before their time", deleted)
        return deleted

    def days_left(self) -> int | None:
        """Return for how many days there is room, as `days_of_room` does."""
        now = self._clock.wall()
        number, first_at = self._catalog.rows.saved_between(now - _DAY, now)
        if first_at is None:
            return None
        totals = self._catalog.rows.totals()
        begins_to_free = now - self._retention
        return days_of_room(
            self._free_bytes() - self._min_free_bytes,
            saved_bytes=number * totals.bytes // max(1, totals.images),
            saved_within=_DAY if totals.images > number else now - first_at,
            kept_bytes=totals.bytes,
            retention=self._retention,
            retention_frees=self._catalog.rows.has_between(
                begins_to_free, begins_to_free + self._retention / 4, self._states
            ),
        )

    def _delete_expired(self, now: datetime) -> CleanupReport:
        held_back = self._why_held_back(now)
        if held_back:
            return CleanupReport(0, 0, self._kept_pending(now), held_back)
        before = now - self._retention
        deleted = freed_bytes = 0
        while images := self._catalog.rows.expired(before, self._states, _CHUNK):
            images = self._catalog.delete(images)
            deleted += len(images)
            freed_bytes += sum(i.size_bytes for i in images if i.state != "missing")
        self._catalog.events.delete_ended(before)
        return CleanupReport(deleted, freed_bytes, self._kept_pending(now))

    def _kept_pending(self, now: datetime) -> int:
        if "pending" in self._states:
            return 0
        return self._catalog.rows.expired_totals(now - self._retention, ("pending",))[0]

    def _why_held_back(self, now: datetime) -> str | None:
        """Return why nothing may be deleted: the clock would make everything look old."""
        if now < RELEASED_AT:
            return "the clock is before this program's release"
        newest = self._catalog.rows.newest_image_at()
        if (
            self._clock.synchronized() is False
            and newest
            and now - newest > _LONGEST_PLAUSIBLE_PAUSE
        ):
            return "the clock is not synchronised and more than 30 days ahead of the newest image"
        return None

    def _free_bytes(self) -> int:
        return self._catalog.disk_usage()[0]


def days_of_room(
    free_bytes: int,
    *,
    saved_bytes: int,
    saved_within: timedelta,
    kept_bytes: int,
    retention: timedelta,
    retention_frees: bool,
) -> int | None:
    """Return for how many days like the last one there is room before the disk counts as low.

    Before anything on the disk nears the end of its retention, that is the free space divided by
    what a day brings. Once retention frees space every day (`retention_frees`), the images never
    exceed a whole retention of such days: if the disk has room for that, the answer is `None`,
    however little is free. Otherwise each day takes what it brings, less what an old day frees.

    The answer is `None`, too, when there is less than an hour to judge by.
    """
    if saved_within < _SHORTEST_JUDGED or saved_bytes <= 0:
        return None
    room = max(0, free_bytes)
    daily_bytes = saved_bytes * (_DAY / saved_within)
    if retention_frees:
        days_kept = retention / _DAY
        if kept_bytes + room >= daily_bytes * days_kept:
            return None
        daily_bytes -= kept_bytes / days_kept
    return int(room / daily_bytes)


def _enough(images: list[Image], wanted_bytes: int) -> list[Image]:
    """Return the first images that together have `wanted_bytes`, or all of them."""
    for number, size_bytes in enumerate(accumulate(i.size_bytes for i in images), start=1):
        if size_bytes >= wanted_bytes:
            return images[:number]
    return images
