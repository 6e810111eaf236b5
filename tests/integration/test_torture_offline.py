"""The week offline in a short form: a backlog is met, reported, drained, its list always whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.rigs.daemon import free_port
from tests.torture import backlog, bare, offline, sink
from tests.torture.offline import ListWatcher

PENDING = 1500


def ignore(_: str) -> None: ...


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep stores in the test's own folder."""
    monkeypatch.setattr(backlog, "CACHE", tmp_path)
    monkeypatch.setattr(offline, "CACHE", tmp_path)
    return tmp_path


def test_a_backlog_is_met_and_drained(cache: Path) -> None:
    found = offline.run(PENDING, turns=1, turn_s=0.2, say=ignore)
    assert (found.left, found.sent, found.distinct) == (0, PENDING, PENDING)
    assert (found.broken, found.versions >= 2) == (0, True)
    assert found.ready_s > 0
    assert found.memory_without_mb > 20
    assert all(ours > 0 and plain > 0 for ours, plain in found.rates)
    limits = {gate.name: gate for gate in offline.gates_of(found, PENDING)}
    assert limits["pending that did not arrive"].met
    assert limits["looks at a list that was broken"].met


def test_a_list_that_is_torn_or_gone_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "pending_uploads.json"
    watcher = ListWatcher(path)
    whole = json.dumps([{"filename": "r1_1.jpg"}, {"filename": "r1_2.jpg"}])
    for content in (whole, whole[:-1], "", "{}", '[{"file": 1}]', "[1]"):
        path.write_text(content, encoding="utf-8")
        watcher.look()
    path.unlink()
    watcher.look()
    assert (watcher.looks, len(watcher.broken), watcher.entries) == (7, 6, [2])


def test_the_store_is_of_whole_pictures_that_differ(cache: Path) -> None:
    store = backlog.cached(100)
    assert backlog.cached(100) == store
    jpegs = [path.read_bytes() for path in (store / "images").glob("*.jpg")]
    assert len(set(jpegs)) == 100
    assert all(20_000 < len(jpeg) < 60_000 for jpeg in jpegs)
    assert all(jpeg[:4] == b"\xff\xd8\xff\xfe" and jpeg[-2:] == b"\xff\xd9" for jpeg in jpegs)


def test_the_sink_counts_what_the_bare_loop_sends(cache: Path) -> None:
    store = backlog.cached(20)
    with (
        sink.sink(free_port()) as url,
        bare.bare_loop(url, store / "images") as upload,
    ):
        uploads, seconds = upload(0.2)
        assert sink.figures(url)["uploads"] == uploads > 0
        assert sink.figures(url)["distinct"] == 0
        assert seconds >= 0.2
