"""The SQLite file: schema, connections, transactions, and what to do with a damaged one."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from store.errors import DamagedError, StorageError

_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    camera TEXT NOT NULL,
    source TEXT NOT NULL CHECK (source IN ('gpio', 'manual', 'test')),
    edge_us INTEGER NOT NULL,
    flags TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL CHECK (state IN ('capturing', 'saved', 'failed')),
    reason TEXT
);
CREATE INDEX events_by_state ON events (state, id);
CREATE INDEX events_by_edge ON events (edge_us);

CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id INTEGER REFERENCES events (id),
    filename TEXT NOT NULL UNIQUE,
    camera TEXT NOT NULL,
    source TEXT NOT NULL,
    edge_us INTEGER NOT NULL,
    offset_ms REAL,
    flags TEXT NOT NULL DEFAULT '',
    clock_trusted INTEGER NOT NULL,
    width INTEGER,
    height INTEGER,
    size_bytes INTEGER NOT NULL,
    sha256 TEXT,
    state TEXT NOT NULL CHECK (
        state IN ('pending', 'uploaded', 'rejected', 'skipped', 'missing', 'unknown')
    ),
    attempts INTEGER NOT NULL DEFAULT 0,
    next_attempt_us INTEGER NOT NULL DEFAULT 0,
    wait_for TEXT,
    last_error TEXT,
    uploaded_us INTEGER,
    remote_location TEXT
);
CREATE INDEX images_pending ON images (id, next_attempt_us) WHERE state = 'pending';
CREATE INDEX images_by_state ON images (state, id);
CREATE INDEX images_by_camera ON images (camera, id);
CREATE INDEX images_by_edge ON images (edge_us);
CREATE INDEX images_by_event ON images (event_id);

CREATE TABLE image_totals (
    camera TEXT, state TEXT, images INTEGER NOT NULL, size_bytes INTEGER NOT NULL,
    PRIMARY KEY (camera, state)
) WITHOUT ROWID;
CREATE TRIGGER image_added AFTER INSERT ON images BEGIN
    INSERT INTO image_totals VALUES (NEW.camera, NEW.state, 1, NEW.size_bytes)
    ON CONFLICT DO UPDATE
    SET images = images + 1, size_bytes = size_bytes + NEW.size_bytes;
END;
CREATE TRIGGER image_removed AFTER DELETE ON images BEGIN
    UPDATE image_totals SET images = images - 1, size_bytes = size_bytes - OLD.size_bytes
    WHERE camera = OLD.camera AND state = OLD.state;
END;
CREATE TRIGGER image_changed AFTER UPDATE OF state, size_bytes, camera ON images BEGIN
    UPDATE image_totals SET images = images - 1, size_bytes = size_bytes - OLD.size_bytes
    WHERE camera = OLD.camera AND state = OLD.state;
    INSERT INTO image_totals VALUES (NEW.camera, NEW.state, 1, NEW.size_bytes)
    ON CONFLICT DO UPDATE
    SET images = images + 1, size_bytes = size_bytes + NEW.size_bytes;
END;

CREATE TABLE event_totals (state TEXT PRIMARY KEY, events INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO event_totals VALUES ('capturing', 0), ('saved', 0), ('failed', 0);
CREATE TRIGGER event_added AFTER INSERT ON events BEGIN
    UPDATE event_totals SET events = events + 1 WHERE state = NEW.state;
END;
CREATE TRIGGER event_removed AFTER DELETE ON events BEGIN
    UPDATE event_totals SET events = events - 1 WHERE state = OLD.state;
END;
CREATE TRIGGER event_changed AFTER UPDATE OF state ON events BEGIN
    UPDATE event_totals SET events = events - 1 WHERE state = OLD.state;
    UPDATE event_totals SET events = events + 1 WHERE state = NEW.state;
END;
"""
# Apart from the schema, since catalogs of older releases get them too. They are added at once,
# however large a catalog is, and an older release works on with them.
_ADDITIONS: Final = """
CREATE TABLE IF NOT EXISTS uncorrected (
    event_id INTEGER PRIMARY KEY,
    boot_id TEXT NOT NULL,
    monotonic_us INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS uncorrected_by_boot ON uncorrected (boot_id);
CREATE INDEX IF NOT EXISTS images_by_camera_and_state ON images (camera, state);
CREATE INDEX IF NOT EXISTS images_by_camera_and_edge ON images (camera, edge_us, state);
CREATE INDEX IF NOT EXISTS images_by_state_and_edge ON images (state, edge_us, camera);
CREATE INDEX IF NOT EXISTS images_due ON images (next_attempt_us) WHERE state = 'pending';
"""
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_ERRNO: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
}
_LAZY_S: Final = 1.0
_WRITER_CACHE_KB: Final = 2000
_READER_CACHE_KB: Final = 500  # each thread has one: a dozen of them with 2 MB each add up
_FULLY_CHECKED_BYTES: Final = 64_000_000  # a larger file would delay the start
_PART: Final = 2000  # rows: a few hundredths of a second, on a slow card some tenths

Row = sqlite3.Row


