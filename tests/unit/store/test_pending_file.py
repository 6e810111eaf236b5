"""`pending_uploads.json`: what is written, when, and what is read from whichever release."""

from __future__ import annotations

import errno
import json
import logging
import os
import tracemalloc
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from store import pending_file
from store.catalog import Catalog
from store.errors import StorageError
from store.pending_file import PendingExporter, export_interval_s, read
from tests.rigs.stores import NOON, save, save_many, storage_config


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.open_owner(storage_config(tmp_path))
    yield catalog
    catalog.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pending_uploads.json"


@pytest.fixture
def exporter(catalog: Catalog, path: Path) -> PendingExporter:
    exporter = PendingExporter(catalog, path)
    exporter.allow()
    return exporter


def names(path: Path) -> list[str]:
    return [entry["filename"] for entry in json.loads(path.read_bytes())]


def test_the_format(catalog: Catalog, exporter: PendingExporter, path: Path) -> None:
    first = save(catalog, NOON.replace(microsecond=250_000))
    catalog.states.mark_waiting(
        first.id, 'no "answer"\n', NOON + timedelta(seconds=9), "connection"
    )
    second = save(catalog, NOON + timedelta(seconds=1), camera="r2")
    save(catalog, NOON + timedelta(seconds=2), state="uploaded")
    exporter.step()
    assert json.loads(path.read_bytes()) == [
        {
            "filename": first.filename,
            "camera": "r1",
            "captured_at": "2026-12-01T12:00:00.250Z",
            "attempts": 1,
            "last_error": 'no "answer"\n',
            "next_attempt_at": "2026-12-01T12:00:09.000Z",
        },
        {
            "filename": second.filename,
            "camera": "r2",
            "captured_at": "2026-12-01T12:00:01.000Z",
            "attempts": 0,
            "last_error": None,
            "next_attempt_at": None,
        },
    ]


def test_nothing_pending_is_an_empty_array(exporter: PendingExporter, path: Path) -> None:
    exporter.step()
    assert json.loads(path.read_bytes()) == []


def test_all_entries_oldest_first_beyond_one_chunk(
    catalog: Catalog, exporter: PendingExporter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_file, "_CHUNK", 2)
    saved = save_many(catalog, 5)
    exporter.step()
    assert names(path) == [image.filename for image in saved]


def test_nothing_is_written_before_it_is_allowed(catalog: Catalog, path: Path) -> None:
    path.write_text('["r1_1.jpg"]')
    exporter = PendingExporter(catalog, path)
    save(catalog)
    exporter.step()
    exporter.close()
    assert path.read_text() == '["r1_1.jpg"]'
    exporter.allow()
    exporter.step()
    assert len(names(path)) == 1


def test_the_file_is_written_only_when_something_changed(
    catalog: Catalog, exporter: PendingExporter, path: Path
) -> None:
    image = save(catalog)
    exporter.step()
    path.unlink()
    exporter.step()
    assert not path.exists()
    catalog.states.mark_uploaded(image.id, None)
    exporter.step()
    assert names(path) == []


def test_what_another_process_makes_pending_is_written(
    catalog: Catalog, exporter: PendingExporter, path: Path, tmp_path: Path
) -> None:
    image = save(catalog, state="unknown")
    exporter.step()
    assert names(path) == []
    command = Catalog.open_beside(storage_config(tmp_path))
    command.states.resolve_unknown("pending")
    command.close()
    exporter.step()
    assert names(path) == [image.filename]


def test_the_last_state_is_written_at_the_end(
    catalog: Catalog, exporter: PendingExporter, path: Path
) -> None:
    exporter.start()
    exporter.stop()
    assert exporter.join(5)
    image = save(catalog)
    exporter.close()
    assert names(path) == [image.filename]


