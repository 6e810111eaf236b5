"""Verifying, exporting a day, rebuilding."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from config import StorageConfig
from store import archive, reconcile
from store.catalog import Catalog
from store.errors import LockedError, StorageError
from store.rows import AdoptedFile, Image, ImageFilter
from tests.rigs.stores import JPEG, NOON, save, save_many, storage_config

DAY = date(2026, 12, 1)
ISTANBUL = ZoneInfo("Europe/Istanbul")
LABELS = {"r1": "=Entry+1"}


@pytest.fixture(autouse=True)
def in_no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_LOOK_EVERY_S", 0.0)


@pytest.fixture
def config(tmp_path: Path) -> StorageConfig:
    return storage_config(tmp_path)


@pytest.fixture
def catalog(config: StorageConfig) -> Iterator[Catalog]:
    catalog = Catalog.open_owner(config)
    yield catalog
    catalog.close()


def path_of(catalog: Catalog, image: Image) -> Path:
    return catalog.rows.path_of(image.filename)


def adopt(catalog: Catalog, name: str, jpeg: bytes = JPEG) -> None:
    """Take in a file as a start does, without a checksum."""
    path = catalog.rows.path_of(name)
    path.write_bytes(jpeg)
    [found] = [file for file in catalog._files.scan() if file.name == name]
    catalog.adopt([AdoptedFile(name, found.camera, found.epoch, found.size_bytes, "unknown")])


# Verifying.


def test_whole_pictures_are_verified(catalog: Catalog) -> None:
    save_many(catalog, 3)
    assert archive.verify(catalog.rows) == archive.Verified(checked=3, by_size=0, unlisted=0)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (Path.unlink, "missing"),
        (lambda path: path.write_bytes(JPEG[:-1]), f"{len(JPEG) - 1} bytes, not {len(JPEG)}"),
        (lambda path: path.write_bytes(JPEG[:-1] + b"!"), "altered"),
        (lambda path: (path.unlink(), path.mkdir()), "can't be read"),
    ],
)
def test_what_is_missing_or_altered_is_found(
    catalog: Catalog, damage: Callable[[Path], object], problem: str
) -> None:
    wrong, _ = save(catalog), save(catalog)
    damage(path_of(catalog, wrong))
    [finding] = archive.verify(catalog.rows).findings
    assert finding.filename == wrong.filename
    assert problem in finding.problem


def test_pictures_known_to_be_missing_are_listed_too(catalog: Catalog) -> None:
    image = save(catalog, state="missing")
    assert [f.filename for f in archive.verify(catalog.rows).findings] == [image.filename]


def test_adopted_files_are_checked_by_their_size(catalog: Catalog) -> None:
    save(catalog)
    adopt(catalog, "r1_1600000000.jpg")
    adopt(catalog, "r1_1600000001.jpg")
    assert archive.verify(catalog.rows).by_size == 2
    catalog.rows.path_of("r1_1600000001.jpg").write_bytes(JPEG + b"more")
    assert [f.filename for f in archive.verify(catalog.rows).findings] == ["r1_1600000001.jpg"]


def test_more_than_one_chunk_is_verified(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_CHUNK", 2)
    images = save_many(catalog, 5)
    path_of(catalog, images[0]).unlink()
    seen = archive.verify(catalog.rows)
    assert seen.checked == 5
    assert [f.filename for f in seen.findings] == [images[0].filename]


def test_files_without_a_row_are_counted_unless_a_capture_may_be_at_work(catalog: Catalog) -> None:
    old, new = (catalog.rows.path_of(f"r1_{epoch}.jpg") for epoch in (1600000000, 1600000001))
    for path in (old, new):
        path.write_bytes(JPEG)
    hour_ago_s = time.time() - 3600
    os.utime(old, (hour_ago_s, hour_ago_s))
    seen = archive.verify(catalog.rows)
    assert seen.unlisted == 1
    assert seen.findings == []


def test_a_picture_that_is_being_deleted_is_no_finding(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = save_many(catalog, 3)
    catalog._files.delete([images[1].filename])  # as a cleanup does, whose commit follows
    looks: list[int] = []
    look = catalog.rows.state_of

    def state_of(image_id: int) -> str | None:
        looks.append(image_id)
        if len(looks) == 3:
            with monkeypatch.context() as patch:
                patch.setattr(catalog.rows, "state_of", look)
                catalog.delete([images[1]])
        return look(image_id)

    monkeypatch.setattr(catalog.rows, "state_of", state_of)
    assert archive.verify(catalog.rows).findings == []
    assert looks == [images[1].id] * 3


def test_a_name_that_is_used_anew_is_no_finding(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = save(catalog)
    path_of(catalog, image).unlink()
    look = catalog.rows.state_of

    def state_of(image_id: int) -> str | None:
        with monkeypatch.context() as patch:
            patch.setattr(catalog.rows, "state_of", look)
            if catalog.delete([image]):
                assert save(catalog).filename == image.filename
        return look(image_id)

    monkeypatch.setattr(catalog.rows, "state_of", state_of)
    assert archive.verify(catalog.rows).findings == []
    assert catalog.rows.image(image.filename).id != image.id


# Opening to read.


def test_reading_goes_beside_an_owner(config: StorageConfig, catalog: Catalog) -> None:
    save_many(catalog, 2)
    with archive.reading(config) as reader:
        assert archive.verify(reader).checked == 2
        save(catalog)
        assert archive.verify(reader).checked == 3


def test_reading_makes_no_catalog(config: StorageConfig) -> None:
    config.image_dir.mkdir()
    with pytest.raises(StorageError, match="no catalog"), archive.reading(config):
        pass
    assert not config.state_dir.exists()


def test_a_disk_that_is_not_mounted_is_not_a_store_without_photos(
    config: StorageConfig, tmp_path: Path
) -> None:
    config = replace(config, state_dir=tmp_path / "state")
    with opened(config) as catalog:
        save_many(catalog, 2)
    shutil.rmtree(config.image_dir)
    with pytest.raises(StorageError, match="mounted"), archive.reading(config):
        pass


def test_a_store_that_can_t_be_written_is_read_with_what_a_crash_left(
    config: StorageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog.open_owner(config)
    save_many(catalog, 3)
    card = tmp_path / "card"
    shutil.copytree(config.image_dir, card)  # with its journal, as a power cut leaves it
    catalog.close()
    assert (card / ".state" / "catalog.sqlite3-wal").stat().st_size > 0
    before = {path.name: path.read_bytes() for path in (card / ".state").glob("catalog*")}
    monkeypatch.setattr("store.image_files.ImageFolder.is_read_only", lambda folder: True)
    storage = replace(config, image_dir=card, state_dir=card / ".state")
    with archive.reading(storage) as reader:
        assert archive.verify(reader) == archive.Verified(checked=3, by_size=0, unlisted=0)
    assert {path.name: path.read_bytes() for path in (card / ".state").glob("catalog*")} == before


# Exporting.


def export(catalog: Catalog, target: Path, day: date = DAY) -> archive.Exported:
    return archive.export_day(catalog.rows, day, ISTANBUL, target, LABELS)


def index_of(target: Path) -> list[dict[str, str]]:
    with zipfile.ZipFile(target) as zipped:
        text = zipped.read("index.csv").decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text)))


def test_a_day_is_the_site_s_day(catalog: Catalog, tmp_path: Path) -> None:
    midnight = datetime(2026, 12, 1, tzinfo=ISTANBUL)
    moments = [-1, 0, 43200, 86399, 86400]
    images = [save(catalog, midnight + timedelta(seconds=s)) for s in moments]
    target = tmp_path / "day.zip"
    assert export(catalog, target) == archive.Exported(3, [])
    with zipfile.ZipFile(target) as zipped:
        assert zipped.testzip() is None
        names = [image.filename for image in images[1:4]]
        assert zipped.namelist() == [*names, "index.csv"]
        assert zipped.read(names[0]) == JPEG
        assert zipped.getinfo(names[1]).date_time == (2026, 12, 1, 12, 0, 0)
    assert [row["filename"] for row in index_of(target)] == names
    assert {path.name for path in tmp_path.iterdir()} == {"images", "day.zip"}


def test_the_index_tells_what_is_known(catalog: Catalog, tmp_path: Path) -> None:
    image = save(catalog)
    catalog.states.mark_uploaded(image.id, "@https://store/1")
    target = tmp_path / "day.zip"
    export(catalog, target)
    [row] = index_of(target)
    assert datetime.fromisoformat(row.pop("uploaded_at")).tzinfo is not None
    assert row == {
        "filename": image.filename,
        "camera": "r1",
        "label": "'=Entry+1",
        "captured_at": "2026-12-01T12:00:00.000Z",
        "local_time": "2026-12-01T15:00:00.000+03:00",
        "offset_ms": "12.5",
        "source": "gpio",
        "flags": "",
        "state": "uploaded",
        "width": "1920",
        "height": "1080",
        "size_bytes": str(len(JPEG)),
        "sha256": str(image.sha256),
        "remote_location": "'@https://store/1",
    }


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_text_never_becomes_a_formula(text: str) -> None:
    assert archive._cell(text) == f"'{text}"
    assert archive._cell(-12.5) == -12.5
    assert archive._cell("plain") == "plain"


@pytest.mark.parametrize("year", [1970, 1979, 2026, 2150])
def test_any_clock_can_be_exported(catalog: Catalog, tmp_path: Path, year: int) -> None:
    save(catalog, datetime(year, 6, 1, 12, tzinfo=UTC))
    target = tmp_path / "day.zip"
    assert export(catalog, target, date(year, 6, 1)).photos == 1
    with zipfile.ZipFile(target) as zipped:
        assert zipped.testzip() is None


def test_the_days_of_a_change_of_clocks_are_whole(catalog: Catalog, tmp_path: Path) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    first = datetime(2026, 10, 24, 22, tzinfo=UTC)  # the day has 25 hours
    for hours in range(25):
        save(catalog, first + timedelta(hours=hours))
    save(catalog, first - timedelta(seconds=1))
    save(catalog, first + timedelta(hours=25))
    done = archive.export_day(catalog.rows, date(2026, 10, 25), berlin, tmp_path / "day.zip", {})
    assert done.photos == 25


def test_a_zip_may_be_larger_than_its_first_format_allows(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    save_many(catalog, 9)
    assert export(catalog, tmp_path / "day.zip").photos == 9
    with zipfile.ZipFile(tmp_path / "day.zip") as zipped:
        assert zipped.testzip() is None
        assert len(zipped.namelist()) == 10


def test_an_existing_file_is_not_overwritten(catalog: Catalog, tmp_path: Path) -> None:
    save(catalog)
    target = tmp_path / "day.zip"
    target.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        export(catalog, target)
    assert target.read_bytes() == b"mine"


def test_a_day_without_pictures_makes_no_file(catalog: Catalog, tmp_path: Path) -> None:
    save(catalog)
    assert export(catalog, tmp_path / "day.zip", date(2026, 11, 30)) == archive.Exported(0, [])
    assert not (tmp_path / "day.zip").exists()


def test_a_picture_that_is_not_there_is_left_out_and_said(catalog: Catalog, tmp_path: Path) -> None:
    image, there = save(catalog), save(catalog)
    path_of(catalog, image).unlink()
    done = export(catalog, tmp_path / "day.zip")
    assert done.photos == 1
    assert [finding.filename for finding in done.left_out] == [image.filename]
    assert [row["filename"] for row in index_of(tmp_path / "day.zip")] == [there.filename]


def test_too_little_room_is_said_before_anything_is_written(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(catalog)
    usage = shutil.disk_usage(tmp_path)._replace(free=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match="are free") as caught:
        export(catalog, tmp_path / "day.zip")
    assert caught.value.full
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_folder_that_is_not_there_is_said(catalog: Catalog, tmp_path: Path) -> None:
    save(catalog)
    with pytest.raises(StorageError, match=r"no/day\.zip"):
        export(catalog, tmp_path / "no" / "day.zip")


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(catalog)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError) as caught:
        export(catalog, tmp_path / "day.zip")
    assert caught.value.full
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_the_name_appears_when_the_zip_is_whole_and_durable(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(catalog)
    target = tmp_path / "day.zip"
    seen: list[Any] = []
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        seen.append((target.exists(), str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    export(catalog, target)
    assert [exists for exists, _ in seen] == [False, True]
    assert "day.zip" in seen[0][1]
    assert seen[1][1] == str(tmp_path)


# Rebuilding.


@contextmanager
def opened(config: StorageConfig) -> Iterator[Catalog]:
    catalog = Catalog.open_owner(config)
    try:
        yield catalog
    finally:
        catalog.close()


def test_a_rebuild_takes_states_from_the_list_and_keeps_the_former_catalog(
    config: StorageConfig,
) -> None:
    with opened(config) as catalog:
        images = save_many(catalog, 4, state="uploaded")
        catalog.events.begin("r1", "gpio", NOON)
    listed = images[1].filename
    config.pending_file.write_text(json.dumps([{"filename": listed}]), encoding="utf-8")
    # One interval, and the time that a capture may take, before the list: only the last is later.
    written_s = images[2].captured_at.timestamp() + 0.5 + 2.0 + reconcile._CAPTURE_S
    os.utime(config.pending_file, (written_s, written_s))
    totals, former = archive.rebuild(config, uploads_enabled=True)
    assert former is not None
    assert former.exists()
    assert former.name.startswith("catalog.sqlite3.replaced-")
    assert (totals.by_state["pending"], totals.by_state["unknown"]) == (2, 2)
    with opened(config) as catalog:
        states = {i.filename: i.state for i in catalog.rows.images(ImageFilter(), limit=9)}
    assert list(states.values()) == ["pending", "unknown", "pending", "unknown"]
    assert states[listed] == "pending"
    pending = json.loads(config.pending_file.read_text(encoding="utf-8"))
    assert [entry["filename"] for entry in pending] == [listed, images[3].filename]


def test_a_rebuild_twice_comes_to_the_same(config: StorageConfig) -> None:
    with opened(config) as catalog:
        save_many(catalog, 3)
    config.pending_file.write_text("[]", encoding="utf-8")
    first, _ = archive.rebuild(config, uploads_enabled=True)
    second, _ = archive.rebuild(config, uploads_enabled=True)
    assert first == second


def test_a_rebuild_without_a_catalog_or_with_a_damaged_one(config: StorageConfig) -> None:
    config.image_dir.mkdir()
    (config.image_dir / "r1_1600000000.jpg").write_bytes(JPEG)
    totals, former = archive.rebuild(config, uploads_enabled=True)
    assert former is None
    assert totals.by_state["unknown"] == 1
    (config.state_dir / "catalog.sqlite3").write_bytes(b"nonsense" * 1000)
    totals, former = archive.rebuild(config, uploads_enabled=True)
    assert former is not None
    assert former.read_bytes().startswith(b"nonsense")
    assert totals.by_state["unknown"] == 1


def test_a_rebuild_beside_an_owner_is_refused(config: StorageConfig, catalog: Catalog) -> None:
    image = save(catalog)
    with pytest.raises(LockedError):
        archive.rebuild(config, uploads_enabled=True)
    assert catalog.rows.image(image.filename) == image
    assert list(config.state_dir.glob("*.replaced-*")) == []


def test_a_rebuild_that_was_broken_off_goes_on_at_the_next_start(
    config: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(config) as catalog:
        save_many(catalog, 3, state="uploaded")
    monkeypatch.setattr(archive, "_progress", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        archive.rebuild(config, uploads_enabled=True)
    with opened(config) as catalog:
        assert catalog.rows.rebuilding
