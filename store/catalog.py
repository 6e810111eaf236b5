"""Image files and their rows behind one door, in an order that survives a crash at any point.

Saving: file durably in place, then row and event in one commit, only then acknowledged.
Deleting: files durably gone, then rows. Questions are in `catalog_reader`.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from config import StorageConfig
from runtime.clock import boot_id
from store.catalog_reader import CatalogReader
from store.database import DamagedError, Database, FolderLock, set_aside
from store.image_files import ImageFolder, StorageError, jpeg_size
from store.late_writes import Statement, Statements, Unrecorded
from store.orphan_rows import REBUILT_IDS_END, adopt, next_rebuilt_id
from store.rows import (
    AdoptedFile,
    Image,
    Shot,
    join_flags,
    to_us,
)

_log = logging.getLogger(__name__)

CATALOG_NAME: Final = "catalog.sqlite3"
_ROOM_TO_OPEN_BYTES: Final = 8_000_000
_CHUNK: Final = 2000  # rows: a few hundredths of a second, on a slow card some tenths
SLOW_SAVE_S: Final = 2.0  # for a picture; a good card takes a tenth of a second


class LockedError(Exception):
    """Another process owns the storage folder; the text names it."""


class UnrecordedError(StorageError):
    """The picture is safe on disk, but its row has to wait until the catalog can be written."""


class Catalog(CatalogReader):
    """The only owner of image files and their rows. All methods are for any thread.

    Every method that touches the disk may raise `StorageError`.
    """

    def __init__(
        self,
        storage: StorageConfig,
        *,
        as_owner: bool = True,
        to_read: bool = False,
        anew: bool = False,
        boot: str | None = None,
    ) -> None:
        """Open or create the catalog; `boot` tells runs of the machine apart.

        With `to_read` nothing is created; with `anew` the present database is set aside first.

        Raises:
            StorageError: the folders can't be written to, or there is nothing to read.
            LockedError: `as_owner` was asked for and another process is it.
        """
        path = storage.state_dir / CATALOG_NAME
        self.folder = ImageFolder(storage.image_dir)
        self.state_dir = storage.state_dir
        self.pending_version = 0
        """Grows with every change of what is pending."""
        self.last_save_s = 0.0
        """How long the last picture took to become durable."""
        self._boot = boot or boot_id()
        self._being_saved: dict[tuple[int, int], str] = {}
        """File names without a row yet, by event and number in its burst."""
        self._unrecorded = Unrecorded()
        super().__init__(storage.state_dir / "thumbnails", self._unrecorded.states)
        self._deleting: dict[int, Image] = {}
        self._deletes = threading.RLock()
        """Held while files go, and when images that may be deleted become such as may not."""
        self.former: Path | None = None
        """Where the database was put that was set aside."""
        if not to_read:
            self._make_room_to_open()
            self._create_folders()
        elif not path.exists():
            raise StorageError(f"there is no catalog in {self.state_dir}: start the daemon first")
        self._lock = FolderLock(storage.state_dir / "lock")
        try:
            if as_owner and not self._lock.acquire():
                raise LockedError(
                    f"process {self._lock.owner()} already works on {storage.image_dir}:"
                    " stop it first"
                )
            if anew:
                self._set_aside(path, "replaced")
            self._db = self._open(path, as_owner=as_owner)
        except OSError as error:
            self._lock.release()
            raise StorageError.of(error, f"cannot use {self.state_dir}") from error
        except BaseException:
            self._lock.release()
            raise
        self.last_event_id_at_open = int(
            self._db.query("SELECT coalesce(max(id), 0) FROM events")[0][0]
        )

    def _create_folders(self) -> None:
        self.folder.create()
        ImageFolder(self.state_dir).create()
        try:
            self.state_dir.chmod(0o700)
            self.thumbnails.mkdir(exist_ok=True)
        except OSError as error:
            raise StorageError.of(error, f"cannot write to {self.state_dir}") from error
        # A new folder is itself an entry that a power cut can take, with all that is in it.
        for folder in (self.folder.path.parent, self.folder.path, self.state_dir.parent):
            with suppress(OSError):  # one that may not be read is not ours to make durable
                ImageFolder(folder).sync()

    def _make_room_to_open(self) -> None:
        """Delete thumbnails on a full disk: what makes more room needs a catalog that is open.

        They can be done without; a photo is then shown itself.
        """
        freed_bytes = 0
        with suppress(OSError):
            if shutil.disk_usage(self.thumbnails).free >= _ROOM_TO_OPEN_BYTES // 4:
                return
            for path in self.thumbnails.iterdir():
                freed_bytes += path.stat().st_size
                path.unlink()
                if freed_bytes >= _ROOM_TO_OPEN_BYTES:
                    break
        if freed_bytes:
            _log.warning("the disk is full: %.1f MB of thumbnails deleted", freed_bytes / 1e6)

    def _open(self, path: Path, *, as_owner: bool) -> Database:
        try:
            database = Database(path)
        except DamagedError as error:
            if not as_owner:
                raise StorageError(
                    f"the catalog is damaged ({error}): start the daemon, which rebuilds it"
                ) from error
            kept = self._set_aside(path, "damaged")
            _log.error("the catalog is damaged (%s); kept as %s, rebuilding", error, kept.name)
            database = Database(path)
        # Not by whether the file was there: a power cut may have left it empty.
        is_unused = not database.query("SELECT 1 FROM sqlite_sequence LIMIT 1")
        if is_unused and self.folder.has_images():
            with database.transaction() as sql:
                sql.execute("INSERT OR REPLACE INTO meta VALUES ('rebuilding', '1')")
                sql.execute(
                    "INSERT INTO sqlite_sequence (name, seq) VALUES ('images', ?)",
                    (REBUILT_IDS_END,),
                )
        return database

    def _set_aside(self, path: Path, why: str) -> Path:
        kept = set_aside(path, f"{why}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        self.former = kept if kept.exists() else None
        return kept

    def close(self) -> None:
        """Close the database and give the folder back."""
        with suppress(StorageError):
            self.record_unrecorded()
        self._db.close()
        self._lock.release()

    @property
    def damaged(self) -> bool:
        """Tell whether the database proved damaged while running."""
        return self._db.damaged

    @property
    def write_error(self) -> str | None:
        """Return why the last attempt to write failed; `None` when it did not."""
        return self.folder.write_error or self._db.write_error

    def check_writing(self) -> None:
        """Try whether writing works again, or no longer, without wearing out a card that is well.

        Raises:
            StorageError: it does not work.
        """
        if self.write_error or self.folder.is_read_only():
            self.folder.probe()
            with self._db.transaction() as sql:
                sql.execute("INSERT OR REPLACE INTO meta VALUES ('probe', '1')")

    def disk_usage(self) -> tuple[int, int]:
        """Return the free and the total bytes of the images' file system."""
        try:
            return self.folder.disk_usage()
        except OSError as error:
            raise StorageError.of(error, "cannot read the free space") from error

    # Events and images come to be.

    def begin_event(
        self,
        camera: str,
        source: str,
        edge_at: datetime,
        flags: Sequence[str] = (),
        *,
        untrusted_s: float | None = None,
    ) -> int:
        """Commit an accepted edge as `capturing` and return the event's id.

        `untrusted_s` is the edge on the monotonic clock, when `edge_at` is not to be trusted.
        """
        self.record_unrecorded()
        with self._db.transaction() as sql:
            row = sql.execute(
                "INSERT INTO events (camera, source, edge_us, flags, state)"
                " VALUES (?, ?, ?, ?, 'capturing')",
                (camera, source, to_us(edge_at), join_flags("", flags)),
            )
            for statement, parameters in self._note_untrusted(untrusted_s):
                sql.execute(statement, parameters)
            return int(row.lastrowid or 0)

    def _note_untrusted(self, untrusted_s: float | None) -> Statements:
        """Return what notes of the event just inserted that its time is to be corrected."""
        if untrusted_s is None:
            return []
        sql = "INSERT INTO uncorrected VALUES (last_insert_rowid(), ?, ?)"
        return [(sql, (self._boot, round(untrusted_s * 1_000_000)))]

    def fail_event(self, event_id: int, reason: str) -> None:
        """End an event without a picture, now or once that can be written."""
        sql = "UPDATE events SET state = 'failed', reason = ? WHERE id = ? AND state = 'capturing'"
        self._record_soon([(sql, (reason, event_id))])

    def fail_unrecorded(
        self,
        camera: str,
        source: str,
        edge_at: datetime,
        reason: str,
        *,
        untrusted_s: float | None = None,
    ) -> None:
        """Record a failed event for an edge that could not be committed, with the next write.

        Touches no disk, since a slow one must not keep an edge's thread waiting.
        """
        sql = (
            "INSERT INTO events (camera, source, edge_us, state, reason)"
            " VALUES (?, ?, ?, 'failed', ?)"
        )
        insert = (sql, (camera, source, to_us(edge_at), reason))
        self._unrecorded.keep([insert, *self._note_untrusted(untrusted_s)])

    def record_unrecorded(self) -> None:
        """Write what could not be written before; called again until it works."""
        if self._unrecorded.record(self._commit):
            self._pending_changed()

    @property
    def unrecorded(self) -> int:
        """Return how many outcomes wait in memory for a disk that can be written."""
        return len(self._unrecorded)

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

        def taken(name: str) -> bool:
            self._being_saved[event_id, burst] = name  # before there is any file of it
            return self.has_row(name)

        try:
            stem = beside.filename[:-4] if beside else f"{event['camera']}_{epoch}"
            name = self.folder.write(stem, shot.jpeg, taken, burst)
            insert = _insertion(event, name, shot, state)
            end = ("UPDATE events SET state = 'saved', reason = NULL WHERE id = ?", (event_id,))
            try:
                self._commit([insert, end])
            except StorageError as error:
                self._unrecorded.keep([insert, end])
                raise UnrecordedError(str(error), full=error.full) from error
        except UnrecordedError:
            raise  # the file stays this event's until the row is there
        except BaseException:
            self._being_saved.pop((event_id, burst), None)
            raise
        del self._being_saved[event_id, burst]
        self.last_save_s = time.monotonic() - started_s
        if self.last_save_s >= SLOW_SAVE_S:
            _log.warning("saving %s took %.1f s: the disk is slow", name, self.last_save_s)
        self._write_thumbnail(name, shot.thumbnail)
        self._pending_changed()
        return self.image(name)

    def is_being_saved(self, filename: str) -> bool:
        """Tell whether a file is of a capture of this run whose row is not committed yet."""
        return filename in list(self._being_saved.values())

    def _write_thumbnail(self, name: str, thumbnail: bytes) -> None:
        path = self.thumbnails / name
        try:
            path.write_bytes(thumbnail)
        except OSError:  # the gallery does without, but not with a torn one
            with suppress(OSError):
                path.unlink()

    def _record_soon(
        self,
        statements: Statements,
        image_id: int | None = None,
        state: str = "",
        *,
        lazy: bool = False,
    ) -> None:
        try:
            self.record_unrecorded()
            self._commit(statements, lazy=lazy)
        except StorageError as error:
            self._unrecorded.keep(statements, image_id, state)
            _log.error("%s; trying again later", error)
        self._pending_changed()

    def _commit(self, statements: Statements, *, lazy: bool = False) -> None:
        with self._db.transaction(lazy=lazy) as sql:
            for statement, parameters in statements:
                sql.execute(statement, parameters)

    def correct_times(self, offset_s: float, limit: int) -> int:
        """Give edges of this boot that were taken with a wrong clock their time; return how many.

        `offset_s` is wall minus monotonic time. Their images get it too; names and files stay.
        Edges still `capturing` come later: until there is a row, a file is known by their time.
        """
        rows = self._db.query(
            "SELECT monotonic_us + ? AS edge_us, event_id FROM uncorrected"
            " JOIN events ON events.id = event_id"
            " WHERE boot_id = ? AND state != 'capturing' LIMIT ?",
            (round(offset_s * 1_000_000), self._boot, limit),
        )
        if not rows:
            return 0
        corrections = [tuple(row) for row in rows]
        with self._db.transaction() as sql:
            sql.executemany("UPDATE events SET edge_us = ? WHERE id = ?", corrections)
            sql.executemany(
                "UPDATE images SET edge_us = ?, clock_trusted = 1 WHERE event_id = ?", corrections
            )
            sql.executemany(
                "DELETE FROM uncorrected WHERE event_id = ?", [(row[1],) for row in rows]
            )
        self._pending_changed()
        return len(rows)

    # Uploading.

    def check_room_to_note(self) -> None:
        """Raise `StorageError` when what becomes of an image could not even be kept in memory."""
        self._unrecorded.check_room()

    def mark_uploaded(self, image_id: int, location: str | None) -> None:
        """Note that the server has the image, now or once that can be written.

        Lazily: what a power cut takes of it is sent again, with the same key.
        """
        self._note(
            image_id,
            "uploaded",
            "attempts = attempts + 1, last_error = NULL, wait_for = NULL,"
            " uploaded_us = ?, remote_location = ?",
            (to_us(datetime.now(UTC)), location),
            lazy=True,
        )

    def mark_waiting(
        self, image_id: int, error: str, next_attempt_at: datetime | None, wait_for: str
    ) -> None:
        """Note a failed attempt; `wait_for` is connection, silent, server, retry_after or file.

        (Of an image that is missing it is the state that it had.)
        """
        self._update(
            image_id,
            "attempts = attempts + 1, last_error = ?, next_attempt_us = ?, wait_for = ?",
            (error, 0 if next_attempt_at is None else to_us(next_attempt_at), wait_for),
        )

    def mark_rejected(self, image_id: int, error: str) -> None:
        """Note that the server refuses this very image, now or once that can be written."""
        self._note(image_id, "rejected", "attempts = attempts + 1, last_error = ?", (error,))

    def mark_missing(self, image_id: int) -> None:
        """Note that the row's file has gone, now or once that can be written."""
        what = "wait_for = state, last_error = ?"  # the state before
        self._note(image_id, "missing", what, ("the file has gone",))

    def mark_found(self, image_id: int) -> None:
        """Note that a missing file is back: its image is again what it was before."""
        with self._deletes:
            self._update(
                image_id,
                "last_error = NULL, wait_for = NULL, state = CASE"
                " WHEN wait_for IN ('uploaded', 'rejected', 'skipped', 'unknown') THEN wait_for"
                " WHEN uploaded_us IS NOT NULL THEN 'uploaded'"  # as older releases left it
                " WHEN source = 'test' THEN 'skipped' ELSE 'pending' END",
                (),
            )

    def with_sha256(self, image: Image, jpeg: bytes) -> Image:
        """Complete the row of an adopted file, whose content was never read before."""
        sha256 = hashlib.sha256(jpeg).hexdigest()
        width, height = jpeg_size(jpeg) or (None, None)
        with suppress(StorageError):  # it is found again, as often as needed
            self._update(image.id, "sha256 = ?, width = ?, height = ?", (sha256, width, height))
        return replace(image, sha256=sha256, width=width, height=height)

    def retry(self, filename: str | None = None) -> int:
        """Make one image, or all that wait or were rejected, pending and due now.

        Returns the number of images. Test images are never among them.
        """
        self.record_unrecorded()
        with self._deletes, self._db.transaction() as sql:
            changed = sql.execute(
                "UPDATE images SET state = 'pending', next_attempt_us = 0, wait_for = NULL"
                " WHERE source != 'test' AND (state IN ('pending', 'rejected') AND ? IS NULL"
                " OR state IN ('pending', 'rejected', 'skipped') AND filename = ?)",
                (filename, filename),
            ).rowcount
        self._pending_changed()
        return changed

    def resolve_unknown(self, state: str) -> int:
        """Turn all images of unknown fate into `pending` or `uploaded`; return how many."""
        changed = self._in_chunks(
            "UPDATE images SET state = ?"
            " WHERE id IN (SELECT id FROM images WHERE state = 'unknown' LIMIT ?)",
            state,
        )
        self._pending_changed()
        return changed

    def _in_chunks(self, statement: str, *parameters: object) -> int:
        """Run a statement that ends with a limit as often as needed; return how many rows it met.

        There may be hundreds of thousands, and a capture of another process gives up after 5 s.
        """
        rows = 0
        pause = threading.Event()
        while True:
            started_s = time.monotonic()
            with self._deletes, self._db.transaction() as sql:
                met = sql.execute(statement, (*parameters, _CHUNK)).rowcount
            rows += met
            if met < _CHUNK:
                return rows
            pause.wait(time.monotonic() - started_s)  # as long again for others to write

    # Deleting.

    def delete(self, images: Iterable[Image]) -> list[Image]:
        """Delete files, then rows; what fails midway is ended by `finish_deleting`.

        Returns what was deleted. An image stays that has changed its state since it was looked at:
        it may be one to be sent now.

        Raises:
            StorageError: also when not one of the files could be removed.
        """
        with self._deletes:
            images = [image for image in images if self._is_still(image)]
            self._db.sync()  # else a picture could be gone whose upload is not known any more
            self._deleting.update({image.id: image for image in images})
            names = self.folder.delete([image.filename for image in images])
            gone = [image for image in images if image.filename in names]
            for image in images:
                if image.filename not in names:
                    del self._deleting[image.id]
            if images and not gone:
                raise StorageError(self.folder.write_error or "cannot delete images")
            for image in gone:
                with suppress(OSError):
                    (self.thumbnails / image.filename).unlink(missing_ok=True)
            with self._db.transaction() as sql:
                sql.executemany("DELETE FROM images WHERE id = ?", [(image.id,) for image in gone])
            for image in gone:
                self._deleting.pop(image.id, None)
            self._pending_changed()
            return gone

    def _is_still(self, image: Image) -> bool:
        rows = self._images("WHERE id = ?", (image.id,))
        return bool(rows) and rows[0].state == image.state

    def finish_deleting(self) -> None:
        """End deletions that failed midway: no row is to stay whose file has gone."""
        with self._deletes:  # what another thread is at has not failed
            if self._deleting:
                self.delete(list(self._deleting.values()))
                self._deleting.clear()  # what is left there has changed its state

    def delete_events(self, before: datetime) -> int:
        """Delete ended events before `before` that have no image any more; return how many.

        Those whose time was never corrected are kept.
        """
        return self._in_chunks(
            "DELETE FROM events WHERE id IN (SELECT id FROM events"
            " WHERE edge_us < ? AND state != 'capturing' AND NOT EXISTS"
            " (SELECT 1 FROM images WHERE event_id = events.id)"
            " AND NOT EXISTS (SELECT 1 FROM uncorrected WHERE event_id = events.id) LIMIT ?)",
            to_us(before),
        )

    # Reconciling; only for the owner of the folder, see reconcile.py.

    def end_rebuilding(self) -> None:
        """Note that every file has its row again."""
        with self._db.transaction() as sql:
            sql.execute("DELETE FROM meta WHERE key = 'rebuilding'")

    def adopt(self, files: Sequence[AdoptedFile]) -> int:
        """Make rows for files without one; return how many were new."""
        adopted = 0
        with self._db.transaction() as sql:
            next_id = next_rebuilt_id(sql)
            for file in files:
                if adopt(sql, file, next_id, self.last_event_id_at_open):
                    adopted += 1
                    next_id = None if next_id is None else next_id + 1
        self._pending_changed()
        return adopted

    def fail_interrupted(self) -> int:
        """End the events that the previous run left `capturing`; return how many."""
        with self._db.transaction() as sql:
            return sql.execute(
                "UPDATE events SET state = 'failed', reason = 'interrupted'"
                " WHERE state = 'capturing' AND id <= ?",
                (self.last_event_id_at_open,),
            ).rowcount

    # Inside.

    def _pending_changed(self) -> None:
        self.pending_version += 1

    def _note(
        self,
        image_id: int,
        state: str,
        assignments: str,
        parameters: tuple[object, ...],
        *,
        lazy: bool = False,
    ) -> None:
        sql = f"UPDATE images SET state = ?, {assignments} WHERE id = ?"  # noqa: S608
        statements: Statements = [(sql, (state, *parameters, image_id))]
        self._record_soon(statements, image_id, state, lazy=lazy)

    def _update(self, image_id: int, assignments: str, parameters: tuple[object, ...]) -> None:
        with self._db.transaction() as sql:
            sql.execute(f"UPDATE images SET {assignments} WHERE id = ?", (*parameters, image_id))  # noqa: S608
        self._pending_changed()


def _insertion(event: Mapping[str, Any], name: str, shot: Shot, state: str) -> Statement:
    """Return what makes a picture's row, with the event's time as it is by then.

    It may be corrected meanwhile.
    """
    return (
        "INSERT INTO images (event_id, filename, camera, source, edge_us, clock_trusted,"
        " offset_ms, flags, width, height, size_bytes, sha256, state)"
        " VALUES (?, ?, ?, ?, coalesce((SELECT edge_us FROM events WHERE id = ?), ?),"
        " NOT EXISTS (SELECT 1 FROM uncorrected WHERE event_id = ?),"
        " ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (filename) DO NOTHING",
        (
            *(event["id"], name, event["camera"], event["source"]),
            *(event["id"], event["edge_us"], event["id"]),
            *(shot.offset_ms, join_flags(event["flags"], shot.flags)),
            *(shot.width, shot.height, len(shot.jpeg)),
            *(hashlib.sha256(shot.jpeg).hexdigest(), state),
        ),
    )