def test_a_failed_export_keeps_the_old_file_and_is_made_up_for(
    catalog: Catalog, exporter: PendingExporter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter.step()
    before = path.read_bytes()
    image = save(catalog)

    def fsync(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        exporter.step()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir() if p.suffix == ".tmp"] == []
    exporter.step()
    assert names(path) == [image.filename]


def test_an_unreadable_catalog_leaves_the_old_file(
    catalog: Catalog, exporter: PendingExporter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(catalog)
    exporter.step()
    before = path.read_bytes()
    save(catalog, NOON + timedelta(seconds=1))

    def oldest_pending(*_: object, **__: object) -> None:
        raise StorageError("I/O error")

    monkeypatch.setattr(catalog.rows, "oldest_pending", oldest_pending)
    with pytest.raises(StorageError):
        exporter.step()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("entries", "seconds"), [(0, 2.0), (400, 2.0), (1000, 5.0), (50_000, 250.0)]
)
def test_the_interval_grows_with_the_list(entries: int, seconds: float) -> None:
    assert export_interval_s(entries) == pytest.approx(seconds)


def test_a_step_returns_the_interval(
    catalog: Catalog, exporter: PendingExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_file, "_INTERVAL_PER_ENTRY_S", 3.0)
    save_many(catalog, 2)
    assert exporter.step() == pytest.approx(6.0)


# Reading.


@pytest.mark.parametrize(
    "text",
    [
        '["r1_1.jpg", "r1_2.jpg"]',
        '["{dir}/r1_1.jpg", "{dir}/r1_2.jpg"]',
        '["./r1_1.jpg", "{dir}/../images/r1_2.jpg"]',
        '[{"filename": "r1_1.jpg", "camera": "r1"}, {"filename": "r1_2.jpg"}]',
        '[{"filepath": "{dir}/r1_1.jpg", "attempts": 3}, {"path": "{dir}/r1_2.jpg"}]',
        '[{"file_path": "r1_1.jpg"}, "r1_2.jpg", "r1_2.jpg"]',
        '[\n{"filename": "r1_1.jpg"},\n{"filename": "r1_2.jpg"}\n]\n',
        '[\n{"filename": "r1_1.jpg"},\n{"filename":\n"r1_2.jpg"}\n]\n',
        '[\n{"filename": "r1_1.jpg"}, {"filename": "r1_2.jpg"}]',
    ],
)
def test_lists_of_all_releases_are_read(tmp_path: Path, path: Path, text: str) -> None:
    images = tmp_path / "images"
    images.mkdir()
    path.write_text(text.replace("{dir}", str(images)))
    os.utime(path, (1000, 1000))
    found = read(path, images)
    assert found is not None
    assert found.names == {"r1_1.jpg", "r1_2.jpg"}
    assert found.written_s == 1000


def test_paths_relative_to_the_working_directory_are_read(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    path.write_text('["images/r1_1.jpg"]')
    found = read(path, Path("images"))
    assert found is not None
    assert found.names == {"r1_1.jpg"}


@pytest.mark.parametrize(
    "word", ["/etc/passwd", "../secret.jpg", "deeper/r1_1.jpg", "..", "r1_\ud800.jpg"]
)
def test_what_lies_elsewhere_is_left_out_and_said(
    catalog: Catalog, path: Path, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    images = catalog.rows.path_of("")
    path.write_text(json.dumps([word, "r1_1.jpg"]))
    found = read(path, images, known=catalog.rows.known_names)
    assert found is not None
    assert found.names == {"r1_1.jpg"}
    assert repr(word) in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        "null",
        "[1]",
        "[null]",
        '[{"camera": "r1"}]',
        '["a\\u0000"]',
        "\xff",
        "[" * 99_999,
        '[\n{"filename": "r1_1.jpg"}\n',
        '[\n{"filename": "r1_1.jpg"},\n',
        '[\n{"filename": "r1_1.jpg"},\n]\n',
        '[\n{"filename": "r1_1.jpg"}\n{"filename": "r1_2.jpg"}\n]\n',
        '[\n{"filename": "r1_1.jpg"}\n]\n]\n',
        '[\n{"filename": "r1_1.jpg"},\n{"filena',
        '[\n{"camera": "r1"}\n]\n',
    ],
)
def test_what_makes_no_sense_is_set_aside(
    tmp_path: Path, path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(text.encode("latin-1"))
    with caplog.at_level(logging.ERROR):
        assert read(path, tmp_path) is None
    assert "malformed" in caplog.text
    assert not path.exists()
    [kept] = tmp_path.glob("pending_uploads.json.malformed-*")
    assert kept.read_bytes() == text.encode("latin-1")


def test_a_long_list_is_not_held_in_memory_as_a_whole(tmp_path: Path, path: Path) -> None:
    entry = {"camera": "r1", "captured_at": "2026-12-01T12:00:00.250Z", "attempts": 0}
    lines = [json.dumps({"filename": f"r1_{n}.jpg", **entry, "n": n}) for n in range(20_000)]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    del lines
    tracemalloc.start()
    try:
        found = read(path, tmp_path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found is not None
    assert len(found.names) == 20_000
    assert peak_bytes < 5_000_000  # it was 15 MB


def test_what_is_known_is_left_out(tmp_path: Path, path: Path) -> None:
    path.write_text(json.dumps([f"r1_{n}.jpg" for n in range(2500)]))
    asked: list[int] = []

    def known(names: Sequence[str]) -> set[str]:
        asked.append(len(names))
        return set(names) - {"r1_7.jpg", "r1_2400.jpg"}

    found = read(path, tmp_path, known=known)
    assert found is not None
    assert found.names == {"r1_7.jpg", "r1_2400.jpg"}
    assert sum(asked) == 2500
    assert max(asked) <= 1000


def test_no_file_is_no_list(tmp_path: Path, path: Path) -> None:
    assert read(path, tmp_path) is None


def test_what_is_exported_can_be_read(
    catalog: Catalog, exporter: PendingExporter, path: Path
) -> None:
    saved = save_many(catalog, 3)
    exporter.step()
    found = read(path, catalog.rows.path_of(""))
    assert found is not None
    assert found.names == {image.filename for image in saved}


def test_a_file_that_cannot_be_written_is_said_once_and_when_it_can_again(
    catalog: Catalog,
    exporter: PendingExporter,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    save(catalog)
    with caplog.at_level(logging.INFO), monkeypatch.context() as patch:
        patch.setattr(pending_file, "replace_file", full)
        for _ in range(5):
            exporter.step()
        assert "the disk is full" in (exporter.write_error or "")
        patch.undo()
        exporter.step()
    assert exporter.write_error is None
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert len(names(path)) == 1


def test_an_unreadable_catalog_does_not_break_the_stop(
    catalog: Catalog, exporter: PendingExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable() -> None:
        raise StorageError("the disk reports an I/O error")

    monkeypatch.setattr(catalog.rows, "totals", unreadable)
    exporter.close()
