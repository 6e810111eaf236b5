"""Replace a file so that a crash at any point leaves its old content or the new one."""

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
        OSError: it can't be written; the old file is unchanged.
    """
    if private:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    else:  # always the same name, so that what a crash leaves is overwritten
        name = str(path.with_name(f".{path.name}.tmp"))
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    temp = Path(name)
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


def sync_folder(folder: Path) -> None:
    """Make renames and unlinks in a folder durable. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
