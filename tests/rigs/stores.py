"""Make catalogs with images in them, and pretend upload targets, for tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from config import StorageConfig, UploadConfig
from store.catalog import Catalog
from store.rows import Image, Shot
from upload.outcomes import Delivered, Outcome

NOON = datetime(2026, 12, 1, 12, 0, 0, tzinfo=UTC)
JPEG = (
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    b"\xff\xc0\x00\x11\x08\x04\x38\x07\x80\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    b"picture\xff\xd9"
)
"""The head of a 1920x1080 picture: as much of a JPEG as the store looks at."""


def storage_config(folder: Path) -> StorageConfig:
    """Return settings that keep everything below `folder`."""
    images = folder / "images"
    return StorageConfig(images, images / ".state", folder / "pending_uploads.json", 0)


def upload_config(url: str = "http://127.0.0.1:9/api", **changes: object) -> UploadConfig:
    """Return settings for uploads to `url`."""
    config = UploadConfig(
        enabled=True,
        background=True,
        url=url,
        field_name="singleFile",
        auth_token="",
        metadata=False,
        timeout_s=5.0,
        queue_size=50,
        retry_workers=1,
        offline_retry_interval_s=60.0,
        connectivity_check_interval_s=60.0,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def shot(jpeg: bytes = JPEG, flags: tuple[str, ...] = ()) -> Shot:
    """Return what a capture hands over."""
    return Shot(jpeg, b"thumbnail", 1920, 1080, 12.5, flags)


def save(
    catalog: Catalog,
    at: datetime = NOON,
    *,
    camera: str = "r1",
    source: str = "gpio",
    state: str = "pending",
    jpeg: bytes = JPEG,
    clock_trusted: bool = True,
) -> Image:
    """Store a picture as a capture does; `state` may be any that an image can come to."""
    untrusted_s = None if clock_trusted else at.timestamp()
    event_id = catalog.events.begin(camera, source, at, untrusted_s=untrusted_s)
    first = state if state in ("pending", "skipped") else "pending"
    image = catalog.save(event_id, shot(jpeg), state=first)
    if state == "uploaded":
        catalog.states.mark_uploaded(image.id, None)
    elif state == "rejected":
        catalog.states.mark_rejected(image.id, "the server answered 400")
    elif state == "missing":
        catalog.rows.path_of(image.filename).unlink()
        catalog.states.mark_missing(image.id)
    elif state == "unknown":
        with catalog._db.transaction() as sql:
            sql.execute("UPDATE images SET state = 'unknown' WHERE id = ?", (image.id,))
    return catalog.rows.image(image.filename)


def save_many(catalog: Catalog, number: int, **how: object) -> list[Image]:
    """Store pictures a second apart, each with other bytes."""
    return [
        save(catalog, NOON + timedelta(seconds=n), jpeg=JPEG + b"%d" % n, **how)  # type: ignore[arg-type]
        for n in range(number)
    ]


class FakeTarget:
    """Answer uploads as scripted, then with `answer`, and remember them."""

    def __init__(self, answers: Iterable[Outcome] = ()) -> None:
        self.answers = list(answers)
        self.answer: Outcome | Callable[[Image], Outcome] = Delivered(None)
        self.sent: list[str] = []
        self.replays: list[bool] = []
        self.threads: set[int] = set()
        self.closed = False

    def send(self, image: Image, jpeg: bytes, *, replay: bool) -> Outcome:
        """Take an image."""
        assert jpeg.startswith(JPEG)
        assert image.sha256 is not None
        self.sent.append(image.filename)
        self.replays.append(replay)
        self.threads.add(threading.get_ident())
        if self.answers:
            return self.answers.pop(0)
        return self.answer(image) if callable(self.answer) else self.answer

    def close(self) -> None:
        """Note it."""
        self.closed = True
