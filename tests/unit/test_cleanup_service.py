"""What retention and a nearly full disk delete, and what they never touch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import cleanup_service
from cleanup_service import AlreadyRunningError, CleanupReport, CleanupService
from config import CleanupConfig
from runtime.clock import Clock
from runtime.stats import Stats
from runtime.version import RELEASED_AT
from store.catalog import Catalog
from store.errors import StorageError
from store.rows import Image, ImageFilter
from tests.rigs.stores import JPEG, save, storage_config

RETENTION_DAYS = 10


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.open_owner(storage_config(tmp_path))
    yield catalog
    catalog.close()


class SetClock(Clock):
    """A wall clock that a test sets, what the kernel says of it, and a monotonic clock."""

    def __init__(self) -> None:
        self.now = RELEASED_AT + timedelta(days=400)
        self.now_s = 1000.0
        self.is_synchronized: bool | None = True
        super().__init__(
            synchronized=lambda: self.is_synchronized,
            wall_s=lambda: self.now.timestamp(),
            monotonic_s=lambda: self.now_s,
        )

    def ago(self, days: float) -> datetime:
        return self.now - timedelta(days=days)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def service(
    catalog: Catalog, clock: SetClock, *, uploads_enabled: bool = True, min_free_bytes: int = 0
) -> CleanupService:
    return CleanupService(
        CleanupConfig(RETENTION_DAYS, 24),
        catalog,
        Stats(),
        min_free_disk_bytes=min_free_bytes,
        uploads_enabled=uploads_enabled,
        clock=clock,
        monotonic_s=lambda: clock.now_s,
    )


def left(catalog: Catalog) -> list[str]:
    return [i.filename for i in catalog.rows.images(ImageFilter(), limit=1000)][::-1]


@pytest.mark.parametrize(
    ("state", "uploads_enabled", "kept"),
    [
        ("uploaded", True, False),
        ("skipped", True, False),
        ("unknown", True, False),
        ("rejected", True, False),
        ("missing", True, False),
        ("pending", True, True),
        ("pending", False, False),
        ("uploaded", False, False),
    ],
)
def test_retention_by_state(
    catalog: Catalog, clock: SetClock, state: str, uploads_enabled: bool, kept: bool
) -> None:
    old = save(catalog, clock.ago(RETENTION_DAYS + 0.01), state=state)
    young = save(catalog, clock.ago(RETENTION_DAYS - 0.01), state=state)
    cleanup = service(catalog, clock, uploads_enabled=uploads_enabled)
    preview = cleanup.preview()
    report = cleanup.run()
    assert report == preview
    size = 0 if state == "missing" else len(JPEG)
    expected = CleanupReport(0, 0, 1) if kept else CleanupReport(1, size, 0)
    assert report == expected
    assert left(catalog) == ([old.filename] if kept else []) + [young.filename]
    assert catalog.rows.path_of(old.filename).exists() is kept


def test_more_than_one_chunk_is_deleted(
    catalog: Catalog, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup_service, "_CHUNK", 2)
    for n in range(5):
        save(catalog, clock.ago(20 + n), state="uploaded")
    assert service(catalog, clock).run().deleted == 5
    assert left(catalog) == []


def test_failed_events_age_too(catalog: Catalog, clock: SetClock) -> None:
    catalog.events.fail_unrecorded("r1", "gpio", clock.ago(20), "camera down")
    catalog.events.fail_unrecorded("r1", "gpio", clock.ago(1), "camera down")
    catalog.record_unrecorded()
    save(catalog, clock.ago(20), state="uploaded")
    save(catalog, clock.ago(20), state="pending")
    service(catalog, clock).run()
    assert catalog.rows.totals().events == {"capturing": 0, "saved": 1, "failed": 1}


def test_images_with_an_untrusted_time_do_not_age(catalog: Catalog, clock: SetClock) -> None:
    image = save(catalog, clock.ago(10_000), state="uploaded", clock_trusted=False)
    assert service(catalog, clock).run().deleted == 0
    assert left(catalog) == [image.filename]


def test_an_insane_clock_deletes_nothing(catalog: Catalog, clock: SetClock) -> None:
    save(catalog, clock.ago(31), state="uploaded")
    clock.is_synchronized = False
    preview = service(catalog, clock).preview()
    report = service(catalog, clock).run()
    assert report == preview
    assert (report.deleted, report.freed_bytes) == (0, 0)
    assert "not synchronised" in (report.held_back or "")
    clock.is_synchronized = True
    assert service(catalog, clock).run().deleted == 1


def test_a_long_silence_with_a_good_clock_is_no_reason_to_hold_back(
    catalog: Catalog, clock: SetClock
) -> None:
    save(catalog, clock.ago(31), state="uploaded")
    clock.is_synchronized = None  # the kernel can't say
    assert service(catalog, clock).run().deleted == 1


def test_an_unsynchronised_clock_near_the_newest_image_is_good_enough(
    catalog: Catalog, clock: SetClock
) -> None:
    save(catalog, clock.ago(31), state="uploaded")
    save(catalog, clock.ago(1), state="uploaded")
    clock.is_synchronized = False
    assert service(catalog, clock).run().deleted == 1


def test_a_clock_before_the_release_deletes_nothing(catalog: Catalog, clock: SetClock) -> None:
    clock.now = RELEASED_AT - timedelta(days=1)
    save(catalog, clock.ago(100), state="uploaded")
    report = service(catalog, clock).run()
    assert report.deleted == 0
    assert "release" in (report.held_back or "")


def test_a_second_run_at_once_is_refused(
    catalog: Catalog, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(catalog, clock.ago(20), state="uploaded")
    cleanup = service(catalog, clock)
    refused: list[str] = []
    real_delete = catalog.delete

    def delete(images: Iterable[Image]) -> list[Image]:
        with pytest.raises(AlreadyRunningError) as caught:
            cleanup.run()
        refused.append(str(caught.value))
        return real_delete(images)

    monkeypatch.setattr(catalog, "delete", delete)
    assert cleanup.run().deleted == 1
    assert refused == ["a cleanup is already running"]
    assert cleanup.run().deleted == 0


def small_disk(catalog: Catalog, monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    """Have the folder lie on a disk where only images take room."""

    def disk_usage() -> tuple[int, int]:
        used = sum(file.size_bytes for file in catalog._files.scan())
        return size_bytes - used, size_bytes

    monkeypatch.setattr(catalog._files, "disk_usage", disk_usage)


def test_low_disk_deletes_sent_images_oldest_first_and_no_more_than_needed(
    catalog: Catalog, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = ("uploaded", "pending", "skipped", "unknown", "rejected", "uploaded", "uploaded")
    saved = [save(catalog, clock.ago(5 - n / 10), state=s) for n, s in enumerate(states)]
    size = len(JPEG)
    small_disk(catalog, monkeypatch, 8 * size)  # one picture's room is free
    cleanup = service(catalog, clock, min_free_bytes=3 * size)
    assert cleanup.make_room() == 2
    assert left(catalog) == [i.filename for n, i in enumerate(saved) if n not in (0, 2)]
    assert not cleanup.nothing_left_to_delete
    assert cleanup.make_room() == 0


def test_low_disk_never_deletes_pending_ones(
    catalog: Catalog, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = ("pending", "rejected", "uploaded", "unknown")
    for n, state in enumerate(states):
        save(catalog, clock.ago(1 + n), state=state)
    small_disk(catalog, monkeypatch, 4 * len(JPEG))
    cleanup = service(catalog, clock, min_free_bytes=4 * len(JPEG))
    assert cleanup.make_room() == 1
    assert cleanup.nothing_left_to_delete
    by_state = catalog.rows.totals().by_state
    assert (by_state["pending"], by_state["rejected"], by_state["unknown"]) == (1, 1, 1)
    small_disk(catalog, monkeypatch, 100 * len(JPEG))
    cleanup.make_room()
    assert not cleanup.nothing_left_to_delete


def test_low_disk_frees_no_name_that_comes_again(
    catalog: Catalog, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by killing the program on a full disk: one name, two pictures, two keys."""
    first = save(catalog, clock.ago(1), state="uploaded")
    small_disk(catalog, monkeypatch, 9_000_000)
    cleanup = service(catalog, clock, min_free_bytes=9_000_000)
    assert cleanup.make_room() == 0
    assert cleanup.nothing_left_to_delete
    second = save(catalog, clock.ago(1))
    assert second.filename != first.filename
    save(catalog, clock.ago(0))
    assert cleanup.make_room() == 1
    assert first.filename not in left(catalog)


