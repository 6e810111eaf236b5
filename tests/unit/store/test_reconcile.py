"""What a start makes of files, rows and the pending list that do not agree."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from config import StorageConfig
from store import catalog_reader, reconcile
from store.catalog import Catalog
from store.errors import StorageError, UnrecordedError
from store.exif import Facts, with_exif
from store.late_writes import Statements
from store.pending_file import PendingExporter
from store.reconcile import Reconciler
from store.rows import ImageFilter
from tests.rigs.stores import JPEG, NOON, save, save_many, shot, storage_config

EPOCH = int(NOON.timestamp())


@pytest.fixture
def config(tmp_path: Path) -> StorageConfig:
    return storage_config(tmp_path)


@pytest.fixture
def reopen(config: StorageConfig) -> Iterator[Callable[[], Catalog]]:
    """Return a function that opens the catalog as a new run of the program does."""
    opened: list[Catalog] = []

    def reopen() -> Catalog:
        for catalog in opened:
            catalog.close()
        opened[:] = [Catalog.open_owner(config)]
        return opened[0]

    yield reopen
    for catalog in opened:
        catalog.close()


def run(catalog: Catalog, config: StorageConfig, *, uploads_enabled: bool = True) -> Reconciler:
    done: list[bool] = []
    reconciler = Reconciler(
        catalog,
        config,
        uploads_enabled=uploads_enabled,
        on_done=lambda: done.append(True),
    )
    reconciler.step()
    reconciler.step()
    assert done == [True]
    return reconciler


def put(catalog: Catalog, name: str) -> Path:
    path = catalog.rows.path_of(name)
    path.write_bytes(JPEG + name.encode())
    return path


def states(catalog: Catalog) -> dict[str, str]:
    return {i.filename: i.state for i in catalog.rows.images(ImageFilter(), limit=1000)}


def test_nothing_to_do_changes_nothing(
    config: StorageConfig, reopen: Callable[[], Catalog]
) -> None:
    catalog = reopen()
    saved = save_many(catalog, 3)
    run(catalog, config)
    assert catalog.rows.images(ImageFilter(), limit=9) == saved[::-1]


def test_stray_temp_files_go(config: StorageConfig, reopen: Callable[[], Catalog]) -> None:
    catalog = reopen()
    stray = put(catalog, f".r1_{EPOCH}.jpg.tmp")
    run(catalog, config)
    assert not stray.exists()
    assert states(catalog) == {}


def test_the_temp_file_of_a_running_capture_stays(
    config: StorageConfig, reopen: Callable[[], Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = reopen()
    event_id = catalog.events.begin("r1", "gpio", NOON)
    real_fsync = os.fsync
    runs: list[Reconciler] = []

    def fsync(descriptor: int) -> None:
        if not runs:
            monkeypatch.setattr(os, "fsync", real_fsync)
            runs.append(run(catalog, config))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    image = catalog.save(event_id, shot(), state="pending")
    assert len(runs) == 1
    assert catalog.read(image.filename) == JPEG
    assert states(catalog) == {image.filename: "pending"}
    assert catalog.rows.totals().events == {"capturing": 0, "saved": 1, "failed": 0}


def test_a_running_capture_is_not_adopted_besides(
    config: StorageConfig, reopen: Callable[[], Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = reopen()
    event_id = catalog.events.begin("r1", "gpio", NOON)
    real_commit = catalog._writes.commit

    def commit(statements: Statements) -> object:
        assert catalog._files.has_images()  # the file has its name, the row is still to come
        thread = threading.Thread(target=run, args=(catalog, config))
        thread.start()
        thread.join()
        assert states(catalog) == {}
        return real_commit(statements)

    monkeypatch.setattr(catalog._writes, "commit", commit)
    image = catalog.save(event_id, shot(), state="pending")
    assert (image.event_id, image.offset_ms) == (event_id, 12.5)
    assert states(catalog) == {image.filename: "pending"}


def test_an_image_deleted_while_files_are_looked_at_is_no_file_without_a_row(
    config: StorageConfig, reopen: Callable[[], Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by killing the program on a full disk: a row, pending, of a file that had gone."""
    catalog = reopen()
    image = save(catalog, state="uploaded")
    real_known_names = catalog.rows.known_names

    def known_names(names: Sequence[str]) -> set[str]:
        catalog.delete([image])
        return real_known_names(names)

    monkeypatch.setattr(catalog.rows, "known_names", known_names)
    run(catalog, config)
    assert states(catalog) == {}


