"""What an operator does with stored pictures: verify them, export a day, rebuild the catalog."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import os
import shutil
import threading
import time
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeVar
from zoneinfo import ZoneInfo

from tqdm import tqdm

from config import StorageConfig
from runtime.durable_file import sync_folder
from store.catalog import Catalog
from store.catalog_reader import CatalogReader
from store.errors import StorageError
from store.image_files import ImageFolder
from store.opening import CATALOG_NAME
from store.pending_file import PendingExporter
from store.reconcile import Reconciler
from store.rows import Image, ImageFilter, Totals, day_bounds, iso

_CHUNK: Final = 500
_ROOM_LEFT_BYTES: Final = 100_000_000
_IN_FLIGHT_S: Final = 60.0
"""A younger file may be of a capture whose row is still being committed."""
_LOOKS: Final = 6
_LOOK_EVERY_S: Final = 0.5  # between a file's deletion and its row's lies one fsync
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_ZIP_YEARS: Final = (1980, 2107)

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Finding:
    """One picture that differs from its row, or can't be read."""

    filename: str
    problem: str


@dataclass(frozen=True)
class Verified:
    """The result of a verification.

    `by_size` counts pictures without a checksum, `unlisted` files without a row.
    """

    checked: int
    by_size: int
    unlisted: int
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class Exported:
    """How many pictures a zip file holds, and which could not be read."""

    photos: int
    left_out: list[Finding]


@contextmanager
def reading(storage: StorageConfig) -> Iterator[CatalogReader]:
    """Open the catalog to read, beside a daemon or on a store that is mounted read-only.

    Raises:
        StorageError: there is none, or it can't be read.
    """
    if not storage.image_dir.is_dir():
        raise StorageError(f"there is no folder {storage.image_dir}: is its disk mounted?")
    with ExitStack() as stack:
        exists = (storage.state_dir / CATALOG_NAME).exists()
        if exists and ImageFolder(storage.state_dir).is_read_only():
            # To read what a crash left in the journal, SQLite has to write.
            copies = Path(stack.enter_context(TemporaryDirectory(prefix="catalog-")))
            try:
                for found in storage.state_dir.glob(f"{CATALOG_NAME}*"):
                    if found.name in (CATALOG_NAME, f"{CATALOG_NAME}-wal"):
                        shutil.copyfile(found, copies / found.name)
            except OSError as error:
                raise StorageError.of(error, f"cannot copy {storage.state_dir}") from error
            storage = replace(storage, state_dir=copies)
        yield stack.enter_context(closing(Catalog.open_to_read(storage))).rows


def verify(rows: CatalogReader) -> Verified:
    """Compare every file with its row and checksum, also beside a running daemon."""
    suspects: list[Image] = []
    checked = by_size = 0
    total = rows.count(ImageFilter())
    for image in _progress(_images(rows, ImageFilter()), total, "verifying"):
        checked += 1
        by_size += image.sha256 is None
        if _problem(rows, image):
            suspects.append(image)
    unlisted = rows.files_without_row(
        lambda file: abs(time.time() - file.modified_s) > _IN_FLIGHT_S
    )
    return Verified(checked, by_size, sum(1 for _ in unlisted), _confirmed(rows, suspects))


def _confirmed(rows: CatalogReader, suspects: list[Image]) -> list[Finding]:
    """Look again at images that seemed wrong: a cleanup may be about to delete their rows."""
    pause = threading.Event()
    for look in range(_LOOKS):
        if look and suspects:
            pause.wait(_LOOK_EVERY_S)
        suspects = [image for image in suspects if rows.state_of(image.id) is not None]
    found = ((image.filename, _problem(rows, image)) for image in suspects)
    return [Finding(filename, problem) for filename, problem in found if problem]


def _problem(rows: CatalogReader, image: Image) -> str | None:
    try:
        jpeg = rows.path_of(image.filename).read_bytes()
    except FileNotFoundError:
        return "the file is missing"
    except OSError as error:
        return f"the file can't be read: {error.strerror}"
    if len(jpeg) != image.size_bytes:
        return f"the file has {len(jpeg)} bytes, not {image.size_bytes}"
    if image.sha256 and hashlib.sha256(jpeg).hexdigest() != image.sha256:
        return "the file's content was altered"
    return None


