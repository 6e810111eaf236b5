"""Small pictures for the gallery: not durable, and the first to go from a full disk."""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

_ROOM_TO_OPEN_BYTES: Final = 8_000_000


class Thumbnails:
    """Keep a small picture for each image, as far as the disk allows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self) -> None:
        """Make the folder. Raises `OSError`."""
        self._folder.mkdir(exist_ok=True)

    def find(self, filename: str) -> Path | None:
        """Return the path of an image's thumbnail, if it has one."""
        path = self._folder / filename
        return path if path.is_file() else None

    def write(self, filename: str, thumbnail: bytes) -> None:
        """Write a thumbnail whole or not at all; the gallery can do without."""
        path = self._folder / filename
        try:
            path.write_bytes(thumbnail)
        except OSError:
            with suppress(OSError):
                path.unlink()

    def delete(self, filename: str) -> None:
        """Delete an image's thumbnail."""
        with suppress(OSError):
            (self._folder / filename).unlink(missing_ok=True)

    def make_room_to_open(self) -> None:
        """Delete some thumbnails on a full disk, so that the catalog can open and free more.

        The gallery then shows the photos themselves.
        """
        freed_bytes = 0
        with suppress(OSError):
            if shutil.disk_usage(self._folder).free >= _ROOM_TO_OPEN_BYTES // 4:
                return
            for path in self._folder.iterdir():
                freed_bytes += path.stat().st_size
                path.unlink()
                if freed_bytes >= _ROOM_TO_OPEN_BYTES:
                    break
        if freed_bytes:
            _log.warning("the disk is full: %.1f MB of thumbnails deleted", freed_bytes / 1e6)