def test_a_row_without_its_file_is_missing(
    config: StorageConfig, reopen: Callable[[], Catalog], caplog: pytest.LogCaptureFixture
) -> None:
    catalog = reopen()
    gone, kept = save_many(catalog, 2)
    catalog.rows.path_of(gone.filename).unlink()
    run(catalog, config)
    assert states(catalog) == {gone.filename: "missing", kept.filename: "pending"}
    assert f"{gone.filename} was pending and its file has gone" in caplog.text


@pytest.mark.parametrize("state", ["pending", "uploaded", "rejected", "skipped", "unknown"])
def test_a_missing_file_that_is_back_is_what_it_was(
    config: StorageConfig, reopen: Callable[[], Catalog], state: str
) -> None:
    catalog = reopen()
    image = save(catalog, state=state)
    path = catalog.rows.path_of(image.filename)
    aside = path.with_suffix(".aside")
    path.rename(aside)
    run(catalog, config)
    assert states(catalog) == {image.filename: "missing"}
    aside.rename(path)
    run(catalog, config)
    assert states(catalog) == {image.filename: state}


def test_a_missing_file_that_was_marked_as_sent_is_not_sent(
    config: StorageConfig, reopen: Callable[[], Catalog]
) -> None:
    catalog = reopen()
    image = save(catalog, state="unknown")
    catalog.states.resolve_unknown("uploaded")
    path = catalog.rows.path_of(image.filename)
    aside = path.with_suffix(".aside")
    path.rename(aside)
    run(catalog, config)
    aside.rename(path)
    run(catalog, config)
    assert states(catalog) == {image.filename: "uploaded"}


@pytest.mark.parametrize(("enabled", "state"), [(True, "pending"), (False, "skipped")])
def test_a_file_without_a_row_is_taken_in(
    config: StorageConfig, reopen: Callable[[], Catalog], enabled: bool, state: str
) -> None:
    catalog = reopen()
    save(catalog, NOON - timedelta(days=1), state="uploaded")
    put(catalog, f"r2_{EPOCH}.jpg")
    run(catalog, config, uploads_enabled=enabled)
    image = catalog.rows.image(f"r2_{EPOCH}.jpg")
    assert (image.state, image.camera, image.captured_at) == (state, "r2", NOON)
    assert (image.event_id, image.sha256, image.source) == (None, None, "gpio")
    assert image.size_bytes == len(JPEG) + len(image.filename)


@pytest.mark.parametrize(
    ("source", "state"), [("gpio", "pending"), ("manual", "pending"), ("test", "skipped")]
)
def test_a_file_of_an_interrupted_capture_becomes_its_events(
    config: StorageConfig, reopen: Callable[[], Catalog], source: str, state: str
) -> None:
    catalog = reopen()
    at = NOON.replace(microsecond=123_456)
    event_id = catalog.events.begin("r1", source, at, ("edge_late",))
    put(catalog, f"r1_{EPOCH}.jpg")
    catalog = reopen()
    run(catalog, config)
    image = catalog.rows.image(f"r1_{EPOCH}.jpg")
    assert (image.event_id, image.source, image.state) == (event_id, source, state)
    assert (image.captured_at, image.flags) == (at, ("edge_late",))
    assert catalog.rows.totals().events == {"capturing": 0, "saved": 1, "failed": 0}