def export_day(
    rows: CatalogReader, day: date, zone: ZoneInfo, target: Path, camera_labels: dict[str, str]
) -> Exported:
    """Write the pictures of a day in `zone`, and their index, to a new zip file.

    No file is written for a day without pictures.

    Raises:
        FileExistsError: `target` exists.
        StorageError: it can't be written.
    """
    since, until = day_bounds(day, zone)
    images = [*_images(rows, ImageFilter(since=since, until=until))][::-1]
    if not images:
        return Exported(0, [])
    _refuse_existing(target)
    part = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        _check_room(target, sum(image.size_bytes for image in images))
        try:
            exported = _write_zip(rows, images, zone, part, camera_labels)
            _refuse_existing(target)
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(target.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise StorageError.of(error, f"cannot write {target}") from error
    return exported


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))


def _check_room(target: Path, size_bytes: int) -> None:
    needed, free = size_bytes + _ROOM_LEFT_BYTES, shutil.disk_usage(target.parent).free
    if free < needed:
        problem = f"it needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free"
        raise StorageError(f"cannot write {target}: {problem}", full=True)


def _write_zip(
    rows: CatalogReader, images: list[Image], zone: ZoneInfo, part: Path, labels: dict[str, str]
) -> Exported:
    index = io.StringIO()
    table = csv.DictWriter(index, _row(images[0], zone, labels))
    table.writeheader()
    left_out = []
    with part.open("xb") as file:
        # Pictures are compressed already.
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for image in _progress(images, len(images), "exporting"):
                try:
                    jpeg = rows.path_of(image.filename).read_bytes()
                except OSError as error:
                    left_out.append(Finding(image.filename, error.strerror or str(error)))
                    continue
                archive.writestr(_entry(image, zone), jpeg)
                table.writerow(_row(image, zone, labels))
            archive.writestr("index.csv", index.getvalue().encode("utf-8-sig"))
        file.flush()
        os.fsync(file.fileno())
    return Exported(len(images) - len(left_out), left_out)


def _entry(image: Image, zone: ZoneInfo) -> zipfile.ZipInfo:
    local = image.captured_at.astimezone(zone)
    year = min(max(local.year, _ZIP_YEARS[0]), _ZIP_YEARS[1])
    stamp = (year, local.month, local.day, local.hour, local.minute, local.second)
    entry = zipfile.ZipInfo(image.filename, stamp)
    entry.external_attr = 0o644 << 16
    return entry


def _row(image: Image, zone: ZoneInfo, labels: dict[str, str]) -> dict[str, object]:
    """Return a picture's row of the index, by column."""
    local = image.captured_at.astimezone(zone)
    row = {
        "filename": image.filename,
        "camera": image.camera,
        "label": labels.get(image.camera),
        "captured_at": iso(image.captured_at),
        "local_time": local.isoformat(timespec="milliseconds"),
        "offset_ms": image.offset_ms,
        "source": image.source,
        "flags": " ".join(image.flags),
        "state": image.state,
        "width": image.width,
        "height": image.height,
        "size_bytes": image.size_bytes,
        "sha256": image.sha256,
        "uploaded_at": iso(image.uploaded_at),
        "remote_location": image.remote_location,
    }
    return {column: _cell(value) for column, value in row.items()}


def _cell(value: object) -> object:
    """Keep a spreadsheet from taking text for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def rebuild(storage: StorageConfig, *, uploads_enabled: bool) -> tuple[Totals, Path | None]:
    """Make the catalog anew from the files and the pending list.

    Returns its totals, and the path of the former catalog.

    Raises:
        LockedError: a daemon works on the folder.
        StorageError: it can't be written.
    """
    with closing(Catalog.open_anew(storage)) as catalog:
        reconciler = Reconciler(
            catalog,
            storage,
            uploads_enabled=uploads_enabled,
            on_done=lambda: None,
            watch=lambda files: _progress(files, len(files), "rebuilding"),
        )
        reconciler.step()
        exporter = PendingExporter(catalog, storage.pending_file)
        exporter.allow()
        exporter.export()
        return catalog.rows.totals(), catalog.former


def _images(rows: CatalogReader, which: ImageFilter) -> Iterator[Image]:
    """Yield the images of a filter, newest first."""
    before_id: int | None = None
    while chunk := rows.images(which, limit=_CHUNK, before_id=before_id):
        yield from chunk
        before_id = chunk[-1].id


class _Bar(tqdm):  # type: ignore[type-arg]
    """A progress bar without the thread that tqdm watches its bars with."""

    monitor_interval = 0


def _progress(items: Iterable[_Item], total: int, doing: str) -> Iterable[_Item]:
    """Show a bar on a terminal, nothing elsewhere."""
    bar: Iterable[_Item] = _Bar(items, total=total, desc=doing, unit=" photos", disable=None)
    return bar
