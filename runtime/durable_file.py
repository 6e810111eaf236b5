"""Replace a file so that its old content or the new one survives anything."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, chunks: Iterable[bytes], *, private: bool = False) -> None:
    """Write a file beside `path`, make it durable, and put it in its place.

    A `private` one is readable by its owner only, and keeps the owner of the file it replaces:
    root may change what the service's user has to read.

    Raises:
        OSError: the old file is as it was.
    """
    descriptor, temp = _create_private(path) if private else _create(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        if private:
            with suppress(OSError):
                owner = path.stat()
                os.chown(temp, owner.st_uid, owner.st_gid)
        temp.rename(path)
    except BaseException:
        with suppress(OSError):
            temp.unlink()
        raise
    sync_folder(path.parent)


def _create(path: Path) -> tuple[int, Path]:
    """Create the one temporary file of `path`: what a crash leaves of it is overwritten."""
    temp = path.with_name(f".{path.name}.tmp")
    return os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), temp


def _create_private(path: Path) -> tuple[int, Path]:
    """Create a temporary file with the mode 0600 that no other process writes to."""
    descriptor, temp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    return descriptor, Path(temp)


def sync_folder(folder: Path) -> None:
    """Make renames and unlinks in a folder durable. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