def interrupt(catalog: Catalog, name: str, at: datetime, source: str = "gpio") -> int:
    """Leave a picture as a capture does that ends between file and row; return its event."""
    event_id = catalog.events.begin("r1", source, at)
    facts = Facts(at, 0.0, "gate-1", "r1", event_id)
    catalog.rows.path_of(name).write_bytes(with_exif(JPEG, facts))
    return event_id


def test_each_file_of_one_second_becomes_its_own_events(
    config: StorageConfig, reopen: Callable[[], Catalog]
) -> None:
    """Two runs were killed within a second: the first before there was a picture."""
    catalog = reopen()
    without = catalog.events.begin("r1", "test", NOON)
    real = interrupt(catalog, f"r1_{EPOCH}.jpg", NOON + timedelta(milliseconds=300))
    catalog = reopen()
    run(catalog, config)
    image = catalog.rows.image(f"r1_{EPOCH}.jpg")
    assert (image.event_id, image.source, image.state) == (real, "gpio", "pending")
    assert image.captured_at == NOON + timedelta(milliseconds=300)
    states_of_events = {event.id: event.state for event in catalog.rows.events(None, limit=5)}
    assert states_of_events == {without: "failed", real: "saved"}


def test_a_bursts_later_picture_becomes_its_events(
    config: StorageConfig, reopen: Callable[[], Catalog]
) -> None:
    catalog = reopen()
    first = save(catalog, source="test", state="skipped")
    assert first.event_id is not None
    facts = Facts(NOON, 200.0, "gate-1", "r1", first.event_id)
    catalog.rows.path_of(f"r1_{EPOCH}_b1.jpg").write_bytes(with_exif(JPEG, facts))
    catalog = reopen()
    run(catalog, config)
    second = catalog.rows.image(f"r1_{EPOCH}_b1.jpg")
    assert (second.event_id, second.source, second.state) == (first.event_id, "test", "skipped")
    assert catalog.rows.totals().events == {"capturing": 0, "saved": 1, "failed": 0}


