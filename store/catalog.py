"""Image files and their rows behind one door, in an order that survives a crash at any point.

Saving: file durably in place, then row and event in one commit, only then acknowledged.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Self

from config import StorageConfig
from runtime.clock import boot_id
from store import opening
from store.catalog_reader import CatalogReader
from store.deletions import Deletions
from store.errors import StorageError, UnrecordedError
from store.events import Events
from store.image_files import FoundFile
from store.image_states import ImageStates
from store.late_writes import LateWrites
from store.opening import OpenStore
from store.orphan_rows import adopt, next_rebuilt_id
from store.rows import AdoptedFile, Image, Shot, image_of, join_flags

_log = logging.getLogger(__name__)

_SLOW_SAVE_S: Final = 2.0  # for a picture; a good card takes a tenth of a second
# The time is the event's present one, which may have been corrected since the event was read. A row
# that another process has made of the file stays as it is.
_INSERT: Final = (
    "INSERT INTO images (event_id, filename, camera, source, edge_us, clock_trusted,"
    " offset_ms, flags, width, height, size_bytes, sha256, state)"
    " VALUES (?, ?, ?, ?, coalesce((SELECT edge_us FROM events WHERE id = ?), ?),"
    " NOT EXISTS (SELECT 1 FROM uncorrected WHERE event_id = ?),"
    " ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (filename) DO UPDATE SET filename = excluded.filename RETURNING *"
)


class Catalog:
    """The only owner of image files and their rows. All methods are for any thread.

    Every method that touches the disk may raise `StorageError`.
    """

    def __init__(self, store: OpenStore, boot: str | None = None) -> None:
        """Work on an opened store; `boot` identifies the machine's present run."""
        database, files, thumbnails = store.database, store.files, store.thumbnails
        self._db = database
        self._files = files
        self._thumbnails = thumbnails
        self._lock = store.lock
        self._writes = LateWrites(database)
        self.rows = CatalogReader(database, files, thumbnails, self._writes.states)
        """All questions to the catalog."""
        self.events = Events(database, self._writes, boot or boot_id())
        """The life of accepted edges."""
        self._deletions = Deletions(database, self._writes, self.rows, files, thumbnails)
        self.states = ImageStates(database, self._writes, self._deletions.lock)
        """The life of saved images."""
        self.former = store.former
        """The database that was set aside at the opening, when there was one."""
        self._last_save_s = 0.0
        self._being_saved: dict[tuple[int, int], str] = {}
        """File names without a row yet, by event and number in its burst."""

    @classmethod
    def open_owner(cls, storage: StorageConfig, *, boot: str | None = None) -> Self:
        """Open or create the catalog as its one owner, and repair it.

        Raises:
            LockedError: another process owns it.
            StorageError: the folders can't be written to.
        """
        return cls(opening.as_owner(storage), boot)

    @classmethod
    def open_anew(cls, storage: StorageConfig) -> Self:
        """Set the present database aside and open an empty one as its owner; raises the same."""
        return cls(opening.as_owner(storage, anew=True))

    @classmethod
    def open_beside(cls, storage: StorageConfig) -> Self:
        """Open or create the catalog, whether or not another process owns it.

        Raises:
            StorageError: the folders can't be written to, or the owner has to repair it.
        """
        return cls(opening.beside_owner(storage))

    @classmethod
    def open_to_read(cls, storage: StorageConfig) -> Self:
        """Open the catalog, creating nothing.

        Raises:
            StorageError: there is none, or the owner has to repair it.
        """
        return cls(opening.to_read(storage))

    @staticmethod
    def owner_of(storage: StorageConfig) -> str | None:
        """Return the id of the process that owns the catalog, `None` when there is none."""
        return opening.owner_of(storage)

    def close(self) -> None:
        """Close the database and release the folder."""
        with suppress(StorageError):
            self.record_unrecorded()
        self._db.close()
        self._lock.release()

    # Whether it works.

    @property
    def damaged(self) -> bool:
        """Tell whether the database proved damaged while running."""
        return self._db.damaged

    @property
    def write_error(self) -> str | None:
        """Return why the last attempt to write failed; `None` when it did not."""
        return self._files.write_error or self._db.write_error

    @property
    def slow_save_s(self) -> float | None:
        """Return how long the last picture took to become durable, if that was too long."""
        return self._last_save_s if self._last_save_s >= _SLOW_SAVE_S else None

    @property
    def unrecorded(self) -> int:
        """Return how many outcomes wait in memory for a disk that can be written."""
        return len(self._writes)

    @property
    def pending_version(self) -> int:
        """Return a number that grows with every change of the pending images."""
        return self._writes.pending_version

    def record_unrecorded(self) -> None:
        """Write the outcomes that wait in memory.

        Raises:
            StorageError: the rest still waits.
        """
        self._writes.record()

    def check_writing(self) -> None:
        """Try to write if the last attempt failed or the file system has become read-only.

        Raises:
            StorageError: it does not work.
        """
        if self.write_error or self._files.is_read_only():
            self._files.probe()
            with self._db.transaction() as sql:
                sql.execute("INSERT OR REPLACE INTO meta VALUES ('probe', '1')")

    def disk_usage(self) -> tuple[int, int]:
        """Return the free and the total bytes of the images' file system."""
        try:
            return self._files.disk_usage()
        except OSError as error:
            raise StorageError.of(error, "cannot read the free space") from error

    # Images come and go.

    def save(
        self,
        event_id: int,
        shot: Shot,
        *,
        state: str,
        beside: Image | None = None,
        burst: int = 0,
    ) -> Image:
        """Store a picture of an event durably and return its row.

        Further pictures of a burst are named after the first, `beside`, and their number in it.
        When this returns, neither a crash nor a power cut can take the picture away.

        Raises:
            UnrecordedError: the file is in place, its row follows by itself.
        """
        started_s = time.monotonic()
        event = dict(self._db.query("SELECT * FROM events WHERE id = ?", (event_id,))[0])
        epoch = event["edge_us"] // 1_000_000
        stem = beside.filename[:-4] if beside else f"{event['camera']}_{epoch}"
        picture = (event_id, burst)
        try:
            name = self._files.write(stem, shot.jpeg, partial(self._claim, picture), burst)
            image = self._insert(event, name, shot, state)
        except UnrecordedError:
            raise  # the name stays taken until the row is there
        except BaseException:
            self._being_saved.pop(picture, None)
            raise
        del self._being_saved[picture]
        self._last_save_s = time.monotonic() - started_s
        if self.slow_save_s is not None:
            _log.warning("saving %s took %.1f s: the disk is slow", name, self._last_save_s)
        self._thumbnails.write(name, shot.thumbnail)
        self._writes.pending_changed()
        return image

    def _claim(self, picture: tuple[int, int], name: str) -> bool:
        """Claim a name for a picture before its file exists; refuse one that has a row."""
        self._being_saved[picture] = name
        return not self.rows.has_row(name)

    def _insert(self, event: Mapping[str, Any], name: str, shot: Shot, state: str) -> Image:
        """Commit a picture's row and the end of its event."""
        values = (
            event["id"],
            name,
            event["camera"],
            event["source"],
            event["id"],
            event["edge_us"],
            event["id"],
            shot.offset_ms,
            join_flags(event["flags"], shot.flags),
            shot.width,
            shot.height,
            len(shot.jpeg),
            hashlib.sha256(shot.jpeg).hexdigest(),
            state,
        )
        insert = (_INSERT, values)
        end = ("UPDATE events SET state = 'saved', reason = NULL WHERE id = ?", (event["id"],))
        try:
            [row] = self._writes.commit([insert, end])
        except StorageError as error:
            self._writes.keep([insert, end])
            raise UnrecordedError(str(error), full=error.full) from error
        return image_of(row)

    def is_being_saved(self, filename: str) -> bool:
        """Tell whether a capture of this run saves the file and has not committed its row."""
        return filename in list(self._being_saved.values())

    def read(self, filename: str) -> bytes:
        """Return an image file's bytes. Raises `FileNotFoundError` and other `OSError`."""
        return self.rows.path_of(filename).read_bytes()

    def delete(self, images: Iterable[Image]) -> list[Image]:
        """Delete the images whose state has not changed since they were read; return those.

        What fails midway is ended by `finish_deleting`.

        Raises:
            StorageError: also when none of the files could be removed.
        """
        return self._deletions.delete(images)

    def finish_deleting(self) -> None:
        """Finish deletions that failed midway, so that no row stays without its file."""
        self._deletions.finish()

    # Reconciling; only for the owner, see reconcile.py.

    def sweep(self) -> int:
        """Remove temporary files of earlier runs; return how many."""
        return self._files.sweep(self.is_being_saved)

    def orphans(self) -> Iterator[FoundFile]:
        """Yield image files without a row that no capture of this run is saving."""
        return self.rows.files_without_row(lambda file: not self.is_being_saved(file.name))

    def adopt(self, files: Sequence[AdoptedFile]) -> int:
        """Make rows for files without one; return how many were made."""
        adopted = 0
        with self._db.transaction() as sql:
            next_id = next_rebuilt_id(sql)
            for file in files:
                if adopt(sql, file, next_id, self.events.last_earlier_id):
                    adopted += 1
                    next_id = None if next_id is None else next_id + 1
        self._writes.pending_changed()
        return adopted

    def end_rebuilding(self) -> None:
        """Note that every file has a row again."""
        with self._db.transaction() as sql:
            sql.execute("DELETE FROM meta WHERE key = 'rebuilding'")
