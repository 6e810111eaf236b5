"""The folder of image files: names that never collide, writes that survive a power cut."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from runtime.durable_file import sync_folder
from store.errors import StorageError
from store.rows import parse_name

_TEMP_SUFFIX: Final = ".tmp"
_HEADROOM_BYTES: Final = 4_000_000
"""Kept free for the catalog: on a disk without any room no upload could be recorded."""
_PROBED_BYTES: Final = 4_000_000
"""Free beyond that before a full disk counts as writable again: a picture or two must fit."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """An image file as a scan sees it; `epoch` and `camera` come from its name."""

    name: str
    camera: str
    epoch: int
    size_bytes: int
    modified_s: float


class ImageFolder:
    """Write, list and delete image files in one flat folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write_error: str | None = None
        """Why the last attempt to write or delete failed; `None` when it did not."""

    def create(self) -> None:
        """Make the folder and prove that it can be written to.

        Raises:
            StorageError: it can't.
        """
        with self._writing(f"cannot write to {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_probe()

    def probe(self) -> None:
        """Prove that a picture could be saved.

        Raises:
            StorageError: it can't.
        """
        with self._writing(f"cannot write to {self.path}"):
            self._check_room(_PROBED_BYTES)
            self._write_probe()

    @contextmanager
    def _writing(self, failing: str) -> Iterator[None]:
        """Turn a system error into a `StorageError`, and remember whether writing works."""
        try:
            yield
        except OSError as error:
            failure = StorageError.of(error, failing)
            self.write_error = str(failure)
            raise failure from error
        self.write_error = None

    def _check_room(self, size_bytes: int) -> None:
        if self.disk_usage()[0] < size_bytes + _HEADROOM_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _write_probe(self) -> None:
        probe = self.path / f".probe{_TEMP_SUFFIX}"
        with probe.open("wb") as file:
            file.write(b"probe")
            file.flush()
            os.fsync(file.fileno())
        probe.unlink(missing_ok=True)

    def is_read_only(self) -> bool:
        """Tell whether the file system is mounted read-only, without touching the disk."""
        with suppress(OSError):
            return bool(os.statvfs(self.path).f_flag & os.ST_RDONLY)
        return False

    def write(self, stem: str, jpeg: bytes, claim: Callable[[str], bool], burst: int = 0) -> str:
        """Write `jpeg` durably as `stem`.jpg, or as the next free `stem`_N.jpg; return the name.

        With `burst` it is `stem`_b`burst`.jpg, or the next free one of these. Nothing is
        overwritten. `claim` is called before a file of a name exists; it tells whether the name
        may be used.

        Raises:
            StorageError: nothing was written; the next start removes what could not be removed.
        """
        for number in count(1):
            if burst:
                name = f"{stem}_b{burst + number - 1}.jpg"
            else:
                name = f"{stem}.jpg" if number == 1 else f"{stem}_{number}.jpg"
            with self._writing(f"cannot save {name}"):
                if (self.path / name).exists() or not claim(name):
                    continue
                self._check_room(len(jpeg))
                if self._write_claimed(name, jpeg):
                    return name
        raise AssertionError("unreachable")

    def _write_claimed(self, name: str, jpeg: bytes) -> bool:
        final = self.path / name
        temp = self.path / f".{name}{_TEMP_SUFFIX}"
        try:
            descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        try:
            with os.fdopen(descriptor, "wb") as file:
                if final.exists():  # it came after the look in `write`
                    temp.unlink(missing_ok=True)
                    return False
                file.write(jpeg)
                file.flush()
                os.fsync(file.fileno())
            temp.rename(final)
        except BaseException:
            with suppress(OSError):
                temp.unlink()
            raise
        try:
            sync_folder(self.path)
        except BaseException:  # the name may not survive a power cut: the picture is not safe
            with suppress(OSError):
                final.unlink()
            raise
        return True

    def delete(self, names: Iterable[str]) -> set[str]:
        """Remove files durably; return the names of those removed, now or earlier.

        A file that can't be removed, as happens on a worn card, does not keep the others.

        Raises:
            StorageError: removed files may be back after a power cut.
        """
        gone: set[str] = set()
        failure: OSError | None = None
        doing = "cannot delete images"
        with self._writing(doing):
            for name in names:
                try:
                    (self.path / name).unlink(missing_ok=True)
                except OSError as error:
                    failure = error
                else:
                    gone.add(name)
            sync_folder(self.path)
        if failure is not None:
            self.write_error = str(StorageError.of(failure, doing))
        return gone

    def scan(self) -> Iterator[FoundFile]:
        """Yield every image file in the folder, in no order."""
        with os.scandir(self.path) as entries:
            for entry in entries:
                found = parse_name(entry.name)
                if found is None:
                    continue
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if entry.is_file(follow_symlinks=False):
                        camera, epoch = found
                        yield FoundFile(entry.name, camera, epoch, status.st_size, status.st_mtime)

    def has_images(self) -> bool:
        """Tell whether there is at least one image."""
        return next(self.scan(), None) is not None

    def sweep(self, is_being_saved: Callable[[str], bool]) -> int:
        """Remove the temporary files of interrupted writes and return how many there were.

        `is_being_saved` tells of an image's name that its temporary file is still in use.
        """
        with os.scandir(self.path) as entries:
            hidden = [entry.name for entry in entries if entry.name.startswith(".")]
        swept = 0
        for name in hidden:
            if not name.endswith(_TEMP_SUFFIX) or is_being_saved(name[1 : -len(_TEMP_SUFFIX)]):
                continue
            with suppress(FileNotFoundError):
                (self.path / name).unlink()
                swept += 1
        return swept

    def disk_usage(self) -> tuple[int, int]:
        """Return the free and the total bytes of the folder's file system."""
        total, _, free = shutil.disk_usage(self.path)
        return free, total


def jpeg_size(jpeg: bytes) -> tuple[int, int] | None:
    """Return (width, height) in pixels from a JPEG's frame header, `None` when it has none."""
    at = 2
    while jpeg[:2] == b"\xff\xd8" and at + 9 <= len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = jpeg[at + 5 : at + 7], jpeg[at + 7 : at + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return None
