"""New images first, the backlog behind them, nothing twice, nothing given up."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from config import UploadConfig
from runtime.stats import Stats
from store import late_writes
from store.catalog import Catalog
from store.errors import StorageError
from store.rows import Image
from tests.rigs.stores import NOON, FakeTarget, save, save_many, storage_config, upload_config
from upload.outcomes import Deferred, Delivered, Misconfigured, Rejected
from uploader import ConnectivityMonitor, LiveWorker, RetryWorker, UploadService

DELIVERED = Delivered("http://there/x.jpg")
BUSY = Deferred("the server answered 503", "server")
LATER = Deferred("the server answered 503", "server", retry_after_s=500.0)
UNREACHABLE = Deferred("cannot reach there: no route", "connection")
SILENT = Deferred("there gave no answer within 5 s", "silent")
PORTAL = Deferred("a web page answered", "server", captive_portal=True)
WRONG = Misconfigured("the server answered 401: not allowed", "Check UPLOAD_AUTH_TOKEN.")
REFUSED = Rejected("the server answered 400")


class Clock:
    """Both clocks, standing still until moved."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def monotonic(self) -> float:
        return 1000.0 + self.passed_s

    def now(self) -> datetime:
        return NOON + timedelta(hours=1, seconds=self.passed_s)


class Rig:
    """An upload service on fake targets, worked by hand."""

    def __init__(self, catalog: Catalog, clock: Clock, config: UploadConfig) -> None:
        self.catalog = catalog
        self.clock = clock
        self.stats = Stats()
        self.targets: list[FakeTarget] = []
        self.service = UploadService(
            config,
            catalog,
            self.stats,
            make_target=self._make,
            clock=clock.monotonic,
            now=clock.now,
            jitter=lambda low, high: high,
        )
        *retries, live, monitor = self.service.workers
        self.retries = cast(list[RetryWorker], retries)
        self.retry = self.retries[0]
        self.live = cast(LiveWorker, live)
        self.monitor = cast(ConnectivityMonitor, monitor)
        self.live_target, self.target = self.targets[0], self.targets[1]

    def _make(self) -> FakeTarget:
        self.targets.append(FakeTarget())
        return self.targets[-1]

    def answer(self, outcome: object) -> None:
        for target in self.targets:
            target.answer = outcome  # type: ignore[assignment]

    def state(self, image: Image) -> str:
        return self.catalog.rows.image(image.filename).state

    @property
    def sent(self) -> list[str]:
        return [name for target in self.targets for name in target.sent]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.open_owner(storage_config(tmp_path))
    yield catalog
    catalog.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rig(catalog: Catalog, clock: Clock) -> Rig:
    return Rig(catalog, clock, upload_config())


def test_a_new_image_goes_out_and_is_written_down(rig: Rig) -> None:
    image = save(rig.catalog)
    rig.service.submit(image)
    assert rig.service.status().queue_size == 1
    rig.live_target.answer = DELIVERED
    assert rig.live.step() == 0.0
    assert rig.live.step() is None
    sent = rig.catalog.rows.image(image.filename)
    assert (sent.state, sent.remote_location, sent.attempts) == ("uploaded", DELIVERED.location, 1)
    assert rig.live_target.replays == [False]
    assert rig.stats.snapshot().uploaded_bytes == image.size_bytes
    assert rig.service.status().online is True


def test_new_images_go_before_the_backlog(rig: Rig) -> None:
    old = save_many(rig.catalog, 2)
    new = save(rig.catalog, NOON + timedelta(seconds=60))
    rig.service.submit(new)
    assert rig.retry.step() == 60.0
    assert rig.sent == []
    rig.live.step()
    assert rig.retry.step() == 0.0
    assert rig.live_target.sent == [new.filename]
    assert rig.target.sent == [old[0].filename]


def test_the_backlog_goes_oldest_first_as_replays(rig: Rig) -> None:
    saved = save_many(rig.catalog, 4)
    while rig.retry.step() == 0.0:
        pass
    assert rig.target.sent == [image.filename for image in saved]
    assert rig.target.replays == [True] * 4
    assert rig.catalog.rows.totals().by_state["uploaded"] == 4


