"""A store with a backlog of real pictures, built once and copied for every use."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from config import StorageConfig
from store.catalog import Catalog
from store.pending_file import PendingExporter
from store.rows import to_us
from tests.torture.rounds import CACHE

_VARIANTS: Final = 40
_ROWS_A_COMMIT: Final = 10_000
_CAMERAS: Final = ("r1", "r2", "r3")
_FORMAT: Final = "3"  # part of the folder's name: a change of this module builds anew


def storage_of(folder: Path) -> StorageConfig:
    """Return where the daemon keeps its things when it runs in `folder`."""
    images = folder / "images"
    return StorageConfig(images, images / ".state", folder / "pending_uploads.json", 0)


def cached(count: int) -> Path:
    """Return a folder with a store of `count` pending pictures, built when it is not there."""
    folder = CACHE / f"backlog-{_FORMAT}-{count}"
    if not folder.exists():
        unfinished = folder.with_name(folder.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        build(unfinished, count)
        os.sync()
        unfinished.rename(folder)
    return folder


def clone(store: Path, folder: Path) -> None:
    """Copy a store into `folder`: pictures as hard links, since nobody changes them in place."""
    target = storage_of(folder)
    target.state_dir.mkdir(parents=True)
    source = storage_of(store)
    for path in source.image_dir.glob("*.jpg"):
        os.link(path, target.image_dir / path.name)
    for path in source.state_dir.glob("catalog.sqlite3*"):
        shutil.copy(path, target.state_dir)
    shutil.copy(source.pending_file, target.pending_file)


def build(folder: Path, count: int) -> None:
    """Make a store as `count` edges and no upload leave it behind, the newest an hour old."""
    storage = storage_of(folder)
    catalog = Catalog.open_owner(storage)
    try:
        fill(catalog, count, list(_pictures()))
        exporter = PendingExporter(catalog, storage.pending_file)
        exporter.allow()
        exporter.export()
    finally:
        catalog.close()


def fill(catalog: Catalog, count: int, pictures: Sequence[bytes]) -> None:
    """Put `count` pending pictures, made of `pictures` in turn, into an empty catalog."""
    first = int(time.time()) - 3600 - count
    for start in range(0, count, _ROWS_A_COMMIT):
        numbers = range(start, min(start + _ROWS_A_COMMIT, count))
        rows = [_save(catalog.rows.path_of(""), pictures, first, number) for number in numbers]
        with catalog._db.transaction() as sql:
            sql.executemany(
                "INSERT INTO events (id, camera, source, edge_us, state)"
                " VALUES (:id, :camera, 'gpio', :edge_us, 'saved')",
                rows,
            )
            sql.executemany(
                "INSERT INTO images (id, event_id, filename, camera, source, edge_us,"
                " offset_ms, clock_trusted, width, height, size_bytes, sha256, state)"
                " VALUES (:id, :id, :filename, :camera, 'gpio', :edge_us, 4.0, 1, 640, 360,"
                " :size_bytes, :sha256, 'pending')",
                rows,
            )


def _save(folder: Path, pictures: Sequence[bytes], first: int, number: int) -> dict[str, object]:
    camera, epoch = _CAMERAS[number % len(_CAMERAS)], first + number
    remark = b"picture %d" % number
    picture = pictures[number % len(pictures)]
    jpeg = picture[:2] + b"\xff\xfe" + (len(remark) + 2).to_bytes(2, "big") + remark + picture[2:]
    name = f"{camera}_{epoch}.jpg"
    (folder / name).write_bytes(jpeg)
    return {
        "id": number + 1,
        "camera": camera,
        "edge_us": to_us(datetime.fromtimestamp(epoch, UTC) + timedelta(milliseconds=250)),
        "filename": name,
        "size_bytes": len(jpeg),
        "sha256": hashlib.sha256(jpeg).hexdigest(),
    }


def _pictures() -> Iterator[bytes]:
    """Yield pictures of 20 to 50 kB."""
    random = np.random.default_rng(6)
    for number in range(_VARIANTS):
        coarse = random.integers(0, 255, (90, 160, 3), dtype=np.uint8)
        bgr = cv2.resize(coarse, (640, 360), interpolation=cv2.INTER_CUBIC)
        quality = 10 + 40 * number // _VARIANTS
        yield cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
