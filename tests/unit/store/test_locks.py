"""Two threads at once, where a lock keeps one of them waiting: each test fails without its lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace

import pytest

from store import database, deletions
from store.catalog import Catalog
from store.database import Database, Row
from store.errors import StorageError
from store.late_writes import LateWrites, Statements
from store.rows import Image
from tests.rigs.commits import BrokenCommits
from tests.rigs.locks import Rival, WatchedLock
from tests.rigs.stores import save, save_many, storage_config


@pytest.fixture
def told() -> SimpleQueue[str]:
    return SimpleQueue()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    db = Database(tmp_path / "catalog.sqlite3")
    yield db
    db.close()


def note(word: str) -> Statements:
    return [("INSERT INTO meta VALUES (?, '')", (word,))]


def noted(db: Database) -> list[str]:
    return [row["key"] for row in db.query("SELECT key FROM meta ORDER BY key")]


def test_a_transaction_waits_for_the_end_of_another_one(
    db: Database, told: SimpleQueue[str]
) -> None:
    db._writing = WatchedLock(db._writing, told)  # type: ignore[assignment]
    rival = Rival(lambda: LateWrites(db).commit(note("c")), told)
    with db.transaction() as sql:
        sql.execute(*note("a")[0])
        assert rival.start() == "waits"
        sql.execute(*note("b")[0])
    assert rival.end() == []
    assert noted(db) == ["a", "b", "c"]


def test_what_waits_is_written_by_one_thread_only(
    db: Database, told: SimpleQueue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = LateWrites(db)
    writes._recording = WatchedLock(writes._recording, told)  # type: ignore[assignment]
    writes.keep(note("a"), 7, "uploaded")
    writes.keep(note("b"))
    rival = Rival(writes.record, told)
    heard: list[str] = []
    commits: list[int] = []
    real_commit = writes.commit

    def commit(statements: Statements) -> list[Row]:
        commits.append(len(statements))
        if not heard:
            heard.append("")
            heard[0] = rival.start()
        return real_commit(statements)

    monkeypatch.setattr(writes, "commit", commit)
    writes.record()
    assert rival.end() is None
    assert (heard, commits) == (["waits"], [2])
    assert (len(writes), writes.states, noted(db)) == (0, {}, ["a", "b"])


@pytest.fixture
def catalog(
    tmp_path: Path, told: SimpleQueue[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Catalog]:
    made = SimpleNamespace(RLock=lambda: WatchedLock(threading.RLock(), told))
    with monkeypatch.context() as patch:
        patch.setattr(deletions, "threading", made)
        catalog = Catalog.open_owner(storage_config(tmp_path))
    yield catalog
    catalog.close()


ACTS: list[tuple[str, Callable[[Catalog], object], object]] = [
    ("rejected", lambda catalog: catalog.states.retry(), 0),
    ("rejected", lambda catalog: catalog.states.retry("r1_1796126400.jpg"), 0),
    ("unknown", lambda catalog: catalog.states.resolve_unknown("pending"), 0),
    ("missing", lambda catalog: catalog.states.mark_found(1), None),
    ("uploaded", lambda catalog: catalog.delete([catalog.rows.image("r1_1796126400.jpg")]), []),
    ("uploaded", lambda catalog: catalog.finish_deleting(), None),
]


@pytest.mark.parametrize(
    ("state", "act", "result"),
    ACTS,
    ids=["retry of all", "retry of one", "resolve unknown", "mark found", "delete", "finish"],
)
def test_nothing_changes_an_image_while_its_file_goes(
    catalog: Catalog,
    told: SimpleQueue[str],
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    act: Callable[[Catalog], object],
    result: object,
) -> None:
    image = save(catalog, state=state)
    rival = Rival(lambda: act(catalog), told)
    heard: list[str] = []
    deleted: list[list[str]] = []
    real_delete = catalog._files.delete

    def delete(names: Iterable[str]) -> set[str]:
        deleted.append(list(names))
        if not heard:
            heard.append("")
            heard[0] = rival.start()
            assert catalog.rows.state_of(image.id) == state
        return real_delete(deleted[-1])

    monkeypatch.setattr(catalog._files, "delete", delete)
    assert catalog.delete([image]) == [image]
    assert (heard, rival.end()) == (["waits"], result)
    assert not catalog.rows.has_row(image.filename)
    assert not catalog.rows.path_of(image.filename).exists()
    assert [names for names in deleted if names] == [[image.filename]]


def test_a_resolution_gives_the_lock_back_between_its_parts(
    catalog: Catalog, told: SimpleQueue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleting may go on while hundreds of thousands of images are resolved."""
    monkeypatch.setattr(database, "_PART", 1)
    save(catalog, state="unknown")
    old = save(catalog, state="uploaded")
    deleted: list[object] = []

    def wait(_: float) -> None:
        if not deleted:
            rival = Rival(lambda: catalog.delete([old]), told)
            rival.start()
            deleted.append(rival.end())

    pause = SimpleNamespace(wait=wait)
    with monkeypatch.context() as patch:
        patch.setattr(database, "threading", SimpleNamespace(Event=lambda: pause))
        assert catalog.states.resolve_unknown("pending") == 1
    assert deleted == [[old]]


def test_what_fails_midway_while_others_are_ended_is_not_forgotten(
    catalog: Catalog, told: SimpleQueue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = save_many(catalog, 2, state="uploaded")
    broken = BrokenCommits(monkeypatch)
    broken.on = True
    with pytest.raises(StorageError):
        catalog.delete([first])
    real_delete = catalog._deletions.delete
    rival = Rival(lambda: real_delete([second]), told)
    heard: list[str] = []

    def delete(images: Iterable[Image]) -> list[Image]:
        broken.on = False
        gone = real_delete(images)
        broken.on = True
        heard.append(rival.start())
        return gone

    with monkeypatch.context() as patch:
        patch.setattr(catalog._deletions, "delete", delete)
        catalog.finish_deleting()
    assert heard == ["waits"]
    assert isinstance(rival.end(), StorageError)
    assert catalog.rows.has_row(second.filename)
    broken.on = False
    catalog.finish_deleting()
    assert not catalog.rows.has_row(second.filename)
