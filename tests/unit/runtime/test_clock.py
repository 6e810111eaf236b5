"""What time it is when the clock is wrong, and what becomes of it when the clock comes right."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import clock_service
from clock_service import ClockService
from runtime import clock as clock_module
from runtime.clock import Clock, boot_id, is_synchronized
from store.catalog import Catalog
from store.errors import StorageError
from store.rows import AdoptedFile, Image, ImageFilter
from tests.rigs.stores import JPEG, NOON, shot, storage_config

UPTIME_S = 100.0
RELEASED_AT = NOON - timedelta(days=100)
LAST_CENTURY = datetime(1970, 1, 1, 0, 1, tzinfo=UTC)


class Box:
    """A machine's two clocks and what its kernel says of them."""

    def __init__(self) -> None:
        self.uptime_s = UPTIME_S
        self.offset_s = NOON.timestamp() - UPTIME_S
        self.is_synchronized: bool | None = True
        self.looks_at_wall = 0

    def wall_s(self) -> float:
        self.looks_at_wall += 1
        return self.uptime_s + self.offset_s

    def set(self, at: datetime, *, synchronized: bool | None) -> None:
        self.offset_s = at.timestamp() - self.uptime_s
        self.is_synchronized = synchronized

    def clock(self, newest_at: datetime | None = None) -> Clock:
        return Clock(
            synchronized=lambda: self.is_synchronized,
            wall_s=self.wall_s,
            monotonic_s=lambda: self.uptime_s,
            released_at=RELEASED_AT,
            newest_at=newest_at,
        )


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.open_owner(storage_config(tmp_path), boot="this boot")
    yield catalog
    catalog.close()


@pytest.mark.parametrize(
    ("synchronized", "at", "trusted"),
    [
        (True, NOON, True),
        (None, NOON, True),  # the kernel can't say
        (False, NOON, False),
        (True, LAST_CENTURY, False),  # before this program was made
        (None, LAST_CENTURY, False),
    ],
)
def test_when_a_clock_is_trusted(
    box: Box, synchronized: bool | None, at: datetime, trusted: bool
) -> None:
    box.set(at, synchronized=synchronized)
    assert box.clock().at(UPTIME_S).trusted is trusted


def test_an_edge_of_some_time_ago(box: Box) -> None:
    assert box.clock().at(UPTIME_S - 1.5).at == NOON - timedelta(seconds=1.5)


@pytest.mark.parametrize(
    ("newest_at", "shown", "named"),
    [
        (None, LAST_CENTURY, RELEASED_AT),
        (NOON, LAST_CENTURY, NOON),
        (NOON, NOON - timedelta(days=1), NOON),  # behind the newest image
        (NOON, NOON + timedelta(days=1), NOON + timedelta(days=1)),  # it may be right
    ],
)
def test_the_best_time_known_of_a_clock_never_set(
    box: Box, newest_at: datetime | None, shown: datetime, named: datetime
) -> None:
    box.set(shown, synchronized=False)
    clock = box.clock(newest_at)
    box.uptime_s += 7
    assert clock.at(box.uptime_s).at == named + timedelta(seconds=7)


def test_a_clock_that_was_right_is_carried_on_when_it_falls_back(box: Box) -> None:
    clock = box.clock()
    assert clock.at(box.uptime_s).trusted
    box.set(LAST_CENTURY, synchronized=False)
    box.uptime_s += 60
    moment = clock.at(box.uptime_s)
    assert (moment.at, moment.trusted) == (NOON + timedelta(seconds=60), False)


def test_a_clock_set_while_it_is_looked_at_is_not_trusted_too_early(box: Box) -> None:
    """Trust has to be asked for before the time: the other order would trust the old time."""
    box.set(LAST_CENTURY, synchronized=False)
    clock = box.clock()

    def synchronized_just_after_this() -> bool:
        assert box.looks_at_wall == 0
        box.set(NOON, synchronized=True)
        return False

    clock.synchronized = synchronized_just_after_this
    moment = clock.at(UPTIME_S)
    assert (moment.at, moment.trusted) == (NOON, False)


def test_a_clock_settles_before_anything_is_corrected(box: Box) -> None:
    box.set(LAST_CENTURY, synchronized=False)
    clock = box.clock()
    assert clock.settled_offset_s() is None
    box.is_synchronized = True  # said a moment before the clock is stepped
    assert clock.settled_offset_s() is None
    box.set(NOON, synchronized=True)
    assert clock.settled_offset_s() is None
    assert clock.settled_offset_s() == NOON.timestamp() - UPTIME_S
    box.offset_s += 1.0  # stepped again
    assert clock.settled_offset_s() is None
    assert clock.settled_offset_s() == NOON.timestamp() - UPTIME_S + 1.0
    box.is_synchronized = False
    assert clock.settled_offset_s() is None