class Database:
    """One writing connection behind a lock, and a reading connection for each thread.

    Readers never wait for a writer's fsync.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = threading.RLock()
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._opened = False
        self._damaged = False
        self.write_error: str | None = None
        """Why the last transaction failed; `None` when it did not."""
        self._syncs = True
        self._synced_s = 0.0
        self._damage_mark = _damage_mark(path)
        if self._damage_mark.exists():
            raise DamagedError("damage was met while running")
        try:
            self._writer = self._connect(_WRITER_CACHE_KB)
            try:
                self._prepare()
            except BaseException:
                # Left open, it would later remove the journal of the file that replaces this one.
                self._writer.close()
                raise
        except sqlite3.DatabaseError as error:
            raise self._failure(error) from error
        self._opened = True

    def _connect(self, cache_kb: int) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=5, isolation_level=None, check_same_thread=False
        )
        try:
            connection.row_factory = sqlite3.Row
            for setting in (
                "journal_mode = WAL",
                "synchronous = FULL",
                "wal_autocheckpoint = 500",  # pages: 2 MB of journal
                f"cache_size = -{cache_kb}",
            ):
                connection.execute(f"PRAGMA {setting}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self) -> None:
        with self.transaction() as sql:
            version = sql.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in _statements(_SCHEMA):
                    sql.execute(statement)
                sql.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            elif version > _SCHEMA_VERSION:
                raise StorageError(
                    f"{self._path} was written by a newer release: install that one again"
                )
            for statement in _statements(_ADDITIONS):
                sql.execute(statement)
            columns = {row["name"] for row in sql.execute("PRAGMA table_info(images)")}
            if "state_before" not in columns:
                sql.execute("ALTER TABLE images ADD COLUMN state_before TEXT")
        if self._path.stat().st_size <= _FULLY_CHECKED_BYTES:
            found = self._writer.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise DamagedError(found)
        # SQLite silently opens a file read-only when it can't be opened for writing just now, and
        # never tries again: writing shows it at once.
        with self.transaction() as sql:
            sql.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    @property
    def damaged(self) -> bool:
        """Tell whether damage was met while running: the next start sets the file aside."""
        return self._damaged or (self._opened and self._damage_mark.exists())

    @contextmanager
    def transaction(self, *, lazy: bool = False) -> Iterator[sqlite3.Connection]:
        """Write within one transaction, durable when the block ends.

        A `lazy` one survives the end of the process at once, and a power cut once a later
        transaction is not lazy, or is lazy and comes a second after the last sync.

        Raises:
            StorageError: nothing of it was written.
        """
        with self._writing:
            try:
                self._roll_back()  # a failed transaction whose rollback failed too
                self._set_sync(not lazy or time.monotonic() >= self._synced_s + _LAZY_S)
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException as error:
                with suppress(sqlite3.DatabaseError):
                    self._roll_back()
                if isinstance(error, sqlite3.DatabaseError):
                    failure = self._failure(error)
                    self.write_error = str(failure)
                    raise failure from error
                raise
            self.write_error = None

    def run_in_parts(
        self,
        statement: str,
        *parameters: object,
        holding: AbstractContextManager[object] = nullcontext(),  # noqa: B008 - has no state
    ) -> int:
        """Run a statement that ends with `LIMIT ?` until no row is left; return the rows changed.

        There may be hundreds of thousands, and a capture of another process gives up after 5 s.
        Each part runs under the lock `holding`.
        """
        rows = 0
        pause = threading.Event()
        while True:
            started_s = time.monotonic()
            with holding, self.transaction() as sql:
                changed = sql.execute(statement, (*parameters, _PART)).rowcount
            rows += changed
            if changed < _PART:
                return rows
            pause.wait(time.monotonic() - started_s)  # as long again for others to write

    def _roll_back(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def _set_sync(self, syncs: bool) -> None:
        """Choose whether the next commit syncs the journal, with all commits before it, to disk."""
        if syncs:
            self._synced_s = time.monotonic()
        if syncs != self._syncs:
            self._writer.execute(f"PRAGMA synchronous = {'FULL' if syncs else 'NORMAL'}")
            self._syncs = syncs

    def sync(self) -> None:
        """Make everything durable that lazy transactions wrote.

        Raises:
            StorageError: that failed.
        """
        try:
            with self._path.with_name(f"{self._path.name}-wal").open("rb") as journal:
                os.fsync(journal.fileno())
        except FileNotFoundError:
            return  # all is in the database file
        except OSError as error:
            raise StorageError.of(error, "cannot write the catalog") from error

    def query(self, sql: str, parameters: tuple[object, ...] = ()) -> list[Row]:
        """Read on the calling thread's own connection.

        Raises:
            StorageError: the file can't be read.
        """
        try:
            connection = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = self._connect(_READER_CACHE_KB)
                self._readers.append(connection)
            rows: list[Row] = connection.execute(sql, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._failure(error) from error
        return rows

    def close(self) -> None:
        """Close all connections; the write-ahead log goes into the file."""
        for connection in (*self._readers, self._writer):
            connection.close()
        self._readers.clear()

    def _failure(self, error: sqlite3.DatabaseError) -> Exception:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _DAMAGE:
            if self._opened:
                self._damaged = True
                with suppress(OSError):  # without the mark the next start finds the damage itself
                    self._damage_mark.touch()
            return DamagedError(str(error))
        if code in _ERRNO:
            return StorageError.of(OSError(_ERRNO[code], str(error)), "the catalog can't be used")
        return StorageError(f"the catalog can't be used: {error}")


def set_aside(path: Path, why: str) -> Path:
    """Rename a database and its journals, if there are any; return the database's new path."""
    target = f"{path.name}.{why}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    for ending in ("", "-wal", "-shm"):
        part = path.with_name(path.name + ending)
        if part.exists():
            part.rename(path.with_name(target + ending))
    _damage_mark(path).unlink(missing_ok=True)
    return path.with_name(target)


def _damage_mark(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged")


def _statements(script: str) -> list[str]:
    """Return a script's statements. Only a statement's first line begins with these words."""
    return re.split(r"\n(?=CREATE|INSERT)", script.strip())
