"""From a request to an outcome, with a pretend camera and a real catalog."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import capture_service
import config
from camera.frame import Frame, Pin, StreamError
from capture_service import CaptureService
from runtime.clock import Clock
from runtime.stats import Stats
from runtime.worker import Worker, stop_all
from store.catalog import Catalog
from store.errors import StorageError
from store.late_writes import Statements
from store.rows import Image

PATIENCE_S = 5.0
EDGE_S = 7000.0
EDGE_AT = datetime(2023, 10, 27, 3, 50, 32, 250_000, tzinfo=UTC)
JPEG = b"\xff\xd8 a picture \xff\xd9"


class FakeCamera:
    """Answer every pin with a picture `late_s` after the wanted moment, or fail."""

    def __init__(self) -> None:
        self.late_s = 0.004
        self.flags: tuple[str, ...] = ()
        self.error: Exception | None = None
        self.pinned: list[float] = []
        self.within_s = 0.0
        self.pinned_on: list[str] = []
        self.taken: list[float] = []
        self.dropped: list[float] = []
        self.missing: set[float] = set()
        self.gate: threading.Event | None = None
        self.taking = threading.Event()

    def pin(self, moment_s: float, within_s: float = 0.0) -> Pin:
        self.pinned.append(moment_s)
        self.within_s = within_s
        self.pinned_on.append(threading.current_thread().name)
        return Pin(moment_s, within_s, None)

    def take(self, pin: Pin) -> Frame:
        self.taking.set()
        if self.gate is not None:
            assert self.gate.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        self.taken.append(pin.wanted_s)
        if pin.wanted_s in self.missing:
            raise StreamError("no picture")
        return Frame(JPEG, b"small", 1920, 1080, pin.wanted_s + self.late_s, self.flags)

    def drop(self, pin: Pin) -> None:
        self.dropped.append(pin.wanted_s)


@dataclass
class Site:
    service: CaptureService
    camera: FakeCamera
    catalog: Catalog
    stats: Stats
    saved: list[Image]

    @property
    def worker(self) -> Worker:
        return self.service.workers["camera_1"]

    def request(self, **more: object) -> capture_service.CaptureTicket:
        return self.service.request("camera_1", edge_s=EDGE_S, **more)  # type: ignore[arg-type]

    def capture(self, **more: object) -> capture_service.CaptureOutcome:
        ticket = self.request(**more)
        self.worker.step()
        outcome = ticket.result(0)
        assert outcome is not None
        return outcome

    def events(self) -> list[tuple[str, str | None]]:
        return [(event.state, event.reason) for event in self.catalog.rows.events(None, limit=100)]


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[MakeSite]:
    catalogs: list[Catalog] = []

    def make(
        *,
        uploads_enabled: bool = True,
        offset_ms: int = 0,
        enabled: bool = True,
        clock_synchronized: Callable[[], bool | None] = lambda: True,
        burst_ms: tuple[int, ...] = (0,),
        best_within_ms: int = 0,
    ) -> Site:
        cameras = config.parse({}).cameras
        first = replace(cameras[0], offset_ms=offset_ms, enabled=enabled)
        camera, stats, saved = FakeCamera(), Stats(), list[Image]()
        storage = config.StorageConfig(
            image_dir=tmp_path / "images",
            state_dir=tmp_path / "state",
            pending_file=tmp_path / "pending.json",
            min_free_disk_bytes=0,
        )
        catalog = Catalog.open_owner(storage)
        catalogs.append(catalog)
        service = CaptureService(
            [first],
            {"camera_1": camera},
            catalog,
            stats,
            site_id="gate-1",
            uploads_enabled=uploads_enabled,
            on_saved=saved.append,
            clock=Clock(
                synchronized=clock_synchronized,
                wall_s=EDGE_AT.timestamp,
                monotonic_s=lambda: EDGE_S,
            ),
            burst_ms=burst_ms,
            best_within_ms=best_within_ms,
        )
        return Site(service, camera, catalog, stats, saved)

    yield make
    for catalog in catalogs:
        catalog.close()


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    return make_site()


# Saved.


def test_a_saved_picture_is_on_disk_in_the_catalog_counted_and_told(site: Site) -> None:
    outcome = site.capture()
    image = outcome.image
    assert image is not None
    assert (outcome.reason, outcome.hint) == (None, None)
    assert image.filename == "r1_1698378632.jpg"
    stored = site.catalog.read(image.filename)
    assert stored[:2] + stored[4 + int.from_bytes(stored[4:6], "big") :] == JPEG
    assert b'"site": "gate-1", "camera": "r1", "event": 1' in stored
    assert (image.camera, image.source, image.state) == ("r1", "gpio", "pending")
    assert (image.width, image.height, image.size_bytes) == (1920, 1080, len(stored))
    assert (image.captured_at, image.offset_ms, image.flags) == (EDGE_AT, 4.0, ())
    assert image.clock_trusted
    assert site.saved == [image]
    assert site.events() == [("saved", None)]
    seen = site.stats.snapshot()
    assert (seen.captures_by_camera, seen.captures_failed) == ({"r1": 1}, 0)
    assert seen.capture_offset_ms.p50 == 4.0


def test_the_latency_is_from_the_edge_to_the_disk(site: Site) -> None:
    before_s = time.monotonic()
    outcome = site.service.request("camera_1", edge_s=before_s - 1.0)
    site.worker.step()
    result = outcome.result(0)
    assert result is not None
    assert 1000 <= result.latency_ms <= 1000 + (time.monotonic() - before_s) * 1000


@pytest.mark.parametrize("offset_ms", [-400, 0, 500])
def test_the_camera_s_offset_moves_the_wanted_moment(make_site: MakeSite, offset_ms: int) -> None:
    site = make_site(offset_ms=offset_ms)
    image = site.capture().image
    assert image is not None
    assert site.camera.pinned == [pytest.approx(EDGE_S + offset_ms / 1000)]
    assert image.offset_ms == pytest.approx(offset_ms + 4)


@pytest.mark.parametrize(
    ("source", "uploads_enabled", "state"),
    [
        ("gpio", True, "pending"),
        ("manual", True, "pending"),
        ("test", True, "skipped"),
        ("gpio", False, "skipped"),
        ("manual", False, "skipped"),
        ("test", False, "skipped"),
    ],
)
def test_the_source_decides_whether_it_is_uploaded(
    make_site: MakeSite, source: str, uploads_enabled: bool, state: str
) -> None:
    image = make_site(uploads_enabled=uploads_enabled).capture(source=source).image
    assert image is not None
    assert (image.source, image.state) == (source, state)


def test_flags_of_the_edge_and_of_the_frame_are_kept(site: Site) -> None:
    site.camera.flags = ("stale", "damaged")
    image = site.capture(flags=("edge_late",)).image
    assert image is not None
    assert sorted(image.flags) == ["damaged", "edge_late", "stale"]


@pytest.mark.parametrize(("answer", "trusted"), [(True, True), (None, True), (False, False)])
def test_a_clock_that_is_not_synchronised_is_flagged(
    make_site: MakeSite, answer: bool | None, trusted: bool
) -> None:
    image = make_site(clock_synchronized=lambda: answer).capture().image
    assert image is not None
    assert image.clock_trusted is trusted
    assert ("untrusted_clock" in image.flags) is not trusted


def test_the_clock_counts_as_it_was_at_the_edge(make_site: MakeSite) -> None:
    """One that comes right while the picture is made would pass a wrong time off as right."""
    answers = [False]
    site = make_site(clock_synchronized=lambda: answers[-1])
    ticket = site.request()
    answers.append(True)
    site.worker.step()
    outcome = ticket.result(0)
    assert outcome is not None
    assert outcome.image is not None
    assert not outcome.image.clock_trusted


@pytest.mark.parametrize("failing", ["too many triggers", "camera", "disk"])
def test_an_edge_without_a_picture_can_be_corrected_too(
    make_site: MakeSite, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(clock_synchronized=lambda: False)
    if failing == "too many triggers":
        site.worker._requests.maxsize = 1  # type: ignore[attr-defined]
        site.request()
        site.request()
    elif failing == "camera":
        site.camera.error = StreamError("no picture")
        site.capture()
    else:
        with monkeypatch.context() as patch:

            def full(*args: object, **more: object) -> int:
                raise StorageError("the disk is full", full=True)

            patch.setattr(site.catalog.events, "begin", full)
            site.capture()
    site.catalog.record_unrecorded()
    [event] = site.catalog.rows.events("failed", limit=10)
    assert event.flags == ("untrusted_clock",)
    offset_s = EDGE_AT.timestamp() - EDGE_S + 86400
    assert site.catalog.events.correct_times(offset_s, 10) == 1
    [event] = site.catalog.rows.events("failed", limit=10)
    assert (event.edge_at, event.flags) == (EDGE_AT + timedelta(days=1), ())


# Bursts.


def test_a_burst_is_one_event_with_the_nearest_picture_first(make_site: MakeSite) -> None:
    site = make_site(burst_ms=(-400, 0, 400))
    outcome = site.capture()
    assert outcome.image is not None
    stem = outcome.image.filename.removesuffix(".jpg")
    assert [image.filename for image in site.saved] == [
        f"{stem}.jpg",
        f"{stem}_b1.jpg",
        f"{stem}_b2.jpg",
    ]
    assert [image.offset_ms for image in site.saved] == [4.0, -396.0, 404.0]
    assert {image.event_id for image in site.saved} == {1}
    assert site.events() == [("saved", None)]
    assert site.stats.snapshot().captures_succeeded == 1
    assert sorted(site.camera.dropped) == sorted(site.camera.pinned), "no pin is left behind"


def test_two_bursts_of_one_second_keep_their_pictures_together(make_site: MakeSite) -> None:
    site = make_site(burst_ms=(0, 200))
    site.capture()
    site.capture()
    first, second = site.saved[0].filename, site.saved[2].filename
    assert second == first.replace(".jpg", "_2.jpg")
    assert site.saved[3].filename == first.replace(".jpg", "_2_b1.jpg")


def test_the_picture_nearest_to_the_edge_keeps_the_plain_name(make_site: MakeSite) -> None:
    site = make_site(burst_ms=(-400, 0, 400), offset_ms=500)
    site.capture()
    assert [image.offset_ms for image in site.saved] == [104.0, 504.0, 904.0]


def test_a_moment_without_a_picture_of_its_own_is_left_out(make_site: MakeSite) -> None:
    site = make_site(burst_ms=(-400, 0, 400))
    ticket = site.request()
    site.camera.missing = {min(site.camera.pinned)}
    site.worker.step()
    assert ticket.result(0) is not None
    assert [image.offset_ms for image in site.saved] == [4.0, 404.0]
    assert site.events() == [("saved", None)]


def test_a_burst_without_its_first_picture_fails_and_holds_nothing(make_site: MakeSite) -> None:
    site = make_site(burst_ms=(-400, 0, 400))
    site.camera.error = StreamError("no picture")
    assert site.capture().image is None
    assert site.events() == [("failed", "no picture")]
    assert site.saved == []
    assert sorted(site.camera.dropped) == sorted(site.camera.pinned)


def test_two_edges_of_one_second_are_two_pictures(site: Site) -> None:
    names = [image.filename for image in (site.capture().image, site.capture().image) if image]
    assert names == ["r1_1698378632.jpg", "r1_1698378632_2.jpg"]


def test_a_burst_keeps_each_edge_s_own_moment_and_order(site: Site) -> None:
    tickets = [site.service.request("camera_1", edge_s=EDGE_S + n) for n in range(3)]
    assert site.camera.pinned == [EDGE_S, EDGE_S + 1, EDGE_S + 2]
    assert site.camera.taken == []
    while site.worker.step() is not None:
        pass
    assert site.camera.taken == site.camera.pinned
    assert all((outcome := ticket.result(0)) and outcome.image for ticket in tickets)


# Failed.


def test_a_camera_without_a_picture_fails_with_reason_and_hint(site: Site) -> None:
    site.camera.error = StreamError("wrong password (401)", "Check CAMERA_PASSWORD.")
    outcome = site.capture()
    assert (outcome.image, outcome.reason) == (None, "wrong password (401)")
    assert outcome.hint == "Check CAMERA_PASSWORD."
    assert site.events() == [("failed", "wrong password (401)")]
    assert site.stats.snapshot().captures_failed == 1
    assert site.saved == []


def test_a_disk_that_refuses_the_picture_fails_the_event(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> str:
        raise StorageError("cannot save it: the disk is full", full=True)

    monkeypatch.setattr(site.catalog._files, "write", refuse)
    outcome = site.capture()
    assert outcome.reason == "cannot save it: the disk is full"
    assert outcome.hint
    assert site.events() == [("failed", "cannot save it: the disk is full")]
    assert site.stats.snapshot().captures_failed == 1


def test_an_edge_that_can_t_be_recorded_is_recorded_later(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> int:
        raise StorageError("the file system is read-only")

    with monkeypatch.context() as patch:
        patch.setattr(site.catalog.events, "begin", refuse)
        patch.setattr(site.catalog._writes, "commit", refuse)
        outcome = site.capture()
    assert outcome.reason == "the file system is read-only"
    assert site.events() == []
    assert site.catalog.unrecorded == 1
    assert site.capture().image is not None
    assert sorted(state for state, _ in site.events()) == ["failed", "saved"]
    assert site.catalog.unrecorded == 0


def test_a_picture_on_disk_whose_row_has_to_wait_is_not_failed_in_the_catalog(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_commit = site.catalog._writes.commit

    def refuse_images(statements: Statements) -> object:
        if "INTO images" in statements[0][0]:
            raise StorageError("the database is locked")
        return real_commit(statements)

    with monkeypatch.context() as patch:
        patch.setattr(site.catalog._writes, "commit", refuse_images)
        assert site.capture().reason == "the database is locked"
    site.catalog.record_unrecorded()
    assert site.events() == [("saved", None)]


def test_too_many_requests_are_refused_at_once_and_recorded(site: Site) -> None:
    tickets = [site.request() for _ in range(201)]
    outcome = tickets[-1].result(0)
    assert outcome is not None
    assert outcome.reason == "too many triggers"
    assert tickets[0].result(0) is None
    assert site.stats.snapshot().captures_failed == 1
    site.worker.step()
    assert ("failed", "too many triggers") in site.events()
    assert tickets[0].result(0) is not None


def test_a_defect_ends_the_event_and_tells_whoever_waits(site: Site) -> None:
    site.camera.error = ZeroDivisionError("a defect")
    ticket = site.request()
    with pytest.raises(ZeroDivisionError):
        site.worker.step()
    outcome = ticket.result(0)
    assert outcome is not None
    assert outcome.reason == "internal error"
    assert site.events() == [("failed", "internal error")]
    assert site.stats.snapshot().captures_failed == 1


def test_a_defect_before_the_event_is_recorded_too(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **more: object) -> int:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(site.catalog.events, "begin", fail)
    ticket = site.request()
    with pytest.raises(ZeroDivisionError):
        site.worker.step()
    assert ticket.result(0) is not None
    site.catalog.record_unrecorded()
    assert site.events() == [("failed", "internal error")]


# Requests and waiting.


def test_only_enabled_cameras_have_a_worker(make_site: MakeSite) -> None:
    assert make_site(enabled=False).service.workers == {}


def test_the_pin_is_taken_on_the_requester_s_thread_even_while_the_worker_is_busy(
    site: Site,
) -> None:
    site.camera.gate = threading.Event()
    site.worker.start()
    first = site.request()
    assert site.camera.taking.wait(PATIENCE_S)
    second = site.request()
    assert site.camera.pinned_on == [threading.current_thread().name] * 2
    assert second.result(0) is None
    site.camera.gate.set()
    for ticket in (first, second):
        outcome = ticket.result(PATIENCE_S)
        assert outcome is not None
        assert outcome.image is not None
    assert stop_all([site.worker], PATIENCE_S) == []


def test_a_capture_by_hand_is_of_the_present_moment(site: Site) -> None:
    before_s = time.monotonic()
    site.worker.start()
    outcome = site.service.capture_now("camera_1", "manual", PATIENCE_S)
    assert stop_all([site.worker], PATIENCE_S) == []
    assert outcome.image is not None
    assert outcome.image.source == "manual"
    assert before_s <= site.camera.pinned[0] <= time.monotonic()
    moment = EDGE_AT + timedelta(seconds=site.camera.pinned[0] - EDGE_S)
    assert abs(outcome.image.captured_at - moment) < timedelta(milliseconds=1)


def test_a_capture_by_hand_waits_only_so_long(site: Site) -> None:
    outcome = site.service.capture_now("camera_1", "manual", 0.0)
    assert (outcome.image, outcome.reason) == (None, "the camera is busy with other captures")
    site.worker.step()
    assert len(site.saved) == 1


def test_close_serves_what_was_accepted_whatever_fails(site: Site) -> None:
    tickets = [site.request() for _ in range(4)]
    errors = iter([ZeroDivisionError("a defect"), StreamError("down"), None, None])
    take = site.camera.take

    def take_or_fail(pin: Pin) -> Frame:
        site.camera.error = next(errors)
        return take(pin)

    site.camera.take = take_or_fail  # type: ignore[method-assign]
    site.worker.stop()
    site.worker.start()
    assert site.worker.join(PATIENCE_S)
    outcomes = [ticket.result(0) for ticket in tickets]
    assert [outcome and outcome.reason for outcome in outcomes] == [
        *("internal error", "down"),
        *(None, None),
    ]
    assert sorted(state for state, _ in site.events()) == ["failed", "failed", "saved", "saved"]


def test_an_edge_after_the_end_is_refused_not_forgotten(site: Site) -> None:
    site.worker.close()
    outcome = site.request().result(0)
    assert outcome is not None
    assert outcome.reason == "the program is ending"
    site.catalog.record_unrecorded()
    assert site.events() == [("failed", "the program is ending")]


def test_the_best_frame_is_asked_for_within_its_window(make_site: MakeSite) -> None:
    site = make_site(best_within_ms=120)
    site.capture()
    assert site.camera.within_s == 0.12