def test_the_kernel_answers() -> None:
    assert is_synchronized() in (True, False, None)
    assert boot_id() == boot_id()
    assert len(boot_id()) >= 32


def test_a_kernel_that_does_not_tell_the_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot_id.cache_clear()
    monkeypatch.setattr(clock_module, "_BOOT_ID", tmp_path / "none")
    made_up = boot_id()
    assert made_up == boot_id()
    boot_id.cache_clear()
    assert boot_id() != made_up
    boot_id.cache_clear()


def untrusted(catalog: Catalog, uptime_s: float, at: datetime = RELEASED_AT) -> Image:
    event_id = catalog.events.begin("r1", "gpio", at, ("edge_late",), untrusted_s=uptime_s)
    return catalog.save(event_id, shot(JPEG + b"%f" % uptime_s), state="pending")


def settled(catalog: Catalog, box: Box) -> ClockService:
    """Return the service after two looks at a clock that is right."""
    service = ClockService(catalog, box.clock())
    service.step()
    service.step()
    return service


def test_times_are_corrected_and_nothing_else(catalog: Catalog, box: Box) -> None:
    before = untrusted(catalog, UPTIME_S - 50.25)
    assert (before.flags, before.clock_trusted) == (("edge_late", "untrusted_clock"), False)
    bytes_before = catalog.read(before.filename)
    settled(catalog, box)
    after = catalog.rows.image(before.filename)
    assert after.captured_at == NOON - timedelta(seconds=50.25)
    assert (after.flags, after.clock_trusted) == (("edge_late",), True)
    assert (after.id, after.sha256, after.state) == (before.id, before.sha256, "pending")
    assert catalog.read(after.filename) == bytes_before
    [event] = catalog.rows.events(None, limit=10)
    assert (event.edge_at, event.flags) == (after.captured_at, ("edge_late",))


def test_what_was_right_stays(catalog: Catalog, box: Box) -> None:
    event_id = catalog.events.begin("r1", "gpio", NOON - timedelta(days=3))
    image = catalog.save(event_id, shot(), state="pending")
    untrusted(catalog, UPTIME_S)
    settled(catalog, box)
    assert catalog.rows.image(image.filename) == image


def test_failed_edges_are_corrected_too(catalog: Catalog, box: Box) -> None:
    catalog.events.fail_unrecorded(
        "r1", "gpio", RELEASED_AT, "too many triggers", untrusted_s=UPTIME_S
    )
    catalog.record_unrecorded()
    [event] = catalog.rows.events("failed", limit=10)
    assert event.flags == ("untrusted_clock",)
    settled(catalog, box)
    [event] = catalog.rows.events("failed", limit=10)
    assert (event.edge_at, event.flags) == (NOON, ())


def test_a_restart_of_the_daemon_is_no_restart_of_the_machine(tmp_path: Path, box: Box) -> None:
    config = storage_config(tmp_path)
    first = Catalog.open_owner(config, boot="this boot")
    name = untrusted(first, UPTIME_S - 1).filename
    first.close()
    second = Catalog.open_owner(config, boot="this boot")
    settled(second, box)
    assert second.rows.image(name).captured_at == NOON - timedelta(seconds=1)
    second.close()


def test_an_earlier_boot_stays_as_it_is_and_does_not_age(tmp_path: Path, box: Box) -> None:
    config = storage_config(tmp_path)
    first = Catalog.open_owner(config, boot="an earlier boot")
    image = untrusted(first, 12.0)
    first.events.fail_unrecorded("r1", "gpio", RELEASED_AT, "camera down", untrusted_s=13.0)
    first.close()
    second = Catalog.open_owner(config, boot="this boot")
    settled(second, box)
    assert second.rows.image(image.filename) == image
    far_off = NOON + timedelta(days=10_000)
    assert second.rows.expired(far_off, ("pending",), 10) == []
    assert second.events.delete_ended(far_off) == 0
    second.close()


def test_a_capture_under_way_is_corrected_once_it_has_its_row(catalog: Catalog, box: Box) -> None:
    """Until then a crash would leave a file that only the old time leads back to its event."""
    event_id = catalog.events.begin("r1", "gpio", RELEASED_AT, untrusted_s=UPTIME_S)
    service = settled(catalog, box)
    assert catalog.rows.events(None, limit=1)[0].edge_at == RELEASED_AT
    image = catalog.save(event_id, shot(), state="pending")
    assert not image.clock_trusted
    service.step()
    assert catalog.rows.image(image.filename).captured_at == NOON


def test_a_later_picture_of_a_burst_has_the_corrected_time(catalog: Catalog, box: Box) -> None:
    first = untrusted(catalog, UPTIME_S)
    settled(catalog, box)
    assert first.event_id is not None
    later = catalog.save(first.event_id, shot(JPEG + b"b"), state="pending", beside=first, burst=1)
    assert later.filename == first.filename.replace(".jpg", "_b1.jpg")
    assert (later.captured_at, later.clock_trusted) == (NOON, True)


