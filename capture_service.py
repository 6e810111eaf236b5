"""From an edge to a picture safely on disk: one worker per camera, no edge ever dropped."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from camera.frame import Frame, Pin, StreamError
from config import CameraConfig
from runtime.clock import Clock, Moment
from runtime.stats import Stats
from runtime.worker import Worker
from store.catalog import Catalog
from store.errors import StorageError, UnrecordedError
from store.exif import Facts, with_exif
from store.rows import Image, Shot

_log = logging.getLogger(__name__)

_QUEUE_SIZE: Final = 200
_STORAGE_HINT: Final = "Free some space, or check the card."
_DEFECT: Final = "internal error"
_DEFECT_HINT: Final = "See the log."


class FrameSource(Protocol):
    """What a capture needs of a camera."""

    def pin(self, moment_s: float, within_s: float = 0.0) -> Pin:
        """Hold the picture of a moment on the monotonic clock, or the best one around it."""

    def take(self, pin: Pin) -> Frame:
        """Wait for the pinned picture."""

    def drop(self, pin: Pin) -> None:
        """Let go of a pin that nobody will take."""


@dataclass(frozen=True)
class CaptureOutcome:
    """The result of a request: an image, or a reason and a hint. Latency is edge to durable."""

    image: Image | None
    reason: str | None
    hint: str | None
    latency_ms: float


class CaptureTicket:
    """A request under way."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._outcome: CaptureOutcome | None = None

    def resolve(self, outcome: CaptureOutcome) -> None:
        """Give the outcome to whoever waits."""
        self._outcome = outcome
        self._done.set()

    def result(self, timeout_s: float) -> CaptureOutcome | None:
        """Wait for the outcome; `None` when it is not there in time."""
        self._done.wait(timeout_s)
        return self._outcome


@dataclass(frozen=True)
class _Request:
    edge_s: float
    edge: Moment
    source: str
    flags: tuple[str, ...]
    pins: tuple[Pin, ...]
    """The one nearest to the edge, then the others of a burst in the order of their moments."""
    ticket: CaptureTicket

    @property
    def untrusted_s(self) -> float | None:
        """The edge on the monotonic clock if its wall time has to be corrected, else `None`."""
        return None if self.edge.trusted else self.edge_s


class CaptureService:
    """Take requests for all cameras and hand each to its camera's worker.

    `on_saved` is called on that worker for every saved image, before the outcome is given.
    """

    def __init__(
        self,
        cameras: Sequence[CameraConfig],
        sources: Mapping[str, FrameSource],
        catalog: Catalog,
        stats: Stats,
        *,
        site_id: str,
        uploads_enabled: bool,
        on_saved: Callable[[Image], None],
        clock: Clock | None = None,
        burst_ms: tuple[int, ...] = (0,),
        best_within_ms: int = 0,
    ) -> None:
        self._clock = clock or Clock()
        self.workers = {
            camera.key: _CameraWorker(
                camera,
                sources[camera.key],
                catalog,
                stats,
                site_id=site_id,
                uploads_enabled=uploads_enabled,
                on_saved=on_saved,
                burst_ms=burst_ms,
                best_within_ms=best_within_ms,
            )
            for camera in cameras
            if camera.enabled
        }

    def request(
        self,
        camera_key: str,
        *,
        edge_s: float,
        source: str = "gpio",
        flags: tuple[str, ...] = (),
    ) -> CaptureTicket:
        """Pin the edge's pictures now and queue the capture. Never blocks; callable by any thread.

        `edge_s` is on the monotonic clock.
        """
        return self.workers[camera_key].request(edge_s, self._clock.at(edge_s), source, flags)

    def capture_now(self, camera_key: str, source: str, timeout_s: float) -> CaptureOutcome:
        """Capture the present moment and wait for the outcome."""
        started_s = time.monotonic()
        ticket = self.request(camera_key, edge_s=started_s, source=source)
        outcome = ticket.result(timeout_s)
        if outcome is None:
            waited_ms = (time.monotonic() - started_s) * 1000
            return CaptureOutcome(None, "the camera is busy with other captures", None, waited_ms)
        return outcome