def test_a_file_without_a_row_is_not_taken_for_the_capture_of_its_second(
    config: StorageConfig, reopen: Callable[[], Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart without a clock of its own the same second can come again."""
    catalog = reopen()
    left = interrupt(catalog, f"r1_{EPOCH}.jpg", NOON)
    catalog = reopen()
    running = catalog.events.begin("r1", "gpio", NOON)
    real_commit = catalog._writes.commit

    def reconcile_first(statements: Statements) -> object:
        monkeypatch.setattr(catalog._writes, "commit", real_commit)
        run(catalog, config)
        assert catalog.rows.image(f"r1_{EPOCH}.jpg").event_id == left
        assert not catalog.rows.has_row(f"r1_{EPOCH}_2.jpg")
        return real_commit(statements)

    monkeypatch.setattr(catalog._writes, "commit", reconcile_first)
    image = catalog.save(running, shot(), state="pending")
    assert (image.filename, image.event_id) == (f"r1_{EPOCH}_2.jpg", running)
    assert catalog.rows.totals().events == {"capturing": 0, "saved": 2, "failed": 0}


def test_a_file_of_nobody_does_not_end_a_running_capture(
    config: StorageConfig, reopen: Callable[[], Catalog]
) -> None:
    catalog = reopen()
    put(catalog, f"r1_{EPOCH}.jpg")
    running = catalog.events.begin("r1", "test", NOON)
    run(catalog, config)
    image = catalog.rows.image(f"r1_{EPOCH}.jpg")
    assert (image.event_id, image.state) == (None, "pending")
    assert catalog.rows.totals().events == {"capturing": 1, "saved": 0, "failed": 0}
    assert catalog.save(running, shot(), state="skipped").event_id == running


def test_a_file_whose_row_waits_for_the_disk_stays_its_events(
    config: StorageConfig, reopen: Callable[[], Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = reopen()
    event_id = catalog.events.begin("r1", "test", NOON)
    real_commit = catalog._writes.commit

    def fail(_: Statements) -> None:
        raise StorageError("the disk is full", full=True)

    monkeypatch.setattr(catalog._writes, "commit", fail)
    with pytest.raises(UnrecordedError):
        catalog.save(event_id, shot(), state="skipped")
    run(catalog, config)
    monkeypatch.setattr(catalog._writes, "commit", real_commit)
    catalog.record_unrecorded()
    image = catalog.rows.image(f"r1_{EPOCH}.jpg")
    assert (image.event_id, image.state, image.offset_ms) == (event_id, "skipped", 12.5)


@pytest.mark.parametrize("is_deleted", [True, False])
def test_what_was_sent_and_deleted_meanwhile_was_not_pending(
    config: StorageConfig,
    reopen: Callable[[], Catalog],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    is_deleted: bool,
) -> None:
    """Uploads and a cleanup go on beside the look at the rows."""
    catalog = reopen()
    image = save(catalog)
    real_filenames = catalog.rows.filenames

    def filenames(after_id: int, limit: int) -> list[tuple[int, str, str]]:
        found = real_filenames(after_id, limit)
        if found:
            catalog.states.mark_uploaded(image.id, None)
            catalog._files.delete([image.filename])
            if is_deleted:
                catalog.delete([catalog.rows.image(image.filename)])
        return found

    monkeypatch.setattr(catalog.rows, "filenames", filenames)
    run(catalog, config)
    assert "was pending" not in caplog.text
    assert states(catalog) == ({} if is_deleted else {image.filename: "missing"})


def test_interrupted_captures_fail_but_not_running_ones(
    config: StorageConfig, reopen: Callable[[], Catalog]
) -> None:
    catalog = reopen()
    interrupted = catalog.events.begin("r1", "gpio", NOON)
    catalog = reopen()
    running = catalog.events.begin("r1", "gpio", NOON + timedelta(seconds=1))
    run(catalog, config)
    newest, oldest = catalog.rows.events(None, limit=5)
    assert (newest.id, newest.state) == (running, "capturing")
    assert (oldest.id, oldest.state, oldest.reason) == (interrupted, "failed", "interrupted")


def test_listed_files_are_taken_in_as_pending(
    config: StorageConfig, reopen: Callable[[], Catalog], caplog: pytest.LogCaptureFixture
) -> None:
    catalog = reopen()
    sent = save(catalog, NOON - timedelta(days=1), state="uploaded")
    names = [f"r1_{EPOCH}.jpg", "Gate 2023-10-31.JPG"]
    for name in (*names, "not listed.jpg"):
        put(catalog, name)
    catalog.rows.path_of("folder.jpg").mkdir()
    listed = [*names, "r1_5.jpg", "gone.jpg", "folder.jpg", ".state", "..", sent.filename]
    config.pending_file.write_text(json.dumps(listed))
    run(catalog, config, uploads_enabled=False)
    expected = dict.fromkeys(names, "pending")
    assert states(catalog) == {sent.filename: "uploaded", **expected}
    assert "2 files without a row taken in" in caplog.text


def lose_database(config: StorageConfig) -> None:
    for path in config.state_dir.glob("catalog.sqlite3*"):
        path.unlink()


def export(catalog: Catalog, config: StorageConfig, written_s: float) -> None:
    exporter = PendingExporter(catalog, config.pending_file)
    exporter.allow()
    exporter.step()
    os.utime(config.pending_file, (written_s, written_s))


@pytest.mark.parametrize(("enabled", "late"), [(True, "pending"), (False, "skipped")])
def test_a_lost_database_is_rebuilt_with_the_list(
    config: StorageConfig, reopen: Callable[[], Catalog], enabled: bool, late: str
) -> None:
    catalog = reopen()
    images = save_many(catalog, 6)
    for image in images[1:]:
        catalog.states.mark_uploaded(image.id, None)
    interval_s = 2.0
    export(catalog, config, EPOCH + 3.5 + interval_s + reconcile._CAPTURE_S)
    catalog.close()
    lose_database(config)
    catalog = reopen()
    assert catalog.rows.rebuilding
    run(catalog, config, uploads_enabled=enabled)
    found = states(catalog)
    assert [found[i.filename] for i in images] == ["pending", *["unknown"] * 3, late, late]
    assert not catalog.rows.rebuilding
    newest_first = [i.filename for i in catalog.rows.images(ImageFilter(), limit=9)]
    assert newest_first == [i.filename for i in images[::-1]]


def test_a_picture_that_was_long_in_the_making_is_not_taken_for_sent(
    config: StorageConfig, reopen: Callable[[], Catalog]
) -> None:
    """The list was written between the edge and the picture's row, and then the database went."""
    catalog = reopen()
    export(catalog, config, EPOCH + 7.0)
    image = save(catalog)
    catalog.close()
    lose_database(config)
    catalog = reopen()
    run(catalog, config)
    assert states(catalog) == {image.filename: "pending"}


def test_a_lost_database_without_a_list_leaves_all_unknown(
    config: StorageConfig, reopen: Callable[[], Catalog]
) -> None:
    catalog = reopen()
    images = save_many(catalog, 3)
    catalog.close()
    lose_database(config)
    catalog = reopen()
    run(catalog, config)
    assert states(catalog) == {i.filename: "unknown" for i in images}
    assert catalog.rows.due_uploads(NOON + timedelta(days=1), 9) == []


def test_the_order_by_id_is_the_order_by_time_after_a_rebuild(
    config: StorageConfig, reopen: Callable[[], Catalog]
) -> None:
    catalog = reopen()
    for offset in (30, 10, 20, 5):  # saved out of order, and found in the folder's own order
        save(catalog, NOON + timedelta(seconds=offset))
    catalog.close()
    lose_database(config)
    catalog = reopen()
    new = save(catalog, NOON + timedelta(seconds=60))  # before the rebuild has come to the others
    run(catalog, config)
    found = catalog.rows.images(ImageFilter(), limit=9)
    assert found[0].id == new.id
    times = [image.captured_at for image in found]
    assert times == sorted(times, reverse=True)
    assert states(catalog)[new.filename] == "pending"


def test_an_interrupted_rebuild_goes_on(
    config: StorageConfig, reopen: Callable[[], Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = reopen()
    images = save_many(catalog, 10)
    for image in images[2:]:
        catalog.states.mark_uploaded(image.id, None)
    export(catalog, config, EPOCH + 1000)
    catalog.close()
    lose_database(config)
    monkeypatch.setattr(reconcile, "_CHUNK", 3)
    catalog = reopen()
    real_adopt = catalog.adopt
    chunks: list[int] = []

    def adopt(files: object) -> int:
        if len(chunks) == 2:
            raise KeyboardInterrupt
        chunks.append(1)
        return real_adopt(files)  # type: ignore[arg-type]

    monkeypatch.setattr(catalog, "adopt", adopt)
    with pytest.raises(KeyboardInterrupt):
        run(catalog, config)
    catalog = reopen()
    assert catalog.rows.rebuilding
    assert len(states(catalog)) == 6
    run(catalog, config)
    assert not catalog.rows.rebuilding
    expected = {i.filename: "pending" if n < 2 else "unknown" for n, i in enumerate(images)}
    assert states(catalog) == expected
    found = [i.filename for i in catalog.rows.images(ImageFilter(), limit=20)]
    assert found == [i.filename for i in images[::-1]]


def test_many_files_and_rows_are_done_in_chunks(
    config: StorageConfig, reopen: Callable[[], Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "_CHUNK", 2)
    monkeypatch.setattr(catalog_reader, "_FILES_AT_ONCE", 2)
    catalog = reopen()
    saved = save_many(catalog, 5)
    for image in saved[::2]:
        catalog.rows.path_of(image.filename).unlink()
    for number in range(5):
        put(catalog, f"r2_{EPOCH + number}.jpg")
    run(catalog, config)
    by_state = catalog.rows.totals().by_state
    assert (by_state["missing"], by_state["pending"]) == (3, 7)