def test_an_image_in_the_live_queue_is_not_sent_by_the_backlog_too(rig: Rig) -> None:
    image, other = save_many(rig.catalog, 2)
    rig.service.submit(image)
    rig.service.submit(image)
    assert rig.live.queue_size == 1
    rig.retry._let_pass = lambda: False
    assert rig.retry.step() == 0.0
    assert rig.retry.step() == 60.0
    assert rig.target.sent == [other.filename]
    rig.live.step()
    assert rig.sent.count(image.filename) == 1


def test_two_retry_workers_never_send_the_same(catalog: Catalog, clock: Clock) -> None:
    rig = Rig(catalog, clock, upload_config(retry_workers=2))
    saved = save_many(catalog, 3)
    second, second_target = rig.retries[1], rig.targets[2]

    def meanwhile(image: Image) -> Delivered:
        if len(second_target.sent) < 1:
            second.step()
        return DELIVERED

    rig.target.answer = meanwhile
    while rig.retry.step() == 0.0:
        pass
    assert sorted(rig.sent) == [image.filename for image in saved]
    assert second_target.sent == [saved[1].filename]


def test_an_image_sent_meanwhile_is_not_sent_again(rig: Rig) -> None:
    image = save(rig.catalog)
    rig.service.submit(image)
    rig.catalog.states.mark_uploaded(image.id, None)
    rig.live.step()
    rig.retry.step()
    assert rig.sent == []


def test_a_full_queue_leaves_the_image_pending(catalog: Catalog, clock: Clock) -> None:
    rig = Rig(catalog, clock, upload_config(queue_size=2))
    saved = save_many(catalog, 3)
    for image in saved:
        rig.service.submit(image)
    assert rig.service.status().queue_size == 2
    assert rig.state(saved[2]) == "pending"
    while rig.live.step() is not None:
        pass
    rig.retry.step()
    assert rig.target.sent == [saved[2].filename]


def test_wrong_settings_pause_everything_and_quarantine_nothing(rig: Rig) -> None:
    saved = save_many(rig.catalog, 3)
    rig.answer(WRONG)
    rig.retry.step()
    status = rig.service.status()
    assert (status.paused, status.hint) == (WRONG.reason, WRONG.hint)
    assert status.online is True
    new = save(rig.catalog, NOON + timedelta(seconds=60))
    rig.service.submit(new)
    rig.live.step()
    assert rig.live_target.sent == []
    rig.target.sent.clear()
    for _ in range(3):  # a probe a minute, woken or not
        wait_s = rig.retry.step()
        assert wait_s == pytest.approx(60.0)
        rig.clock.passed_s += 30
        assert rig.retry.step() == pytest.approx(30.0)
        rig.clock.passed_s += 30
    assert rig.target.sent == [saved[0].filename] * 3
    assert all(rig.state(image) == "pending" for image in (*saved, new))


def test_a_probe_that_succeeds_ends_the_pause(rig: Rig) -> None:
    saved = save_many(rig.catalog, 3)
    rig.answer(WRONG)
    rig.retry.step()
    rig.retry.step()
    rig.answer(DELIVERED)
    rig.clock.passed_s += 61
    assert rig.retry.step() == 0.0
    assert rig.service.status().paused is None
    while rig.retry.step() == 0.0:
        pass
    assert [rig.state(image) for image in saved] == ["uploaded"] * 3


def test_only_the_first_retry_worker_probes(catalog: Catalog, clock: Clock) -> None:
    rig = Rig(catalog, clock, upload_config(retry_workers=3))
    save_many(catalog, 3)
    rig.answer(WRONG)
    for worker in (*rig.retries, *rig.retries):
        worker.step()
    assert [len(target.sent) for target in rig.targets[1:]] == [2, 0, 0]


