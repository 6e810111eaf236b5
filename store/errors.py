"""What can go wrong with the store, in words that say what to do."""

from __future__ import annotations

import errno
from typing import Final

_HINTS: Final = {
    errno.ENOSPC: "the disk is full: free some space or use a larger card",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EROFS: "the file system is read-only: restart; if it comes back, replace the card",
    errno.EACCES: "no permission: give the folder to the user who runs this program",
    errno.EPERM: "no permission: give the folder to the user who runs this program",
    errno.EIO: "the disk reports an I/O error: replace the card",
    errno.ENOTDIR: "a file is in the way of the folder",
}


class StorageError(Exception):
    """Something can't be read from or written to disk; the text says what to do."""

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full

    @classmethod
    def of(cls, error: OSError, doing: str) -> StorageError:
        """Put a system error in words."""
        hint = _HINTS.get(error.errno or 0, error.strerror or str(error))
        return cls(f"{doing}: {hint}", full=error.errno in (errno.ENOSPC, errno.EDQUOT))


class UnrecordedError(StorageError):
    """The picture is safe on disk, but its row has to wait until the catalog can be written."""


class DamagedError(StorageError):
    """The file is not a readable database of this program."""


class LockedError(Exception):
    """Another process owns the storage folder; the text names it."""