def test_many_edges_are_corrected_in_short_transactions(
    catalog: Catalog, box: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(clock_service, "_CHUNK", 2)
    for n in range(5):
        untrusted(catalog, UPTIME_S - n)
    service = ClockService(catalog, box.clock())
    caplog.set_level(logging.INFO)
    assert [service.step() for _ in range(4)] == [5.0, 0.0, 0.0, 5.0]
    images = catalog.rows.images(ImageFilter(), limit=10)
    assert [image.clock_trusted for image in images] == [True] * 5
    assert [image.captured_at for image in images] == [
        NOON - timedelta(seconds=n) for n in (4, 3, 2, 1, 0)
    ]
    assert "the times of 5 edges corrected" in caplog.text


def test_transitions_are_logged_once(
    catalog: Catalog, box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    service = ClockService(catalog, box.clock())
    for synchronized in (False, False, True, True, False):
        box.is_synchronized = synchronized
        service.step()
    texts = [record.message for record in caplog.records if record.name == "clock_service"]
    assert texts == [
        "the clock is not synchronised: times of photos are marked as unsure",
        "the clock is synchronised",
        "the clock is not synchronised: times of photos are marked as unsure",
    ]


def test_nothing_half_corrected_on_a_disk_that_fails(
    catalog: Catalog, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = untrusted(catalog, UPTIME_S)
    service = ClockService(catalog, box.clock())
    service.step()

    def fail() -> None:
        raise StorageError("the file system is read-only")

    monkeypatch.setattr(catalog._db, "transaction", fail)
    with pytest.raises(StorageError):
        service.step()
    monkeypatch.undo()
    assert catalog.rows.image(image.filename) == image
    service.step()
    assert catalog.rows.image(image.filename).captured_at == NOON


def test_a_file_without_a_row_has_the_trust_of_its_event(tmp_path: Path, box: Box) -> None:
    catalog = Catalog.open_owner(storage_config(tmp_path), boot="this boot")
    catalog.events.begin("r1", "gpio", RELEASED_AT, untrusted_s=UPTIME_S)
    catalog.close()  # the program was ended in the middle of it and starts anew
    catalog = Catalog.open_owner(storage_config(tmp_path), boot="this boot")
    epoch = int(RELEASED_AT.timestamp())
    name = f"r1_{epoch}.jpg"
    catalog.rows.path_of(name).write_bytes(JPEG)
    catalog.adopt([AdoptedFile(name, "r1", epoch, len(JPEG), "pending")])
    assert catalog.rows.image(name).flags == ("untrusted_clock",)
    settled(catalog, box)
    assert catalog.rows.image(name).captured_at == NOON
    catalog.close()


def test_a_file_of_a_burst_without_a_row_has_the_time_of_the_first(
    catalog: Catalog, box: Box
) -> None:
    first = untrusted(catalog, UPTIME_S)
    settled(catalog, box)
    name = first.filename.replace(".jpg", "_b1.jpg")
    catalog.rows.path_of(name).write_bytes(JPEG)
    epoch = int(RELEASED_AT.timestamp())
    catalog.adopt([AdoptedFile(name, "r1", epoch, len(JPEG), "pending")])
    adopted = catalog.rows.image(name)
    assert (adopted.event_id, adopted.captured_at) == (first.event_id, NOON)


def test_a_file_named_by_a_lost_clock_does_not_age_after_a_rebuild(catalog: Catalog) -> None:
    """Taken for 50 years old it would be deleted at once."""
    catalog.adopt(
        [
            AdoptedFile("r1_61.jpg", "r1", 61, len(JPEG), "skipped"),
            AdoptedFile("r1_1325376001.jpg", "r1", 1325376001, len(JPEG), "skipped"),
        ]
    )
    aged = catalog.rows.expired(NOON, ("skipped",), 10)
    assert [image.filename for image in aged] == ["r1_1325376001.jpg"]


def test_a_catalog_of_the_first_release_is_taken_over(tmp_path: Path, box: Box) -> None:
    config = storage_config(tmp_path)
    first = Catalog.open_owner(config, boot="this boot")
    kept = untrusted(first, 5.0)
    with first._db.transaction() as sql:
        sql.execute("UPDATE images SET flags = 'edge_late,untrusted_clock'")
        sql.execute("DROP TABLE uncorrected")
    first.close()
    second = Catalog.open_owner(config, boot="this boot")
    assert second.rows.image(kept.filename).flags == ("edge_late", "untrusted_clock")
    name = untrusted(second, UPTIME_S).filename
    settled(second, box)
    assert second.rows.image(name).clock_trusted
    assert not second.rows.image(kept.filename).clock_trusted
    second.close()
