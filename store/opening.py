"""How a store is opened: its folders, its one owner, and a lost or damaged database."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from config import StorageConfig
from runtime.durable_file import sync_folder
from store.database import Database, set_aside
from store.errors import DamagedError, LockedError, StorageError
from store.image_files import ImageFolder
from store.orphan_rows import REBUILT_IDS_END
from store.thumbnails import Thumbnails

_log = logging.getLogger(__name__)

CATALOG_NAME: Final = "catalog.sqlite3"


class FolderLock:
    """The right to reconcile, sweep and export: one process at a time holds it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock and tell whether it was free. It ends with the process."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        with suppress(OSError):  # the lock holds without the note of who has it
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        return True

    def owner(self) -> str:
        """Return the process id the holder wrote down."""
        return self._path.read_text(encoding="ascii", errors="replace").strip()

    def release(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@dataclass(frozen=True)
class OpenStore:
    """The opened parts of a store."""

    database: Database
    files: ImageFolder
    thumbnails: Thumbnails
    lock: FolderLock
    former: Path | None = None
    """The database that was set aside, when there was one."""


def as_owner(storage: StorageConfig, *, anew: bool = False) -> OpenStore:
    """Open or create a store, repair it, and hold its lock; `anew` sets the database aside first.

    Raises:
        LockedError: another process holds it.
        StorageError: the folders can't be written to.
    """
    _create_folders(storage)
    path = storage.state_dir / CATALOG_NAME
    lock = FolderLock(storage.state_dir / "lock")
    former = None
    with _releasing(lock, storage):
        if not lock.acquire():
            raise LockedError(
                f"process {lock.owner()} already works on {storage.image_dir}: stop it first"
            )
        if anew:
            former = set_aside(path, "replaced")
        try:
            database = Database(path)
        except DamagedError as error:
            former = set_aside(path, "damaged")
            _log.error("the catalog is damaged (%s); kept as %s, rebuilding", error, former.name)
            database = Database(path)
        return _opened(storage, database, lock, former if former and former.exists() else None)


def beside_owner(storage: StorageConfig) -> OpenStore:
    """Open or create a store, whether or not another process owns it.

    Raises:
        StorageError: the folders can't be written to, or the owner has to repair the database.
    """
    _create_folders(storage)
    return _open_sound(storage)


def to_read(storage: StorageConfig) -> OpenStore:
    """Open a store, creating nothing.

    Raises:
        StorageError: there is none, or the owner has to repair the database.
    """
    if not (storage.state_dir / CATALOG_NAME).exists():
        raise StorageError(f"there is no catalog in {storage.state_dir}: start the daemon first")
    return _open_sound(storage)


def owner_of(storage: StorageConfig) -> str | None:
    """Return the id of the process that owns a store, `None` when there is none."""
    path = storage.state_dir / "lock"
    lock = FolderLock(path)
    if not path.exists():
        return None
    if not lock.acquire():
        return lock.owner()
    lock.release()
    return None


def _create_folders(storage: StorageConfig) -> None:
    thumbnails = Thumbnails(storage.state_dir / "thumbnails")
    thumbnails.make_room_to_open()
    ImageFolder(storage.image_dir).create()
    ImageFolder(storage.state_dir).create()
    try:
        storage.state_dir.chmod(0o700)
        thumbnails.create()
    except OSError as error:
        raise StorageError.of(error, f"cannot write to {storage.state_dir}") from error
    # Until its parent is synced, a power cut can take a new folder with all that is in it.
    for folder in (storage.image_dir.parent, storage.image_dir, storage.state_dir.parent):
        with suppress(OSError):  # a parent that we may not read is not ours to sync
            sync_folder(folder)


@contextmanager
def _releasing(lock: FolderLock, storage: StorageConfig) -> Iterator[None]:
    """Release the lock when opening fails, and put a system error in words."""
    try:
        yield
    except BaseException as error:
        lock.release()
        if isinstance(error, OSError):
            raise StorageError.of(error, f"cannot use {storage.state_dir}") from error
        raise


def _open_sound(storage: StorageConfig) -> OpenStore:
    """Open a store whose database only its owner may set aside."""
    lock = FolderLock(storage.state_dir / "lock")
    with _releasing(lock, storage):
        try:
            database = Database(storage.state_dir / CATALOG_NAME)
        except DamagedError as error:
            raise StorageError(
                f"the catalog is damaged ({error}): start the daemon, which rebuilds it"
            ) from error
        return _opened(storage, database, lock)


def _opened(
    storage: StorageConfig, database: Database, lock: FolderLock, former: Path | None = None
) -> OpenStore:
    """Return the store; an unused database beside image files is marked for a rebuild.

    Whether its file existed tells nothing: a power cut may have left it empty.
    """
    files = ImageFolder(storage.image_dir)
    if not database.query("SELECT 1 FROM sqlite_sequence LIMIT 1") and files.has_images():
        with database.transaction() as sql:
            sql.execute("INSERT OR REPLACE INTO meta VALUES ('rebuilding', '1')")
            sql.execute(
                "INSERT INTO sqlite_sequence (name, seq) VALUES ('images', ?)", (REBUILT_IDS_END,)
            )
    return OpenStore(database, files, Thumbnails(storage.state_dir / "thumbnails"), lock, former)
