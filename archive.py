"""What an operator does with stored pictures: verify them, export a day, rebuild the catalog."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Final, TypeVar
from zoneinfo import ZoneInfo

from tqdm import tqdm

from catalog import Catalog
from image_files import StorageError
from records import Image, ImageFilter, iso

_CHUNK: Final = 500
_ROOM_LEFT_BYTES: Final = 100_000_000
_COLUMNS: Final = (
    *("filename", "camera", "captured_at", "local_time", "offset_ms", "source", "flags"),
    *("state", "width", "height", "size_bytes", "sha256", "uploaded_at", "remote_location"),
)

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Finding:
    """One picture that is not as the catalog has it."""

    filename: str
    problem: str


@dataclass(frozen=True)
class Verified:
    """What a verification saw. `unlisted` are files without a row."""

    checked: int
    findings: list[Finding]
    unlisted: int


def verify(catalog: Catalog) -> Verified:
    """Compare every file with its row and checksum, also beside a running daemon."""
    findings: list[Finding] = []
    checked = 0
    total = catalog.count(ImageFilter())
    for image in _progress(_all_images(catalog), total, "verifying", "images"):
        checked += 1
        problem = _problem(catalog, image)
        if problem and _is_still(catalog, image):
            findings.append(Finding(image.filename, problem))
    unlisted = 0
    names = [file.name for file in catalog.folder.scan()]
    for at in range(0, len(names), _CHUNK):
        chunk = names[at : at + _CHUNK]
        unlisted += len(set(chunk) - catalog.known_names(chunk))
    return Verified(checked, findings, unlisted)


def export_day(
    catalog: Catalog, day: date, zone: ZoneInfo, target: Path, camera_labels: dict[str, str]
) -> int:
    """Write the pictures of a day and their index to a new zip file; return how many.

    Raises:
        FileExistsError: `target` is there already.
        StorageError: it can't be written.
    """
    since = datetime.combine(day, time(), zone)
    until = datetime.combine(day + timedelta(days=1), time(), zone)
    which = ImageFilter(since=since, until=until)
    images = list(_images(catalog, which))
    images.reverse()
    if target.exists():
        raise FileExistsError(target)
    needed = sum(image.size_bytes for image in images) + _ROOM_LEFT_BYTES
    try:
        free = shutil.disk_usage(target.parent).free
        if free < needed:
            problem = f"it needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free"
            raise StorageError(f"cannot write {target}: {problem}")
        return _write_zip(catalog, images, zone, target, camera_labels)
    except OSError as error:
        raise StorageError.of(error, f"cannot write {target}") from error


def _write_zip(
    catalog: Catalog, images: list[Image], zone: ZoneInfo, target: Path, labels: dict[str, str]
) -> int:
    part = target.with_name(f".{target.name}.tmp")
    index = io.StringIO()
    rows = csv.writer(index)
    rows.writerow((*_COLUMNS, "label"))
    written = 0
    try:
        # Pictures are compressed already.
        with zipfile.ZipFile(part, "x", zipfile.ZIP_STORED) as archive:
            for image in _progress(images, len(images), "exporting", "images"):
                try:
                    jpeg = catalog.folder.read(image.filename)
                except FileNotFoundError:
                    continue  # deleted meanwhile, or missing
                archive.writestr(image.filename, jpeg)
                rows.writerow((*_row(image, zone), labels.get(image.camera, "")))
                written += 1
            archive.writestr("index.csv", index.getvalue().encode())
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
    return written


def _row(image: Image, zone: ZoneInfo) -> Iterable[object]:
    local = image.captured_at.astimezone(zone)
    return (
        *(image.filename, image.camera, iso(image.captured_at)),
        local.isoformat(timespec="milliseconds"),
        *("" if image.offset_ms is None else image.offset_ms, image.source),
        *(" ".join(image.flags), image.state, image.width or "", image.height or ""),
        *(image.size_bytes, image.sha256 or "", iso(image.uploaded_at) or ""),
        image.remote_location or "",
    )


def _problem(catalog: Catalog, image: Image) -> str | None:
    try:
        jpeg = catalog.folder.read(image.filename)
    except FileNotFoundError:
        return "the file is missing"
    except OSError as error:
        return f"the file can't be read: {error.strerror}"
    if len(jpeg) != image.size_bytes:
        return f"the file has {len(jpeg)} bytes, not {image.size_bytes}"
    if image.sha256 and hashlib.sha256(jpeg).hexdigest() != image.sha256:
        return "the file's content was altered"
    return None


def _is_still(catalog: Catalog, image: Image) -> bool:
    """Tell whether the row is there as it was: a cleanup may have deleted it meanwhile."""
    try:
        return catalog.image(image.filename).id == image.id
    except KeyError:
        return False


def _all_images(catalog: Catalog) -> Iterator[Image]:
    return _images(catalog, ImageFilter())


def _images(catalog: Catalog, which: ImageFilter) -> Iterator[Image]:
    """Yield the images of a filter, newest first."""
    before_id: int | None = None
    while chunk := catalog.images(which, limit=_CHUNK, before_id=before_id):
        yield from chunk
        before_id = chunk[-1].id


def _progress(items: Iterable[_Item], total: int, doing: str, unit: str) -> Iterable[_Item]:
    """Show a bar on a terminal, nothing elsewhere."""
    bar: Iterable[_Item] = tqdm(items, total=total, desc=doing, unit=f" {unit}", disable=None)
    return bar
