"""The upload service on its real threads, over real HTTP, against a server with faults."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from config import UploadConfig
from runtime.stats import Stats
from runtime.version import __version__
from runtime.worker import stop_all
from store.catalog import Catalog
from store.opening import OpenStore
from store.rows import Image
from tests.rigs.receiver import (
    UPLOAD_PATH,
    Answer,
    Receiver,
    captive_portal,
    redirect,
    retry_later,
    text,
)
from tests.rigs.stores import JPEG, save, save_many, storage_config, upload_config
from upload.http_target import HttpTarget
from upload.outcomes import Misconfigured, idempotency_key
from uploader import UploadService

SITE = "gate-1"
PATIENCE_S = 90.0


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(keep_bodies=True) as receiver:
        yield receiver


class WatchedCatalog(Catalog):
    """Tell who waits of every change."""

    def __init__(self, store: OpenStore, boot: str | None = None) -> None:
        super().__init__(store, boot)
        self._changed = threading.Condition()
        self._note_change = self._writes.pending_changed
        self._writes.pending_changed = self._pending_changed  # type: ignore[method-assign]

    def _pending_changed(self) -> None:
        with self._changed:
            self._note_change()
            self._changed.notify_all()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Look again after every change until `condition` holds."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE_S), "it did not come about"


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[WatchedCatalog]:
    catalog = WatchedCatalog.open_owner(storage_config(tmp_path))
    yield catalog
    catalog.close()


def config_for(receiver: Receiver, **changes: object) -> UploadConfig:
    """Return settings with the shortest waits that make sense."""
    quick: dict[str, object] = {
        "offline_retry_interval_s": 0.2,
        "connectivity_check_interval_s": 0.2,
    }
    return upload_config(receiver.url, **{**quick, **changes})


Start = Callable[..., UploadService]


@pytest.fixture
def start(catalog: WatchedCatalog, receiver: Receiver) -> Iterator[Start]:
    """Return a function that starts an upload service; it ends with the test."""
    services: list[UploadService] = []

    def start(**changes: object) -> UploadService:
        config = config_for(receiver, **changes)
        service = UploadService(
            config, catalog, Stats(), make_target=partial(HttpTarget, config, SITE)
        )
        for worker in service.workers:
            worker.start()
        services.append(service)
        return service

    yield start
    for service in services:
        assert stop_all(service.workers, PATIENCE_S) == []


def is_in(catalog: WatchedCatalog, image: Image, state: str) -> Callable[[], bool]:
    return lambda: catalog.rows.image(image.filename).state == state


def error_of(catalog: WatchedCatalog, image: Image) -> str:
    return catalog.rows.image(image.filename).last_error or ""


def has_error(catalog: WatchedCatalog, image: Image, words: str) -> Callable[[], bool]:
    return lambda: words in error_of(catalog, image)


def test_an_image_arrives_as_it_is(
    catalog: WatchedCatalog, receiver: Receiver, start: Start
) -> None:
    service = start(auth_token="token-1")
    jpeg = JPEG + bytes(range(256)) * 100 + b"\r\n--\r\n"
    image = save(catalog, jpeg=jpeg)
    service.submit(image)
    [received] = receiver.wait_for(1, PATIENCE_S)
    assert receiver.bodies == {image.filename: jpeg}
    assert received.sha256 == image.sha256 == hashlib.sha256(jpeg).hexdigest()
    assert (received.method, received.path) == ("POST", "/api/Common/Upload?modulename=anpr")
    assert (received.file_field, received.content_type) == ("singleFile", "image/jpeg")
    assert received.fields == {}
    assert received.headers["user-agent"] == f"camera-capture/{__version__}"
    assert received.headers["x-site-id"] == SITE
    assert received.headers["idempotency-key"] == idempotency_key(SITE, image)
    assert received.headers["authorization"] == "Bearer token-1"
    catalog.wait_until(is_in(catalog, image, "uploaded"))
    location = catalog.rows.image(image.filename).remote_location
    assert location == "http://127.0.0.1/images/stored.jpg"


def test_no_token_is_no_header(
    catalog: WatchedCatalog,
    receiver: Receiver,
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    start().submit(save(catalog))
    [received] = receiver.wait_for(1, PATIENCE_S)
    assert "authorization" not in received.headers


def test_metadata_only_when_asked_for(
    catalog: WatchedCatalog, receiver: Receiver, start: Start
) -> None:
    old = save_many(catalog, 1)[0]
    service = start(metadata=True)
    receiver.wait_for(1, PATIENCE_S)
    new = save(catalog, camera="r2")
    service.submit(new)
    replayed, live = receiver.wait_for(2, PATIENCE_S)
    assert replayed.fields == {
        "event_id": str(old.event_id),
        "sha256": old.sha256,
        "captured_at": "2026-12-01T12:00:00.000Z",
        "offset_ms": "12.5",
        "replay": "true",
    }
    assert (live.filename, "replay" in live.fields) == (new.filename, False)


def test_one_connection_serves_many(
    catalog: WatchedCatalog, receiver: Receiver, start: Start
) -> None:
    save_many(catalog, 20)
    start(connectivity_check_interval_s=600.0)
    received = receiver.wait_for(20, PATIENCE_S)
    assert len({request.connection for request in received}) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(reset="after"), "broke the connection off"),
        (Answer(reset="before"), "broke the connection off"),
        (Answer(hang=True), "gave no answer within 0.5 s"),
        (Answer(trickle_s=0.1), "gave no answer within 0.5 s"),
        (text(500, "oops"), "the server answered 500"),
        (text(429, "slowly"), "the server answered 429"),
        (captive_portal(), "a web page answered"),
    ],
    ids=["reset-after", "reset-before", "hang", "trickle", "500", "429", "portal"],
)
def test_faults_are_outlived(
    catalog: WatchedCatalog, receiver: Receiver, start: Start, answer: Answer, words: str
) -> None:
    receiver.answer(answer)
    service = start(timeout_s=0.5)
    image = save(catalog)
    service.submit(image)
    catalog.wait_until(has_error(catalog, image, words))
    assert catalog.rows.image(image.filename).state == "pending"
    receiver.answer(Answer())
    receiver.script([])
    service.retry()
    catalog.wait_until(is_in(catalog, image, "uploaded"))
    assert receiver.bodies == {image.filename: JPEG}


@pytest.mark.parametrize("through_proxy", [False, True])
def test_the_total_deadline_holds_against_a_trickle(
    catalog: WatchedCatalog,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    *,
    through_proxy: bool,
) -> None:
    long_head = {"X-Filling": "x" * 1000}  # it would take minutes
    receiver.answer(Answer(trickle_s=0.4, headers=long_head))
    config = config_for(receiver, timeout_s=1.0)
    if through_proxy:
        monkeypatch.setenv("http_proxy", receiver.url)
        config = replace(config, url=f"http://gate.invalid{UPLOAD_PATH}")
    target = HttpTarget(config, SITE)
    started_s = time.monotonic()
    outcome = target.send(save(catalog), JPEG, replay=False)
    took_s = time.monotonic() - started_s
    target.close()
    assert "gave no answer within 1 s" in str(outcome)
    assert 0.9 < took_s < PATIENCE_S


@pytest.mark.parametrize("location", ["", "http://[", "http://\xff/", "http://a..b:99999/", "://"])
def test_a_redirect_is_a_wrong_set_up_wherever_it_leads(
    catalog: WatchedCatalog, receiver: Receiver, location: str
) -> None:
    receiver.answer(redirect(location))
    target = HttpTarget(config_for(receiver), SITE)
    outcome = target.send(save(catalog), JPEG, replay=False)
    target.close()
    assert isinstance(outcome, Misconfigured)
    assert len(receiver.requests) == 1


def test_a_reply_that_was_lost_is_asked_for_again_with_the_same_key(
    catalog: WatchedCatalog, receiver: Receiver, start: Start
) -> None:
    receiver.script([Answer(drop_reply=True)])
    service = start()
    image = save(catalog)
    service.submit(image)
    first, second = receiver.wait_for(2, PATIENCE_S)
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    catalog.wait_until(is_in(catalog, image, "uploaded"))


def test_a_reply_cut_off_after_its_status_counts(
    catalog: WatchedCatalog, receiver: Receiver, start: Start
) -> None:
    receiver.answer(Answer(headers={"Content-Length": "5000"}))
    service = start()
    image = save(catalog)
    service.submit(image)
    catalog.wait_until(is_in(catalog, image, "uploaded"))
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    "answer", [redirect(), text(401, "no"), text(404, "no"), text(500, "Unexpected field")]
)
def test_wrong_settings_pause_until_somebody_retries(
    catalog: WatchedCatalog, receiver: Receiver, start: Start, answer: Answer
) -> None:
    receiver.answer(answer)
    service = start()
    saved = save_many(catalog, 3)
    for image in saved:
        service.submit(image)
    catalog.wait_until(lambda: service.status().paused is not None)
    receiver.wait_for_requests(2, PATIENCE_S)  # the first and its probe; the next is in a minute
    assert catalog.rows.totals().by_state["pending"] == 3
    assert service.status().online is True
    receiver.answer(Answer())
    service.retry()
    receiver.wait_for(3, PATIENCE_S)
    catalog.wait_until(lambda: catalog.rows.totals().by_state["uploaded"] == 3)
    assert service.status().paused is None
    assert all(r.path.startswith("/api/Common/Upload") for r in receiver.requests)
    assert Counter(r.filename for r in receiver.accepted) == {i.filename: 1 for i in saved}


def test_retry_after_is_obeyed(catalog: WatchedCatalog, receiver: Receiver, start: Start) -> None:
    receiver.script([retry_later(1)])
    service = start()
    image = save(catalog)
    service.submit(image)
    refused, taken = receiver.wait_for_requests(2, PATIENCE_S)
    assert (refused.status, taken.status) == (503, 200)
    assert taken.arrived_s - refused.arrived_s > 0.95


def test_a_server_that_comes_later_gets_all(
    catalog: WatchedCatalog, receiver: Receiver, start: Start
) -> None:
    receiver.stop_listening()
    service = start()
    saved = save_many(catalog, 5)
    for image in saved:
        service.submit(image)
    catalog.wait_until(lambda: service.status().online is False)
    catalog.wait_until(has_error(catalog, saved[0], "cannot reach 127.0.0.1"))
    receiver.listen_again()
    receiver.wait_for(5, PATIENCE_S)
    catalog.wait_until(lambda: catalog.rows.totals().by_state["uploaded"] == 5)
    assert service.status().online is True
    assert Counter(r.filename for r in receiver.accepted) == {i.filename: 1 for i in saved}


@pytest.mark.parametrize("workers", [1, 3])
def test_poison_does_not_stop_a_backlog(
    catalog: WatchedCatalog, receiver: Receiver, start: Start, workers: int
) -> None:
    saved = save_many(catalog, 200)
    poison = {image.filename for image in saved[::20]}
    for name in poison:
        receiver.answer_for(name, text(422, "no plate"))
    start(retry_workers=workers)
    receiver.wait_for(190, PATIENCE_S)
    catalog.wait_until(lambda: catalog.rows.totals().by_state["pending"] == 0)
    by_state = catalog.rows.totals().by_state
    assert (by_state["uploaded"], by_state["rejected"]) == (190, 10)
    assert Counter(r.filename for r in receiver.requests) == {i.filename: 1 for i in saved}
    assert receiver.bodies == {
        image.filename: catalog.read(image.filename)
        for image in saved
        if image.filename not in poison
    }


def test_live_and_backlog_together_send_each_once(
    catalog: WatchedCatalog, receiver: Receiver, start: Start
) -> None:
    save_many(catalog, 40)
    service = start(retry_workers=2, queue_size=5)
    new = [save(catalog, camera="r2", jpeg=JPEG + b"%d" % n) for n in range(30)]
    for image in new:
        service.submit(image)
    receiver.wait_for(70, PATIENCE_S)
    catalog.wait_until(lambda: catalog.rows.totals().by_state["uploaded"] == 70)
    assert set(Counter(r.filename for r in receiver.requests).values()) == {1}


def test_a_stop_in_the_middle_of_an_upload_loses_nothing(
    catalog: WatchedCatalog, receiver: Receiver, start: Start
) -> None:
    receiver.answer(Answer(hang=True))
    service = start(timeout_s=600.0)
    saved = save_many(catalog, 3)
    service.submit(saved[0])
    receiver.wait_for_requests(1, PATIENCE_S)
    started_s = time.monotonic()
    survivors = stop_all(service.workers, 3)
    assert time.monotonic() - started_s < PATIENCE_S
    assert set(survivors) <= {"upload-live", "upload-retry-1"}
    assert catalog.rows.totals().by_state["pending"] == 3
    receiver.stop_listening()  # ends what hangs
    receiver.answer(Answer())
    receiver.listen_again()
    assert stop_all(service.workers, PATIENCE_S) == []
    again = start()
    again.retry()
    receiver.wait_for(3, PATIENCE_S)
    catalog.wait_until(lambda: catalog.rows.totals().by_state["uploaded"] == 3)
    assert Counter(r.filename for r in receiver.accepted) == {i.filename: 1 for i in saved}


def test_uploads_in_the_capture_worker_are_done_before_submit_returns(
    catalog: WatchedCatalog, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(receiver, background=False)
    targets: list[HttpTarget] = []

    def make_target() -> HttpTarget:
        targets.append(HttpTarget(config, SITE))
        return targets[-1]

    service = UploadService(config, catalog, Stats(), make_target=make_target)
    image = save(catalog)
    service.submit(image)
    assert catalog.rows.image(image.filename).state == "uploaded"
    assert len(receiver.accepted) == 1
    for target in targets:
        target.close()
