"""When a commit is written through to the disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from store import database
from store.database import Database
from store.errors import StorageError


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(database, "time", clock)
    return clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite3"


@pytest.fixture
def db(path: Path, clock: Clock) -> Iterator[Database]:
    db = Database(path)
    yield db
    db.close()


def write(db: Database, word: str, *, lazy: bool = False) -> int:
    """Write something and return SQLite's level of care: 1 is NORMAL, 2 is FULL."""
    with db.transaction(lazy=lazy) as sql:
        sql.execute("INSERT OR REPLACE INTO meta VALUES ('word', ?)", (word,))
    level: int = db._writer.execute("PRAGMA synchronous").fetchone()[0]
    return level


def test_what_is_not_lazy_is_always_written_through(db: Database, clock: Clock) -> None:
    levels = []
    for word in "abcdef":
        levels += [write(db, word), write(db, word, lazy=True), write(db, word)]
        clock.now_s += 0.1
    assert levels == [2, 1, 2] * 6


def test_lazy_ones_are_written_through_once_a_second(db: Database, clock: Clock) -> None:
    write(db, "a")
    levels = []
    for word in "abcdefghijkl":
        clock.now_s += 0.26
        levels.append(write(db, word, lazy=True))
    assert levels == [1, 1, 1, 2] * 3


def test_a_lazy_one_is_seen_at_once_and_survives_the_process(db: Database, path: Path) -> None:
    write(db, "lazy", lazy=True)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT value FROM meta").fetchall() == [("lazy",)]


def test_the_journal_can_be_written_through(
    db: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(db, "lazy", lazy=True)
    synced: list[Path] = []

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(database, "os", SimpleNamespace(fsync=fsync))
    db.sync()
    assert synced == [path.with_name("catalog.sqlite3-wal")]

    with monkeypatch.context() as patch:
        patch.setattr(db, "_path", path.with_name("other.sqlite3"))
        db.sync()
    assert len(synced) == 1

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(database, "os", SimpleNamespace(fsync=broken))
    with pytest.raises(StorageError):
        db.sync()