def test_all_retry_workers_go_on_when_a_probe_succeeds(
    catalog: Catalog, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(catalog, clock, upload_config(retry_workers=2))
    save_many(catalog, 3)
    rig.answer(WRONG)
    first, second = rig.retries
    for worker in (first, first, second):
        worker.step()
    rig.answer(DELIVERED)
    clock.passed_s += 60
    woken: list[bool] = []
    monkeypatch.setattr(second, "wake", lambda: woken.append(True))
    assert first.step() == 0.0
    assert woken
    second.step()
    assert len(rig.targets[2].sent) == 1


def test_a_retry_by_hand_ends_the_pause_at_once(rig: Rig) -> None:
    image = save(rig.catalog)
    rig.answer(WRONG)
    rig.retry.step()
    rig.retry.step()
    rig.answer(DELIVERED)
    assert rig.retry.step() > 0
    assert rig.service.retry() == 1
    rig.retry.step()
    assert rig.state(image) == "uploaded"


def test_a_refused_image_does_not_block_the_others(rig: Rig) -> None:
    saved = save_many(rig.catalog, 3)
    rig.target.answers = [REFUSED]
    while rig.retry.step() == 0.0:
        pass
    assert [rig.state(image) for image in saved] == ["rejected", "uploaded", "uploaded"]
    assert rig.catalog.rows.image(saved[0].filename).last_error == REFUSED.reason
    assert rig.stats.snapshot().failed_attempts == 1
    assert rig.service.retry(saved[0].filename) == 1
    rig.retry.step()
    assert rig.state(saved[0]) == "uploaded"


def test_a_missing_file_does_not_hold_up_the_backlog(rig: Rig) -> None:
    saved = save_many(rig.catalog, 4)
    for image in saved[:2]:
        rig.catalog.rows.path_of(image.filename).unlink()
    while rig.retry.step() == 0.0:
        pass
    assert [rig.state(i) for i in saved] == ["missing", "missing", "uploaded", "uploaded"]


def test_offline_waits_for_the_next_look(rig: Rig) -> None:
    first, second = save_many(rig.catalog, 2)
    rig.answer(UNREACHABLE)
    assert rig.retry.step() == 60.0
    assert rig.service.status().online is False
    assert rig.retry.step() == 60.0
    assert rig.sent == [first.filename]
    rig.clock.passed_s += 60
    rig.retry.step()
    assert rig.sent == [first.filename, first.filename]
    assert (rig.state(first), rig.state(second)) == ("pending", "pending")


def test_a_connection_that_fails_makes_the_line_wait_not_the_images(rig: Rig) -> None:
    saved = save_many(rig.catalog, 3)
    rig.answer(UNREACHABLE)
    for image in saved:
        rig.service.submit(image)
        rig.live.step()
    waiting = [rig.catalog.rows.image(image.filename) for image in saved]
    assert [(i.wait_for, i.attempts, i.next_attempt_at) for i in waiting] == [
        ("connection", 1, None)
    ] * 3


def test_coming_online_ends_the_rest_of_every_worker(catalog: Catalog, clock: Clock) -> None:
    rig = Rig(catalog, clock, upload_config(retry_workers=3))
    saved = save_many(catalog, 6)
    rig.answer(UNREACHABLE)
    for worker in rig.retries:
        assert worker.step() == 60.0
    rig.answer(DELIVERED)
    rig.service._line.note_reached()
    clock.passed_s += 3.01
    for worker in rig.retries:
        assert worker.step() == 0.0
    assert catalog.rows.totals().by_state["uploaded"] == 3
    assert {rig.state(image) for image in saved[:3]} == {"uploaded"}


def test_coming_online_does_not_end_the_rest_that_a_busy_server_asked_for(rig: Rig) -> None:
    save_many(rig.catalog, 2)
    rig.answer(LATER)
    rig.retry.step()  # the first answer ever: the line is online from now on
    rig.service._line.note_reached()
    rig.clock.passed_s += 30
    assert rig.retry.step() > 25
    assert len(rig.sent) == 1


def test_coming_online_ends_waits_for_the_connection_only(rig: Rig) -> None:
    away, told = save_many(rig.catalog, 2)
    rig.target.answers = [UNREACHABLE]
    rig.retry.step()
    rig.catalog.states.mark_waiting(
        told.id, "busy", rig.clock.now() + timedelta(seconds=500), "retry_after"
    )
    rig.service._line.note_reached()
    assert rig.retry.step() == pytest.approx(3.0)  # not all sites in the same moment
    rig.clock.passed_s += 3.01
    rig.retry.step()
    rig.retry.step()
    assert rig.target.sent == [away.filename, away.filename]
    assert (rig.state(away), rig.state(told)) == ("uploaded", "pending")
    rig.clock.passed_s += 500
    rig.retry.step()
    assert rig.state(told) == "uploaded"


def test_retry_after_is_obeyed(rig: Rig) -> None:
    image = save(rig.catalog)
    rig.target.answers = [LATER]
    rig.retry.step()
    waiting = rig.catalog.rows.image(image.filename)
    assert waiting.next_attempt_at == rig.clock.now() + timedelta(seconds=500)
    assert waiting.wait_for == "retry_after"
    rig.clock.passed_s += 499
    rig.retry.step()
    assert len(rig.sent) == 1
    rig.clock.passed_s += 2
    rig.retry.step()
    assert rig.state(image) == "uploaded"


def test_a_server_that_asks_for_time_gets_it_for_all_images(rig: Rig) -> None:
    saved = save_many(rig.catalog, 3)
    rig.target.answers = [Deferred("the server answered 429", "server", retry_after_s=20.0)]
    assert rig.retry.step() == pytest.approx(20.0 + 2.0)  # and a jitter
    rig.clock.passed_s += 21
    assert rig.retry.step() == pytest.approx(1.0)
    assert rig.sent == [saved[0].filename]
    rig.clock.passed_s += 1
    rig.retry.step()
    assert rig.sent == [saved[0].filename, saved[1].filename]


def test_a_busy_server_lets_no_image_wait_for_minutes(rig: Rig) -> None:
    image = save(rig.catalog)
    rig.answer(replace(BUSY, busy=True))
    waits, rests = [], []
    for _ in range(12):
        rig.retry.hurry()
        rig.retry.step()
        due_at = rig.catalog.rows.image(image.filename).next_attempt_at
        assert due_at is not None
        waits.append((due_at - rig.clock.now()).total_seconds())
        rests.append(rig.retry.step())
        rig.clock.passed_s += 301
    assert waits[:4] == [*rests[:3], 16] == [2, 4, 8, 16]
    assert (waits[-1], rests[-1]) == (30, 15)


def test_one_image_that_is_told_to_wait_for_long_does_not_hold_up_the_others(rig: Rig) -> None:
    first, second = save_many(rig.catalog, 2)
    rig.target.answers = [Deferred("the server answered 503", "server", retry_after_s=3600.0)]
    assert rig.retry.step() <= 60.0 + 2.0
    rig.clock.passed_s += 62.01
    rig.retry.step()
    assert (rig.state(first), rig.state(second)) == ("pending", "uploaded")


@pytest.mark.parametrize("outcome", [BUSY, SILENT])
def test_images_the_server_fails_at_do_not_starve_the_others(rig: Rig, outcome: Deferred) -> None:
    saved = save_many(rig.catalog, 200)
    bad = {image.id for image in saved[:150]}
    rig.target.answer = lambda image: outcome if image.id in bad else DELIVERED
    for image in saved[:150]:
        rig.catalog.states.mark_waiting(image.id, "500", rig.clock.now(), "server")
    tries = 0
    while rig.catalog.rows.totals().by_state["uploaded"] < 50:
        rig.clock.passed_s += max(0.01, rig.retry.step())
        tries += 1
        assert tries < 300
    assert len(rig.sent) <= 101


@pytest.mark.parametrize("outcome", [BUSY, SILENT])
def test_backoff_grows_and_is_never_given_up(rig: Rig, outcome: Deferred) -> None:
    image = save(rig.catalog)
    rig.answer(outcome)
    waits: list[float] = []
    for _ in range(12):
        before = len(rig.sent)
        rig.retry.hurry()
        rig.retry.step()
        assert len(rig.sent) == before + 1
        due_at = rig.catalog.rows.image(image.filename).next_attempt_at
        assert due_at is not None
        waits.append((due_at - rig.clock.now()).total_seconds())
        rig.clock.passed_s += waits[-1] + 0.001
    assert waits[:9] == [2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert set(waits[8:]) == {300}
    assert rig.catalog.rows.image(image.filename).attempts == 12


def test_one_failing_image_does_not_starve_the_others(rig: Rig) -> None:
    saved = save_many(rig.catalog, 3)
    rig.target.answer = lambda image: BUSY if image.id == saved[0].id else DELIVERED
    for _ in range(4):
        rig.retry.step()
        rig.clock.passed_s += 1
        rig.retry.hurry()
    assert [rig.state(image) for image in saved[1:]] == ["uploaded", "uploaded"]


def test_a_captive_portal_is_noted_and_over_again(rig: Rig) -> None:
    image = save(rig.catalog)
    rig.target.answers = [PORTAL]
    rig.retry.step()
    assert rig.service.status().captive_portal
    assert rig.state(image) == "pending"
    rig.clock.passed_s += 10
    rig.retry.step()
    assert not rig.service.status().captive_portal
    assert rig.state(image) == "uploaded"


def test_without_background_uploads_submit_sends(catalog: Catalog, clock: Clock) -> None:
    rig = Rig(catalog, clock, upload_config(background=False))
    image = save(catalog)
    rig.service.submit(image)
    assert rig.state(image) == "uploaded"
    assert rig.targets[2].sent == [image.filename]
    assert rig.targets[2].replays == [False]
    rig.service.submit(save(catalog, NOON + timedelta(seconds=1)))
    assert len(rig.targets) == 3


def test_a_capture_does_not_wait_for_a_server_that_is_known_to_be_away(
    catalog: Catalog, clock: Clock
) -> None:
    rig = Rig(catalog, clock, upload_config(background=False))
    rig.service._line.note_unreachable("no route")
    image = save(catalog)
    rig.service.submit(image)
    assert (rig.state(image), rig.sent) == ("pending", [])
    rig.service._line.note_reached()
    rig.clock.passed_s += 4
    rig.retry.step()
    assert rig.state(image) == "uploaded"


def test_an_unreadable_image_does_not_fail_the_capture(
    catalog: Catalog, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(catalog, clock, upload_config(background=False))
    image = save(catalog)

    def read(name: str) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(catalog, "read", read)
        rig.service.submit(image)
    assert (rig.state(image), rig.sent) == ("pending", [])
    clock.passed_s += 2.0
    rig.retry.step()
    assert rig.state(image) == "uploaded"


def test_disabled_uploads_send_nothing(catalog: Catalog) -> None:
    made: list[FakeTarget] = []

    def make() -> FakeTarget:
        made.append(FakeTarget())
        return made[-1]

    service = UploadService(upload_config(enabled=False), catalog, Stats(), make_target=make)
    image = save(catalog)
    service.submit(image)
    assert service.workers == []
    assert (service.status().enabled, service.status().queue_size) == (False, 0)
    assert not any(target.sent for target in made)


def test_images_that_are_not_pending_are_not_submitted(rig: Rig) -> None:
    rig.service.submit(save(rig.catalog, source="test", state="skipped"))
    assert rig.live.queue_size == 0


def test_the_drain_is_shown(rig: Rig) -> None:
    save_many(rig.catalog, 20)
    for _ in range(5):
        rig.retry.step()
        rig.clock.passed_s += 1
    drain = rig.service.status().drain
    assert drain is not None
    assert (drain.total, drain.done) == (20, 5)
    while rig.retry.step() == 0.0:
        pass
    assert rig.service.status().drain is None


def test_the_drain_ends_with_a_refused_image(rig: Rig) -> None:
    saved = save_many(rig.catalog, 20)
    refused = {saved[0].id, saved[-1].id}
    rig.target.answer = lambda image: REFUSED if image.id in refused else DELIVERED
    for _ in range(5):
        rig.retry.step()
    drain = rig.service.status().drain
    assert drain is not None
    assert (drain.total, drain.done) == (20, 5)
    while rig.retry.step() == 0.0:
        pass
    assert rig.service.status().drain is None


def test_a_new_image_does_not_prolong_a_drain_that_is_over(rig: Rig) -> None:
    save_many(rig.catalog, 20)
    rig.retry._let_pass = lambda: False
    for _ in range(19):
        rig.retry.step()
    rig.service.submit(save(rig.catalog, NOON + timedelta(seconds=60)))
    assert rig.retry.step() == 0.0
    assert rig.service.status().drain is not None
    assert rig.retry.step() == 60.0
    assert rig.service.status().drain is None


def test_the_drain_ends_when_somebody_else_takes_the_last_image(rig: Rig) -> None:
    saved = save_many(rig.catalog, 20)
    for _ in range(19):
        rig.retry.step()
    assert rig.service.status().drain is not None
    rig.catalog.states.mark_missing(saved[-1].id)
    while rig.retry.step() == 0.0:
        pass
    assert rig.service.status().drain is None


def test_what_was_tried_meanwhile_is_not_tried_again_at_once(
    catalog: Catalog, clock: Clock
) -> None:
    rig = Rig(catalog, clock, upload_config(retry_workers=2))
    saved = save_many(catalog, 3)
    rig.retries[1].step()  # has found all three now, and sent the first
    rig.targets[1].answers = [LATER]
    rig.retries[0].step()
    while rig.retries[1].step() == 0.0:
        pass
    assert rig.targets[1].sent == [saved[1].filename]
    assert rig.targets[2].sent == [saved[0].filename, saved[2].filename]


def test_adopted_files_get_their_checksum_before_they_go(rig: Rig) -> None:
    image = save(rig.catalog)
    with rig.catalog._db.transaction() as sql:
        sql.execute("UPDATE images SET sha256 = NULL, width = NULL")
    rig.retry.step()
    sent = rig.catalog.rows.image(image.filename)
    assert (sent.state, sent.sha256, sent.width) == ("uploaded", image.sha256, 1920)


def test_what_cannot_be_written_down_is_not_repeated_and_holds_up_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = save_many(rig.catalog, 4)
    rig.service.submit(saved[3])
    rig.target.answers = [REFUSED]

    def refuse(*_: object, **__: object) -> None:
        raise StorageError("the file system is read-only")

    with monkeypatch.context() as patch:
        patch.setattr(rig.catalog._writes, "commit", refuse)
        rig.live.step()
        rig.live.step()
        for _ in range(6):
            rig.retry.step()
        assert rig.sent == [saved[3].filename, *(image.filename for image in saved[:3])]
        assert rig.catalog.rows.totals().by_state["pending"] == 4
        assert rig.state(saved[0]) == "rejected"
        assert rig.catalog.rows.oldest_pending() == []
    rig.catalog.record_unrecorded()
    assert rig.catalog.rows.totals().by_state["uploaded"] == 3
    assert [rig.state(image) for image in saved] == ["rejected", *["uploaded"] * 3]
    assert len(rig.sent) == 4


def test_nothing_is_sent_that_could_not_even_be_remembered(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = save(rig.catalog)
    monkeypatch.setattr(late_writes, "_LIMIT", 0)
    with pytest.raises(StorageError):
        rig.retry.step()
    assert (rig.sent, rig.state(image)) == ([], "pending")


def test_a_file_that_cannot_be_read_does_not_hold_up_the_others(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = save_many(rig.catalog, 3)
    read = rig.catalog.read

    def bad_block(name: str) -> bytes:
        if name == saved[0].filename:
            raise OSError(errno.EIO, "Input/output error")
        return read(name)

    monkeypatch.setattr(rig.catalog, "read", bad_block)
    for _ in range(4):
        rig.retry.step()
    assert rig.sent == [saved[1].filename, saved[2].filename]
    waiting = rig.catalog.rows.image(saved[0].filename)
    assert (waiting.state, waiting.attempts, waiting.wait_for) == ("pending", 1, "file")
    assert "I/O error" in (waiting.last_error or "")


def test_an_unreadable_file_does_not_keep_a_pause_from_ending(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = save_many(rig.catalog, 3)
    rig.answer(WRONG)
    rig.retry.step()
    read = rig.catalog.read

    def bad_block(name: str) -> bytes:
        if name == saved[0].filename:
            raise OSError(errno.EIO, "Input/output error")
        return read(name)

    monkeypatch.setattr(rig.catalog, "read", bad_block)
    rig.answer(DELIVERED)
    rig.clock.passed_s += 60.0
    rig.retry.step()
    assert rig.service.status().paused is None
    assert rig.state(saved[1]) == "uploaded"


def test_a_failed_step_gives_the_image_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    image = save(rig.catalog)
    rig.service.submit(image)

    def broken(*_: object) -> Image:
        raise StorageError("I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(rig.catalog.rows, "image", broken)
        with pytest.raises(StorageError):
            rig.live.step()
    assert not rig.live.busy
    rig.retry.step()
    assert rig.state(image) == "uploaded"


def test_ending_closes_the_targets(rig: Rig) -> None:
    for worker in (*rig.retries, rig.live):
        worker.close()
    assert all(target.closed for target in rig.targets)


def test_the_monitor_opens_a_connection(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, int]] = []

    class Connection:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    def connect(address: tuple[str, int], timeout: float) -> Connection:
        tried.append(address)
        if len(tried) % 2:
            raise ConnectionRefusedError(111, "Connection refused")
        return Connection()

    monkeypatch.setattr(socket, "create_connection", connect)
    assert rig.monitor.step() == 60.0
    assert rig.service.status().online is False
    rig.monitor.step()
    assert rig.service.status().online is True
    assert tried == [("127.0.0.1", 9)] * 2


def test_the_target_is_shown_without_secrets(catalog: Catalog, clock: Clock) -> None:
    rig = Rig(catalog, clock, upload_config("https://user:secret@there/api?key=secret"))
    assert rig.service.status().target == "https://there/api"