def test_a_full_disk_is_relieved_before_anything_is_written(
    catalog: Catalog, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(catalog, clock.ago(1), state="uploaded")
    catalog.events.begin("r1", "gpio", clock.ago(0))
    small_disk(catalog, monkeypatch, len(JPEG))
    real_record = catalog.record_unrecorded

    def record_unrecorded() -> None:
        if catalog.disk_usage()[0] == 0:
            raise StorageError("the disk is full", full=True)
        real_record()

    monkeypatch.setattr(catalog, "record_unrecorded", record_unrecorded)
    cleanup = service(catalog, clock, min_free_bytes=1)
    assert cleanup.step() == 60.0
    assert left(catalog) == []


def test_retention_runs_when_its_time_has_come(catalog: Catalog, clock: SetClock) -> None:
    cleanup = service(catalog, clock)
    save(catalog, clock.ago(20), state="uploaded")
    cleanup.step()
    assert len(left(catalog)) == 1
    clock.now_s += 60
    cleanup.step()
    assert left(catalog) == []
    save(catalog, clock.ago(20), state="uploaded")
    clock.now_s += 24 * 3600 - 1
    cleanup.step()
    assert len(left(catalog)) == 1
    clock.now_s += 1
    cleanup.step()
    assert left(catalog) == []


# How long the disk will do.

GB = 10**9
YOUNG = {
    "saved_bytes": GB // 5,
    "saved_within": timedelta(days=1),
    "kept_bytes": 2 * GB,
    "retention": timedelta(days=30),
    "retention_frees": False,
}


@pytest.mark.parametrize(
    ("free_bytes", "changes", "days"),
    [
        (41 * GB, {}, 205),
        (41 * GB, {"saved_within": timedelta(hours=12)}, 102),
        (41 * GB, {"saved_within": timedelta(minutes=59)}, None),
        (41 * GB, {"saved_bytes": 0}, None),
        (GB // 10, {}, 0),
        (-GB, {}, 0),
        # A store full to its retention does not run out, however little is free, ...
        (GB, {"retention_frees": True, "kept_bytes": 6 * GB}, None),
        (GB, {"retention_frees": True, "kept_bytes": 5 * GB}, None),
        # ... unless traffic has grown: 10 days' 0.1 GB a day net of what is freed.
        (GB, {"retention_frees": True, "kept_bytes": 3 * GB}, 10),
    ],
)
def test_days_of_room(free_bytes: int, changes: dict[str, object], days: int | None) -> None:
    assert cleanup_service.days_of_room(free_bytes, **{**YOUNG, **changes}) == days  # type: ignore[arg-type]


def test_days_left_follow_the_last_day(
    catalog: Catalog, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleanup = service(catalog, clock, min_free_bytes=GB)
    monkeypatch.setattr(catalog._files, "disk_usage", lambda: (GB + len(JPEG) * 80, 2 * GB))
    assert cleanup.days_left() is None
    save(catalog, clock.ago(0.5))
    save(catalog, clock.ago(0.25))
    assert cleanup.days_left() == 20  # two in half a day, room for 80
    save(catalog, clock.ago(2))
    assert cleanup.days_left() == 40  # two in a whole day
    save(catalog, clock.ago(8), state="uploaded")
    assert cleanup.days_left() is None  # retention frees from now on: 20 at most
    clock.now += timedelta(days=1)
    assert cleanup.days_left() is None  # nothing came within the last day


def test_images_that_wait_for_upload_are_not_freed_by_retention(
    catalog: Catalog, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog._files, "disk_usage", lambda: (GB + len(JPEG) * 80, 2 * GB))
    save(catalog, clock.ago(0.5))
    save(catalog, clock.ago(8))
    assert service(catalog, clock, min_free_bytes=GB).days_left() == 80
