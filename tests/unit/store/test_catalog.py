"""Files and rows: the life of events and images, totals, questions, damage, and the lock."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import database
from store.catalog import Catalog
from store.database import Database
from store.errors import LockedError, StorageError, UnrecordedError
from store.late_writes import LateWrites, Statements
from store.rows import IMAGE_STATES, AdoptedFile, Image, ImageFilter
from tests.rigs.commits import BrokenCommits
from tests.rigs.stores import JPEG, NOON, save, save_many, shot, storage_config


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.open_owner(storage_config(tmp_path))
    yield catalog
    catalog.close()


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def events(catalog: Catalog) -> dict[str, int]:
    return catalog.rows.totals().events


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> BrokenCommits:
    return BrokenCommits(monkeypatch)


# The life of events.


def test_accepted_is_saved_and_failed_and_capturing(catalog: Catalog) -> None:
    ids = [catalog.events.begin("r1", "gpio", later(n)) for n in range(5)]
    catalog.save(ids[0], shot(), state="pending")
    catalog.events.fail(ids[1], "camera down")
    catalog.events.fail(ids[2], "camera down")
    assert events(catalog) == {"capturing": 2, "saved": 1, "failed": 2}
    catalog.events.fail(ids[0], "too late")
    assert events(catalog) == {"capturing": 2, "saved": 1, "failed": 2}
    catalog.save(ids[3], shot(), state="pending")
    catalog.events.fail_unrecorded("r1", "gpio", later(9), "too many triggers")
    catalog.record_unrecorded()
    assert events(catalog) == {"capturing": 1, "saved": 2, "failed": 3}


def test_a_saved_image_tells_everything(catalog: Catalog) -> None:
    at = NOON.replace(microsecond=654321)
    event_id = catalog.events.begin("r1", "gpio", at, ("edge_late",), untrusted_s=7000.0)
    image = catalog.save(event_id, shot(flags=("stale",)), state="pending")
    assert image == catalog.rows.image(image.filename)
    assert image.filename == f"r1_{int(NOON.timestamp())}.jpg"
    assert (image.captured_at, image.offset_ms, image.source) == (at, 12.5, "gpio")
    assert image.flags == ("edge_late", "stale", "untrusted_clock")
    assert (image.width, image.height, image.size_bytes) == (1920, 1080, len(JPEG))
    assert (image.state, image.clock_trusted, image.attempts) == ("pending", False, 0)
    assert image.event_id == event_id
    assert image.sha256 is not None
    assert catalog.read(image.filename) == JPEG
    thumbnail = catalog.rows.thumbnail(image.filename)
    assert thumbnail is not None
    assert thumbnail.read_bytes() == b"thumbnail"
    assert catalog.rows.thumbnail("r1_1.jpg") is None


def test_two_captures_in_one_second_are_two_files(catalog: Catalog) -> None:
    names = [save(catalog, NOON, jpeg=JPEG + bytes([n])).filename for n in range(3)]
    stem = f"r1_{int(NOON.timestamp())}"
    assert names == [f"{stem}.jpg", f"{stem}_2.jpg", f"{stem}_3.jpg"]
    assert [catalog.read(name)[-1] for name in names] == [0, 1, 2]
    other = save(catalog, NOON, camera="r2")
    assert other.filename == f"r2_{int(NOON.timestamp())}.jpg"


def test_the_name_of_a_row_without_a_file_is_not_used_again(catalog: Catalog) -> None:
    first = save(catalog, state="missing")
    second = save(catalog)
    assert second.filename != first.filename


def test_an_image_is_acknowledged_only_when_file_and_row_are_there(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real_write, real_commit = catalog._files.write, catalog._writes.commit

    def write(stem: str, jpeg: bytes, claim: Callable[[str], bool], burst: int) -> str:
        name = real_write(stem, jpeg, claim, burst)
        order.append("file")
        return name

    def commit(statements: Any) -> Any:
        assert order == ["file"]
        rows = real_commit(statements)
        order.append("row")
        return rows

    event_id = catalog.events.begin("r1", "gpio", NOON)
    monkeypatch.setattr(catalog._files, "write", write)
    monkeypatch.setattr(catalog._writes, "commit", commit)
    catalog.save(event_id, shot(), state="pending")
    assert order == ["file", "row"]


def test_the_folders_are_durable_before_anything_is_saved_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    Catalog.open_owner(storage_config(tmp_path)).close()
    assert {str(tmp_path), str(tmp_path / "images")} <= set(synced)


# A catalog that can't be written.


def test_a_picture_without_a_row_is_kept_and_recorded_later(
    catalog: Catalog, commits: BrokenCommits
) -> None:
    event_id = catalog.events.begin("r1", "gpio", NOON)
    commits.on = True
    with pytest.raises(UnrecordedError) as caught:
        catalog.save(event_id, shot(), state="pending")
    assert caught.value.full
    name = f"r1_{int(NOON.timestamp())}.jpg"
    assert catalog.read(name) == JPEG
    assert (catalog.unrecorded, catalog.rows.has_row(name)) == (1, False)
    with pytest.raises(StorageError):
        catalog.record_unrecorded()
    assert catalog.unrecorded == 1
    commits.on = False
    version = catalog.pending_version
    catalog.record_unrecorded()
    assert (catalog.unrecorded, catalog.rows.image(name).state) == (0, "pending")
    assert catalog.pending_version > version
    assert events(catalog) == {"capturing": 0, "saved": 1, "failed": 0}


def test_an_unwritten_row_keeps_its_name_from_the_next_capture(
    catalog: Catalog, commits: BrokenCommits
) -> None:
    ids = [catalog.events.begin("r1", "gpio", NOON) for _ in range(2)]
    commits.on = True
    for number, event_id in enumerate(ids):
        with pytest.raises(UnrecordedError):
            catalog.save(event_id, shot(JPEG + bytes([number])), state="pending")
    commits.on = False
    catalog.record_unrecorded()
    images = catalog.rows.images(ImageFilter(), limit=10)
    assert [catalog.read(image.filename)[-1] for image in images] == [1, 0]


def test_failures_are_recorded_once_writing_works(catalog: Catalog, commits: BrokenCommits) -> None:
    event_id = catalog.events.begin("r1", "gpio", NOON)
    commits.on = True
    with pytest.raises(StorageError):
        catalog.events.begin("r1", "gpio", later(1))
    catalog.events.fail_unrecorded("r1", "gpio", later(1), "the disk is full")
    catalog.events.fail(event_id, "camera down")
    assert (catalog.unrecorded, events(catalog)["failed"]) == (2, 0)
    commits.on = False
    catalog.events.begin("r1", "gpio", later(2))  # any writing takes the others along
    assert (catalog.unrecorded, events(catalog)) == (0, {"capturing": 1, "saved": 0, "failed": 2})
    assert [e.reason for e in catalog.rows.events("failed", limit=5)] == [
        "the disk is full",
        "camera down",
    ]


def test_what_waited_is_written_many_at_once(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(600):
        catalog.events.fail_unrecorded("r1", "gpio", later(n), "the disk is full", untrusted_s=n)
    commits: list[int] = []
    real = LateWrites.commit

    def commit(writes: LateWrites, statements: list[Any], *, lazy: bool = False) -> Any:
        commits.append(len(statements))
        return real(writes, statements, lazy=lazy)

    monkeypatch.setattr(LateWrites, "commit", commit)
    catalog.record_unrecorded()
    assert commits == [1000, 200]
    assert (catalog.unrecorded, events(catalog)["failed"]) == (0, 600)
    assert catalog.events.correct_times(NOON.timestamp(), 1000) == 600
    assert [event.edge_at for event in catalog.rows.events(None, limit=2)] == [
        later(599),
        later(598),
    ]


def test_a_disk_full_for_the_file_leaves_no_row(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id = catalog.events.begin("r1", "gpio", NOON)

    def write(*_: object) -> str:
        raise StorageError("the disk is full", full=True)

    monkeypatch.setattr(catalog._files, "write", write)
    with pytest.raises(StorageError) as caught:
        catalog.save(event_id, shot(), state="pending")
    assert not isinstance(caught.value, UnrecordedError)
    assert catalog.rows.totals().images == 0
    assert not catalog.is_being_saved(f"r1_{int(NOON.timestamp())}.jpg")


def test_close_records_what_was_left(tmp_path: Path, commits: BrokenCommits) -> None:
    catalog = Catalog.open_owner(storage_config(tmp_path))
    commits.on = True
    catalog.events.fail_unrecorded("r1", "gpio", NOON, "the disk is full")
    commits.on = False
    catalog.close()
    catalog = Catalog.open_owner(storage_config(tmp_path))
    assert events(catalog)["failed"] == 1
    catalog.close()


# The life of images.


def test_no_image_is_seen_in_a_state_before_its_row_is(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = save(catalog)
    seen: list[Image] = []
    real = LateWrites.commit

    def commit(writes: LateWrites, statements: list[Any], *, lazy: bool = False) -> Any:
        seen.append(catalog.rows.image(image.filename))  # as another thread may, right now
        rows = real(writes, statements, lazy=lazy)
        seen.append(catalog.rows.image(image.filename))
        return rows

    monkeypatch.setattr(LateWrites, "commit", commit)
    catalog.states.mark_uploaded(image.id, "there")
    told = [(i.state, i.remote_location) for i in seen]
    assert told == [("pending", None), ("uploaded", "there")]


def test_a_state_that_is_written_during_a_look_is_seen(
    catalog: Catalog, commits: BrokenCommits, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = save(catalog)
    commits.on = True
    catalog.states.mark_uploaded(image.id, None)
    commits.on = False
    real = Database.query

    def query(database: Database, sql: str, parameters: tuple[object, ...] = ()) -> Any:
        rows = real(database, sql, parameters)
        catalog.record_unrecorded()  # as another thread may, right now
        return rows

    monkeypatch.setattr(Database, "query", query)
    assert catalog.rows.image(image.filename).state == "uploaded"


def test_due_images_come_oldest_first_and_waiting_ones_do_not(catalog: Catalog) -> None:
    first, second, third = save_many(catalog, 3)
    assert [i.id for i in catalog.rows.due_uploads(NOON, 10)] == [first.id, second.id, third.id]
    catalog.states.mark_waiting(first.id, "no answer", later(60), "connection")
    assert [i.id for i in catalog.rows.due_uploads(NOON, 10)] == [second.id, third.id]
    assert [i.id for i in catalog.rows.due_uploads(later(61), 1)] == [first.id]
    assert catalog.rows.next_attempt_at(NOON) == later(60)
    assert catalog.rows.next_attempt_at(later(61)) is None
    assert [i.id for i in catalog.rows.oldest_pending(2)] == [first.id, second.id]
    assert [i.id for i in catalog.rows.oldest_pending(5, after_id=first.id)] == [
        second.id,
        third.id,
    ]


def test_a_clock_set_back_does_not_strand_images(catalog: Catalog) -> None:
    image = save(catalog)
    catalog.states.mark_waiting(image.id, "busy", later(86400 * 365), "server")
    assert [i.id for i in catalog.rows.due_uploads(NOON, 10)] == [image.id]


def test_marks_lead_to_their_states(catalog: Catalog) -> None:
    image = save(catalog)
    catalog.states.mark_waiting(image.id, "busy", later(5), "server")
    waiting = catalog.rows.image(image.filename)
    assert (waiting.state, waiting.attempts, waiting.last_error) == ("pending", 1, "busy")
    assert (waiting.wait_for, waiting.next_attempt_at) == ("server", later(5))
    catalog.states.mark_rejected(image.id, "too large")
    rejected = catalog.rows.image(image.filename)
    assert (rejected.state, rejected.attempts, rejected.last_error) == ("rejected", 2, "too large")
    catalog.states.mark_uploaded(image.id, "http://there")
    uploaded = catalog.rows.image(image.filename)
    assert (uploaded.state, uploaded.attempts, uploaded.last_error) == ("uploaded", 3, None)
    assert (uploaded.remote_location, uploaded.uploaded_at is None) == ("http://there", False)
    catalog.states.mark_missing(image.id)
    assert catalog.rows.image(image.filename).state == "missing"
    assert catalog.rows.totals().images == 0


def test_those_that_never_waited_can_be_asked_for_first(catalog: Catalog) -> None:
    waited, fresh, waits = save_many(catalog, 3)
    catalog.states.mark_waiting(waited.id, "busy", later(5), "server")
    catalog.states.mark_waiting(waits.id, "busy", later(60), "server")
    due = [i.id for i in catalog.rows.due_uploads(later(10), 9)]
    assert due == [waited.id, fresh.id]
    due = [i.id for i in catalog.rows.due_uploads(later(10), 9, without_wait_first=True)]
    assert due == [fresh.id]
    catalog.states.mark_uploaded(fresh.id, None)
    due = [i.id for i in catalog.rows.due_uploads(later(10), 9, without_wait_first=True)]
    assert due == [waited.id]
    assert catalog.rows.due_uploads(later(1), 9) == []


def test_retry_of_all_takes_waiting_and_rejected_ones(catalog: Catalog) -> None:
    states = ("pending", "rejected", "skipped", "uploaded", "missing", "unknown")
    images = {s: save(catalog, later(n), state=s) for n, s in enumerate(states)}
    catalog.states.mark_waiting(images["pending"].id, "busy", later(60), "retry_after")
    test_image = save(catalog, later(20), source="test", state="skipped")
    assert catalog.states.retry() == 2
    due = [i.id for i in catalog.rows.due_uploads(NOON, 10)]
    assert due == [images["pending"].id, images["rejected"].id]
    assert catalog.rows.image(test_image.filename).state == "skipped"


@pytest.mark.parametrize("state", IMAGE_STATES)
@pytest.mark.parametrize("source", ["gpio", "manual", "test"])
def test_retry_of_one(catalog: Catalog, state: str, source: str) -> None:
    image = save(catalog, state=state, source=source)
    may = state in ("pending", "rejected", "skipped") and source != "test"
    assert catalog.states.retry(image.filename) == int(may)
    assert catalog.rows.image(image.filename).state == ("pending" if may else state)


@pytest.mark.parametrize("state", ["pending", "uploaded"])
def test_unknown_ones_are_resolved_together(catalog: Catalog, state: str) -> None:
    save(catalog, state="unknown")
    save(catalog, later(1), state="unknown")
    save(catalog, later(2), state="rejected")
    assert catalog.states.resolve_unknown(state) == 2
    assert catalog.rows.totals().by_state[state] == 2
    assert catalog.states.resolve_unknown(state) == 0


def test_a_row_that_another_process_makes_of_the_file_meanwhile_stays(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id = catalog.events.begin("r1", "test", NOON)
    real_commit = catalog._writes.commit

    def adopt_first(statements: Statements) -> object:
        epoch = int(NOON.timestamp())
        catalog.adopt([AdoptedFile(f"r1_{epoch}.jpg", "r1", epoch, len(JPEG), "pending")])
        return real_commit(statements)

    monkeypatch.setattr(catalog._writes, "commit", adopt_first)
    image = catalog.save(event_id, shot(), state="skipped")
    assert image == catalog.rows.image(image.filename)
    assert (image.state, image.sha256) == ("pending", None)
    assert catalog.rows.totals().images == 1
    _check_totals(catalog)


# Missing files.

# How a release before the column `state_before` left the rows of images whose file has gone:
# wait_for, uploaded_us, source, and what the image was. The oldest ones kept no state at all.
LEFT_MISSING = [
    ("rejected", None, "gpio", "rejected"),
    ("skipped", None, "gpio", "skipped"),
    ("unknown", None, "gpio", "unknown"),
    ("uploaded", None, "gpio", "uploaded"),
    ("pending", None, "gpio", "pending"),
    ("connection", None, "gpio", "pending"),
    (None, None, "manual", "pending"),
    (None, 5, "gpio", "uploaded"),
    ("silent", 5, "gpio", "uploaded"),
    (None, None, "test", "skipped"),
    ("pending", None, "test", "skipped"),
]


def test_a_store_of_a_former_release_is_opened_as_it_is(tmp_path: Path) -> None:
    config = storage_config(tmp_path)
    config.state_dir.mkdir(parents=True)
    with closing(sqlite3.connect(config.state_dir / "catalog.sqlite3")) as sql:
        sql.executescript(database._SCHEMA)
        sql.execute("PRAGMA user_version = 1")
        sql.executemany(
            "INSERT INTO images (filename, camera, source, edge_us, clock_trusted, size_bytes,"
            " state, wait_for, uploaded_us, last_error)"
            " VALUES (?, 'r1', ?, 0, 1, 9, 'missing', ?, ?, 'the file has gone')",
            [
                (f"r1_{number}.jpg", source, wait_for, uploaded_us)
                for number, (wait_for, uploaded_us, source, _) in enumerate(LEFT_MISSING)
            ],
        )
        sql.commit()
    for _ in range(2):  # the second time the column is there
        catalog = Catalog.open_owner(config)
        assert not catalog.rows.rebuilding
        assert catalog.rows.totals().by_state["missing"] == len(LEFT_MISSING)
        catalog.close()
    catalog = Catalog.open_owner(config)
    for number, (*_, state) in enumerate(LEFT_MISSING):
        catalog.states.mark_found(catalog.rows.image(f"r1_{number}.jpg").id)
        image = catalog.rows.image(f"r1_{number}.jpg")
        assert (image.state, image.wait_for, image.last_error) == (state, None, None), number
    _check_totals(catalog)
    catalog.close()


@pytest.mark.parametrize("state", ["pending", "uploaded", "rejected", "skipped", "unknown"])
def test_a_missing_image_keeps_its_former_state_apart(catalog: Catalog, state: str) -> None:
    image = save(catalog, state=state)
    catalog.states.mark_missing(image.id)
    missing = catalog.rows.image(image.filename)
    assert (missing.state, missing.wait_for) == ("missing", None)
    catalog.states.mark_found(image.id)
    assert catalog.rows.image(image.filename).state == state


def test_what_a_former_release_marked_missing_in_between_counts(catalog: Catalog) -> None:
    image = save(catalog, state="rejected")
    catalog.states.mark_missing(image.id)
    with catalog._db.transaction() as sql:  # found, sent, and missing again, as it writes it
        sql.execute("UPDATE images SET wait_for = 'uploaded' WHERE id = ?", (image.id,))
    catalog.states.mark_found(image.id)
    assert catalog.rows.image(image.filename).state == "uploaded"


# Totals.

_STEP = st.tuples(
    st.sampled_from(
        (
            *("save", "save", "fail", "begin", "waiting", "uploaded", "rejected", "missing"),
            *("retry", "resolve", "delete", "delete_events", "interrupt", "note"),
        )
    ),
    st.integers(0, 7),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(_STEP, max_size=25))
def test_totals_equal_a_recount_after_anything(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        catalog = Catalog.open_owner(storage_config(Path(folder)))
        try:
            for what, number in steps:
                _do(catalog, what, number)
            _check_totals(catalog)
        finally:
            catalog.close()


def _do(catalog: Catalog, what: str, number: int) -> None:
    images = catalog.rows.images(ImageFilter(), limit=100)
    chosen = images[number % len(images)] if images else None
    if what == "save":
        state = "skipped" if number % 3 == 0 else "pending"
        save(catalog, later(number), camera=f"r{number % 2 + 1}", state=state)
    elif what == "fail":
        catalog.events.fail(number, "camera down")
    elif what == "begin":
        catalog.events.begin("r1", "gpio", later(number))
    elif what == "retry":
        catalog.states.retry()
    elif what == "resolve":
        catalog.states.resolve_unknown("uploaded")
    elif what == "delete_events":
        catalog.events.delete_ended(later(number))
    elif what == "interrupt":
        catalog.events.fail_interrupted()
    elif chosen is not None:
        _do_to(catalog, what, chosen, images[: number + 1])


def _do_to(catalog: Catalog, what: str, image: Image, images: list[Any]) -> None:
    if what == "waiting":
        catalog.states.mark_waiting(image.id, "busy", None, "server")
    elif what == "uploaded":
        catalog.states.mark_uploaded(image.id, None)
    elif what == "rejected":
        catalog.states.mark_rejected(image.id, "no")
    elif what == "missing":
        catalog.states.mark_missing(image.id)
    elif what == "note":
        catalog.states.with_sha256(image, JPEG)
    else:
        catalog.delete(images)


def _check_totals(catalog: Catalog) -> None:
    images = catalog.rows.images(ImageFilter(), limit=1000)
    totals = catalog.rows.totals()
    counted = Counter(image.state for image in images)
    assert totals.by_state == {state: counted[state] for state in IMAGE_STATES}
    present = [image for image in images if image.state != "missing"]
    assert (totals.images, totals.bytes) == (len(present), sum(i.size_bytes for i in present))
    by_event = Counter(event.state for event in catalog.rows.events(None, limit=1000))
    assert totals.events == {s: by_event[s] for s in ("capturing", "saved", "failed")}
    for camera in ("r1", "r2", None):
        for state in (*IMAGE_STATES, None):
            shown = [i for i in images if camera in (i.camera, None) and state in (i.state, None)]
            assert catalog.rows.count(ImageFilter(camera=camera, state=state)) == len(shown)


# Questions.


def test_pages_by_cursor_are_the_pages_by_number(catalog: Catalog) -> None:
    saved = [i.id for i in save_many(catalog, 7)][::-1]
    by_cursor: list[int] = []
    before = None
    while page := catalog.rows.images(ImageFilter(), limit=3, before_id=before):
        by_cursor += [image.id for image in page]
        before = by_cursor[-1]
    by_number = [
        image.id
        for skip in (0, 3, 6)
        for image in catalog.rows.images(ImageFilter(), limit=3, skip=skip)
    ]
    assert by_cursor == by_number == saved


def test_filters(catalog: Catalog) -> None:
    save(catalog, later(0))
    save(catalog, later(10), camera="r2", state="uploaded")
    save(catalog, later(20), state="uploaded")
    table = [
        (ImageFilter(), 3),
        (ImageFilter(camera="r1"), 2),
        (ImageFilter(state="uploaded"), 2),
        (ImageFilter(camera="r1", state="uploaded"), 1),
        (ImageFilter(since=later(10)), 2),
        (ImageFilter(until=later(10)), 1),
        (ImageFilter(camera="r2", since=later(5), until=later(15)), 1),
        (ImageFilter(camera="r3"), 0),
    ]
    for which, number in table:
        assert catalog.rows.count(which) == len(catalog.rows.images(which, limit=10)) == number


def test_events_name_their_images(catalog: Catalog) -> None:
    image = save(catalog)
    catalog.events.begin("r2", "manual", later(1))
    newest, oldest = catalog.rows.events(None, limit=5)
    assert (newest.camera, newest.source, newest.filenames) == ("r2", "manual", ())
    assert (oldest.state, oldest.filenames) == ("saved", (image.filename,))
    assert [e.id for e in catalog.rows.events(None, limit=5, before_id=newest.id)] == [oldest.id]
    assert catalog.rows.events("failed", limit=5) == []


def test_an_unknown_image_is_a_key_error(catalog: Catalog) -> None:
    with pytest.raises(KeyError):
        catalog.rows.image("r1_1.jpg")


def test_the_newest_image_is_one_whose_clock_was_right(catalog: Catalog) -> None:
    assert catalog.rows.newest_image_at() is None
    save(catalog, NOON)
    save(catalog, later(1000), clock_trusted=False)
    assert catalog.rows.newest_image_at() == NOON


# Deleting.


def test_expired_ones_are_old_trusted_and_of_the_states(catalog: Catalog) -> None:
    old = save(catalog, later(0), state="uploaded")
    save(catalog, later(1), state="uploaded", clock_trusted=False)
    save(catalog, later(2), state="pending")
    older = save(catalog, later(-5), state="skipped")
    gone = save(catalog, later(-9), state="missing")
    save(catalog, later(100), state="uploaded")
    states = ("uploaded", "skipped", "missing")
    found = catalog.rows.expired(later(50), states, 10)
    assert [i.id for i in found] == [gone.id, older.id, old.id]
    assert [i.id for i in catalog.rows.expired(later(50), states, 1)] == [gone.id]
    assert catalog.rows.expired_totals(later(50), states) == (3, 2 * len(JPEG))


def test_what_was_noted_lazily_is_durable_before_a_file_goes(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = save(catalog, state="uploaded")
    path = catalog.rows.path_of(image.filename)
    there: list[bool] = []
    monkeypatch.setattr(Database, "sync", lambda database: there.append(path.exists()))
    catalog.delete([image])
    assert (there, path.exists()) == ([True], False)


def test_files_go_before_rows(catalog: Catalog, commits: BrokenCommits) -> None:
    image = save(catalog, state="uploaded")
    commits.on = True
    with pytest.raises(StorageError):
        catalog.delete([image])
    assert not catalog.rows.path_of(image.filename).exists()
    assert catalog.rows.has_row(image.filename)
    commits.on = False
    catalog.delete([image])
    assert not catalog.rows.has_row(image.filename)
    assert catalog.rows.thumbnail(image.filename) is None


def test_a_file_that_cannot_be_deleted_keeps_its_row(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = save(catalog, state="uploaded")

    def delete(names: object) -> None:
        raise StorageError("read-only")

    monkeypatch.setattr(catalog._files, "delete", delete)
    with pytest.raises(StorageError):
        catalog.delete([image])
    assert catalog.rows.has_row(image.filename)


def test_what_changed_its_state_since_it_was_looked_at_is_not_deleted(catalog: Catalog) -> None:
    again, old, unknown = (
        save(catalog, later(n), state=state)
        for n, state in enumerate(("rejected", "rejected", "unknown"))
    )
    catalog.states.retry(again.filename)
    catalog.states.resolve_unknown("pending")
    assert catalog.delete([again, old, unknown]) == [old]
    assert [i.filename for i in catalog.rows.oldest_pending(9)] == [
        again.filename,
        unknown.filename,
    ]
    assert catalog.rows.path_of(again.filename).exists()


def test_what_is_to_be_sent_again_after_a_failed_deletion_stays(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [save(catalog, later(n), state="rejected") for n in range(2)]
    with monkeypatch.context() as read_only:

        def delete(names: object) -> None:
            raise StorageError("read-only")

        read_only.setattr(catalog._files, "delete", delete)
        with pytest.raises(StorageError):
            catalog.delete(images)
    catalog.states.retry(images[0].filename)
    catalog.finish_deleting()
    assert [i.filename for i in catalog.rows.images(ImageFilter(), limit=9)] == [images[0].filename]
    assert catalog.rows.path_of(images[0].filename).exists()


def test_a_file_that_cannot_be_removed_does_not_keep_the_others(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = (save(catalog, later(n), state="uploaded") for n in range(2))
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path == catalog.rows.path_of(bad.filename):
            raise OSError(errno.EUCLEAN, "Structure needs cleaning")
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    assert catalog.delete([bad, good]) == [good]
    assert "cannot delete images" in (catalog.write_error or "")
    catalog.finish_deleting()
    with pytest.raises(StorageError, match="Structure needs cleaning"):
        catalog.delete([bad])
    catalog.finish_deleting()  # nothing is half done
    assert [i.filename for i in catalog.rows.images(ImageFilter(), limit=9)] == [bad.filename]


def test_a_row_that_is_gone_takes_no_file_of_its_name_with_it(catalog: Catalog) -> None:
    image = save(catalog, state="uploaded")
    catalog.delete([image])
    taken_again = save(catalog)
    assert taken_again.filename == image.filename
    assert catalog.delete([image]) == []
    assert catalog.rows.path_of(image.filename).exists()


def test_many_rows_are_changed_a_part_at_a_time(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.database._PART", 2)
    for n in range(5):
        save(catalog, later(n), state="unknown")
        catalog.events.fail_unrecorded("r1", "gpio", later(n), "camera down")
    catalog.record_unrecorded()
    assert catalog.states.resolve_unknown("uploaded") == 5
    assert catalog.events.delete_ended(later(4)) == 4
    assert events(catalog)["failed"] == 1


def test_only_ended_events_without_images_are_deleted(catalog: Catalog) -> None:
    save(catalog, later(0))
    catalog.events.begin("r1", "gpio", later(1))
    catalog.events.fail_unrecorded("r1", "gpio", later(2), "camera down")
    catalog.events.fail_unrecorded("r1", "gpio", later(50), "camera down")
    catalog.record_unrecorded()
    assert catalog.events.delete_ended(later(40)) == 1
    assert events(catalog) == {"capturing": 1, "saved": 1, "failed": 1}


# The owner, and damage.


def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    config = storage_config(tmp_path)
    owner = Catalog.open_owner(config)
    with pytest.raises(LockedError, match=r"process \d+ already works on"):
        Catalog.open_owner(config)
    beside = Catalog.open_beside(config)
    image = save(beside)
    assert owner.rows.image(image.filename) == image
    beside.close()
    owner.close()
    Catalog.open_owner(config).close()


def test_the_owner_is_named_to_those_beside_it(tmp_path: Path) -> None:
    config = storage_config(tmp_path)
    assert Catalog.owner_of(config) is None
    assert not config.image_dir.exists()  # asking makes nothing
    owner = Catalog.open_owner(config)
    assert Catalog.owner_of(config) == str(os.getpid())
    owner.close()
    assert Catalog.owner_of(config) is None
    Catalog.open_owner(config).close()  # asking keeps nobody out


def test_reading_needs_a_catalog_and_makes_none(tmp_path: Path) -> None:
    config = storage_config(tmp_path)
    with pytest.raises(StorageError, match="no catalog"):
        Catalog.open_to_read(config)
    assert list(tmp_path.iterdir()) == []
    owner = Catalog.open_owner(config)
    image = save(owner)
    reader = Catalog.open_to_read(config)
    assert reader.rows.image(image.filename) == image
    reader.close()
    owner.close()


def test_a_catalog_made_anew_keeps_the_former_one(tmp_path: Path) -> None:
    config = storage_config(tmp_path)
    catalog = Catalog.open_anew(config)
    assert (catalog.former, catalog.rows.rebuilding) == (None, False)
    save(catalog)
    catalog.close()
    catalog = Catalog.open_anew(config)
    [kept] = config.state_dir.glob("catalog.sqlite3.replaced-*")
    assert (catalog.former, catalog.rows.rebuilding) == (kept, True)
    assert catalog.rows.totals().images == 0
    catalog.close()


def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    config = storage_config(tmp_path)
    Catalog.open_owner(config).close()
    with sqlite3.connect(config.state_dir / "catalog.sqlite3") as sql:
        sql.execute("PRAGMA user_version = 99")
    sql.close()
    with pytest.raises(StorageError, match="newer release"):
        Catalog.open_owner(config)
    assert not list(config.state_dir.glob("*.damaged-*"))


def _flip_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8192] = b"\xa5" * 8192
    path.write_bytes(content)


def _garble_head(path: Path) -> None:
    path.write_bytes(b"this is no database at all" * 100)


@pytest.mark.parametrize("harm", [_flip_middle, _garble_head])
def test_a_damaged_database_is_set_aside_and_made_anew(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    config = storage_config(tmp_path)
    catalog = Catalog.open_owner(config)
    with catalog._db.transaction() as sql:
        sql.executemany(
            "INSERT INTO events (camera, source, edge_us, state) VALUES (?, 'gpio', ?, 'saved')",
            [("r1", n) for n in range(2000)],
        )
    old = save(catalog)
    catalog.close()
    path = config.state_dir / "catalog.sqlite3"
    harm(path)
    harmed = path.read_bytes()
    with pytest.raises(StorageError, match="start the daemon"):
        Catalog.open_beside(config)
    assert path.read_bytes() == harmed
    catalog = Catalog.open_owner(config)
    assert catalog.rows.rebuilding
    [kept] = config.state_dir.glob("catalog.sqlite3.damaged-*Z")
    assert kept.read_bytes() == harmed
    assert not catalog.rows.has_row(old.filename)
    assert catalog.read(old.filename) == JPEG
    new = save(catalog)
    assert new.filename != old.filename
    catalog.close()
    catalog = Catalog.open_owner(config)
    assert catalog.rows.rebuilding
    assert catalog.rows.image(new.filename) == new
    catalog.close()


def test_a_lost_or_emptied_database_beside_images_is_rebuilt(tmp_path: Path) -> None:
    config = storage_config(tmp_path)
    catalog = Catalog.open_owner(config)
    assert not catalog.rows.rebuilding
    save(catalog)
    catalog.close()
    path = config.state_dir / "catalog.sqlite3"
    path.write_bytes(b"")
    catalog = Catalog.open_owner(config)
    assert catalog.rows.rebuilding
    catalog.close()
    path.unlink()
    catalog = Catalog.open_owner(config)
    assert catalog.rows.rebuilding
    catalog.end_rebuilding()
    catalog.close()
    catalog = Catalog.open_owner(config)
    assert not catalog.rows.rebuilding
    catalog.close()


def test_damage_met_while_running_is_repaired_by_the_next_start(tmp_path: Path) -> None:
    config = storage_config(tmp_path)
    catalog = Catalog.open_owner(config)
    save(catalog)
    assert not catalog.damaged
    error = sqlite3.DatabaseError("malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    with pytest.raises(StorageError), catalog._db.transaction():
        raise error
    assert catalog.damaged
    with pytest.raises(StorageError):  # a command beside the daemon must not repair
        Catalog.open_beside(config)
    assert catalog.damaged
    catalog.close()
    catalog = Catalog.open_owner(config)
    assert not catalog.damaged
    assert catalog.rows.rebuilding
    assert list(config.state_dir.glob("catalog.sqlite3.damaged-*Z"))
    catalog.close()
    catalog = Catalog.open_owner(config)
    assert len(list(config.state_dir.glob("catalog.sqlite3.damaged-*Z"))) == 1
    catalog.close()


# A disk that fails and works again.


def test_a_failed_write_is_told_until_one_works(catalog: Catalog, commits: BrokenCommits) -> None:
    assert catalog.write_error is None
    catalog.check_writing()
    catalog._files.write_error = "cannot save r1_1.jpg: the disk is full"
    assert catalog.write_error == "cannot save r1_1.jpg: the disk is full"
    commits.on = True
    with pytest.raises(StorageError):
        catalog.check_writing()
    commits.on = False
    catalog._db.write_error = "the catalog can't be used"
    catalog.check_writing()
    assert catalog.write_error is None


def test_a_read_only_file_system_is_noticed_before_a_capture_fails(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only() -> None:
        raise StorageError("the file system is read-only")

    monkeypatch.setattr(catalog._files, "probe", read_only)
    catalog.check_writing()  # a disk that is well is left alone
    monkeypatch.setattr(catalog._files, "is_read_only", lambda: True)
    with pytest.raises(StorageError):
        catalog.check_writing()


def test_a_deletion_that_failed_midway_is_ended(catalog: Catalog, commits: BrokenCommits) -> None:
    saved = save_many(catalog, 3, state="uploaded")
    commits.on = True
    with pytest.raises(StorageError):
        catalog.delete(saved[:2])
    commits.on = False
    catalog.finish_deleting()
    assert [image.filename for image in catalog.rows.images(ImageFilter(), limit=9)] == [
        saved[2].filename
    ]
    catalog.finish_deleting()
    assert catalog.rows.totals().images == 1


def test_a_torn_thumbnail_does_not_stay(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.write_bytes

    def half(path: Path, content: bytes) -> int:
        real(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    image = save(catalog)
    assert catalog.rows.thumbnail(image.filename) is None
    assert list((tmp_path / "images/.state/thumbnails").iterdir()) == []


def test_a_failed_rollback_does_not_block_the_next_transaction(catalog: Catalog) -> None:
    catalog._db._writer.execute("BEGIN IMMEDIATE")
    event_id = catalog.events.begin("r1", "gpio", NOON)
    assert [event.id for event in catalog.rows.events(None, limit=9)] == [event_id]


def test_a_slow_disk_is_told(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(catalog)
    assert "slow" not in caplog.text
    monkeypatch.setattr("store.catalog._SLOW_SAVE_S", 0.0)
    image = save(catalog)
    assert f"saving {image.filename} took" in caplog.text
    assert (catalog.slow_save_s or 0) > 0