class _CameraWorker(Worker):
    def __init__(
        self,
        camera: CameraConfig,
        source: FrameSource,
        catalog: Catalog,
        stats: Stats,
        *,
        site_id: str,
        uploads_enabled: bool,
        on_saved: Callable[[Image], None],
        burst_ms: tuple[int, ...],
        best_within_ms: int,
    ) -> None:
        super().__init__(f"capture-{camera.name}")
        self._camera = camera
        self._source = source
        self._catalog = catalog
        self._stats = stats
        self._site_id = site_id
        self._uploads_enabled = uploads_enabled
        self._on_saved = on_saved
        nearest_ms = min(burst_ms, key=lambda ms: abs(camera.offset_ms + ms))
        ordered_ms = sorted(burst_ms, key=lambda ms: ms != nearest_ms)
        self._moments_s = [(camera.offset_ms + ms) / 1000 for ms in ordered_ms]
        self._within_s = best_within_ms / 1000
        self._requests: queue.Queue[_Request] = queue.Queue(_QUEUE_SIZE)
        self._closed = False

    def request(
        self, edge_s: float, edge: Moment, source: str, flags: tuple[str, ...]
    ) -> CaptureTicket:
        ticket = CaptureTicket()
        pins = tuple(self._source.pin(edge_s + at_s, self._within_s) for at_s in self._moments_s)
        request = _Request(edge_s, edge, source, flags, pins, ticket)
        try:
            self._requests.put_nowait(request)
        except queue.Full:
            self._refuse(request, "too many triggers")
        if self._closed:
            self._refuse_queued("the program is ending")
        self.wake()
        return ticket

    def _refuse(self, request: _Request, reason: str) -> None:
        self._drop_pins(request)
        self._stats.count_failed_capture()
        self._note_failure(None, request, reason)
        request.ticket.resolve(self._failure(request, reason, None))

    def _note_failure(self, event_id: int | None, request: _Request, reason: str) -> None:
        if event_id is not None:
            self._catalog.events.fail(event_id, reason)
            return
        self._catalog.events.fail_unrecorded(
            self._camera.name,
            request.source,
            request.edge.at,
            reason,
            untrusted_s=request.untrusted_s,
        )

    def _refuse_queued(self, reason: str) -> None:
        with suppress(queue.Empty):
            while True:
                self._refuse(self._requests.get_nowait(), reason)

    def step(self) -> float | None:
        """Serve one request."""
        try:
            request = self._requests.get_nowait()
        except queue.Empty:
            return None
        try:
            outcome = self._capture(request)
        finally:
            self._drop_pins(request)
        if outcome.image is None:
            self._stats.count_failed_capture()
            _log.error("camera %s: capture failed: %s", self._camera.name, outcome.reason)
        request.ticket.resolve(outcome)
        return 0.0

    def _drop_pins(self, request: _Request) -> None:
        for pin in request.pins:
            self._source.drop(pin)

    def close(self) -> None:
        """Serve what was accepted before the stop."""
        while not self._requests.empty():
            self._guarded_step()
        self._closed = True
        self._refuse_queued("the program is ending")

    def _capture(self, request: _Request) -> CaptureOutcome:
        event_id = None
        try:
            # While this commits, the next picture comes, which the wanted one has to wait for.
            event_id = self._catalog.events.begin(
                self._camera.name,
                request.source,
                request.edge.at,
                request.flags,
                untrusted_s=request.untrusted_s,
            )
            frame = self._source.take(request.pins[0])
            image = self._save(event_id, request, frame)
        except StreamError as error:
            self._note_failure(event_id, request, error.reason)
            return self._failure(request, error.reason, error.hint)
        except StorageError as error:
            if not isinstance(error, UnrecordedError):
                self._note_failure(event_id, request, str(error))
            return self._failure(request, str(error), _STORAGE_HINT)
        except BaseException:  # a defect, which the worker logs; the edge must not vanish
            self._note_failure(event_id, request, _DEFECT)
            self._stats.count_failed_capture()
            request.ticket.resolve(self._failure(request, _DEFECT, _DEFECT_HINT))
            raise
        latency_ms = (time.monotonic() - request.edge_s) * 1000
        self._stats.count_capture(self._camera.name, latency_ms, image.offset_ms or 0.0)
        _log.info(
            "camera %s saved %s: %s, %+.0f ms from the edge, durable after %.0f ms",
            self._camera.name,
            image.filename,
            request.source,
            image.offset_ms,
            latency_ms,
        )
        self._on_saved(image)
        request.ticket.resolve(outcome := CaptureOutcome(image, None, None, latency_ms))
        self._save_rest(event_id, request, image, frame.shot_s)
        return outcome

    def _save_rest(
        self, event_id: int, request: _Request, first: Image, first_shot_s: float
    ) -> None:
        """Save the burst's other pictures; the event counts as saved even if they fail."""
        saved_s = {first_shot_s}
        for number, pin in enumerate(request.pins[1:], 1):
            try:
                frame = self._source.take(pin)
                if frame.shot_s in saved_s:
                    continue  # the camera has no picture of its own for this moment
                saved_s.add(frame.shot_s)
                image = self._save(event_id, request, frame, first, number)
            except (StreamError, StorageError) as error:
                _log.warning(
                    "camera %s: picture %d of the burst of %s failed: %s",
                    self._camera.name,
                    number,
                    first.filename,
                    error,
                )
                continue
            _log.info("camera %s saved %s", self._camera.name, image.filename)
            self._on_saved(image)

    def _save(
        self,
        event_id: int,
        request: _Request,
        frame: Frame,
        beside: Image | None = None,
        burst: int = 0,
    ) -> Image:
        offset_ms = round((frame.shot_s - request.edge_s) * 1000, 1)
        facts = Facts(request.edge.at, offset_ms, self._site_id, self._camera.name, event_id)
        return self._catalog.save(
            event_id,
            Shot(
                jpeg=with_exif(frame.jpeg, facts),
                thumbnail=frame.thumbnail,
                width=frame.width,
                height=frame.height,
                offset_ms=offset_ms,
                flags=frame.flags,
            ),
            state="pending" if self._uploads_enabled and request.source != "test" else "skipped",
            beside=beside,
            burst=burst,
        )

    def _failure(self, request: _Request, reason: str, hint: str | None) -> CaptureOutcome:
        return CaptureOutcome(None, reason, hint, (time.monotonic() - request.edge_s) * 1000)
