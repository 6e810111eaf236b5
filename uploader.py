"""Deliver images: new ones at once, the backlog behind them, nothing given up.

The catalog is the queue. What is in memory only hints at what to send next: losing it loses
nothing.
"""

from __future__ import annotations

import logging
import queue
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from config import UploadConfig, redact_url
from runtime.stats import Stats
from runtime.worker import Worker
from store.catalog import Catalog
from store.errors import StorageError
from store.rows import Image
from upload.claims import Claims
from upload.http_target import CONNECT_TIMEOUT_S, first_hop
from upload.line import Line
from upload.outcomes import Deferred, Delivered, Misconfigured, Outcome, Rejected, UploadTarget
from upload.pacing import BacklogPace, Jitter, backoff_s, image_wait_s
from upload.progress import Progress, UploadStatus

_log = logging.getLogger(__name__)

_PROBE_S: Final = 60.0
_LOOK_AHEAD: Final = 32
_PROBED: Final = 10  # the oldest may be unreadable


class UploadService:
    """Own the upload workers and what they share.

    `make_target` gives each worker a target of its own.
    """

    def __init__(
        self,
        config: UploadConfig,
        catalog: Catalog,
        stats: Stats,
        *,
        make_target: Callable[[], UploadTarget],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        jitter: Jitter = random.uniform,
    ) -> None:
        self._config = config
        self._catalog = catalog
        self._line = Line(on_return=self.wake, clock=clock, jitter=jitter)
        self._progress = Progress(clock)
        self._sender = Sender(catalog, stats, self._line, Claims(), now=now, jitter=jitter)
        self._make_target = make_target
        self._direct = threading.local()  # a target is not for two captures at once
        self._live = LiveWorker(config, self._sender, make_target(), on_idle=self.wake)
        self._retries = [
            RetryWorker(
                f"upload-retry-{number}",
                catalog,
                self._sender,
                make_target(),
                self._line,
                self._progress,
                BacklogPace(config.offline_retry_interval_s, clock=clock, jitter=jitter),
                let_pass=lambda: self._live.busy,
                probes=number == 1,
                now=now,
            )
            for number in range(1, config.retry_workers + 1)
        ]
        monitor = ConnectivityMonitor(config, self._line)
        self.workers: list[Worker] = []
        if config.enabled:
            self.workers = [*self._retries, self._live, monitor]

    def submit(self, image: Image) -> None:
        """Send a new image soon, or now with `BACKGROUND_UPLOAD=false`."""
        if not self._config.enabled or image.state != "pending":
            return
        if self._config.background:
            self._live.submit(image)
        else:
            self._send_now(image)

    def _send_now(self, image: Image) -> None:
        if self._line.online is False:  # a capture must not wait for a server that is away
            return
        target = getattr(self._direct, "target", None)
        if target is None:
            target = self._direct.target = self._make_target()
        try:
            self._sender.send(target, image, replay=False)
        except StorageError as error:  # the picture is stored and sent with the backlog
            _log.error("%s not uploaded yet: %s", image.filename, error)

    def retry(self, filename: str | None = None) -> int:
        """Make one image, or all, due now; return how many."""
        changed = self._catalog.states.retry(filename)
        self._line.resume()
        for worker in self._retries:
            worker.hurry()
        return changed

    def wake(self) -> None:
        """Let the retry workers look at once for images to send."""
        for worker in self._retries:
            worker.wake()

    def status(self) -> UploadStatus:
        """Return the state of the uploads. For any thread."""
        paused = self._line.paused
        return UploadStatus(
            enabled=self._config.enabled,
            online=self._line.online,
            paused=paused.reason if paused else None,
            hint=paused.hint if paused else None,
            captive_portal=self._line.captive_portal,
            queue_size=self._live.queue_size,
            target=redact_url(self._config.url),
            drain=self._progress.drain(),
        )


class Sender:
    """Send one image and record the outcome in the catalog. For any thread."""

    def __init__(
        self,
        catalog: Catalog,
        stats: Stats,
        line: Line,
        claims: Claims,
        *,
        now: Callable[[], datetime],
        jitter: Jitter,
    ) -> None:
        self._catalog = catalog
        self._stats = stats
        self._line = line
        self.claims = claims
        self._now = now
        self._jitter = jitter

    def send(
        self, target: UploadTarget, image: Image, *, replay: bool, probe: bool = False
    ) -> Outcome | None:
        """Claim an image, send it, and return the outcome; `None`: it was not sent."""
        if not self.claims.take(image.id):
            return None
        try:
            return self.send_claimed(target, image, replay=replay, probe=probe)
        finally:
            self.claims.release(image.id)

    def send_claimed(
        self, target: UploadTarget, image: Image, *, replay: bool, probe: bool = False
    ) -> Outcome | None:
        """Send an image that the caller has claimed; like `send`."""
        if self._line.paused is not None and not probe:
            return None
        attempts = image.attempts
        try:
            image = self._catalog.rows.image(image.filename)
        except KeyError:
            return None
        if image.state != "pending" or image.attempts != attempts:  # tried meanwhile
            return None
        jpeg = self._read(image)
        if jpeg is None:
            return None
        if image.sha256 is None:
            image = self._catalog.states.with_sha256(image, jpeg)
        self._catalog.states.check_room_to_note()
        outcome = target.send(image, jpeg, replay=replay)
        self._record(image, outcome)
        return outcome

    def _read(self, image: Image) -> bytes | None:
        try:
            return self._catalog.read(image.filename)
        except FileNotFoundError:
            _log.error("%s was pending and its file has gone", image.filename)
            self._catalog.states.mark_missing(image.id)
            return None
        except OSError as error:  # one bad block must not hold up the others
            reason = str(StorageError.of(error, "cannot read the file"))
            wait_s = backoff_s(image.attempts + 1, jitter=self._jitter)
            self._wait(image, reason, wait_s, "file", logging.ERROR)
            self._stats.count_failed_attempt()
            return None

    def _record(self, image: Image, outcome: Outcome) -> None:
        self._note_line(outcome)
        if isinstance(outcome, Delivered):
            self._catalog.states.mark_uploaded(image.id, outcome.location)
            self._stats.count_upload(image.size_bytes)
            _log.info("%s uploaded", image.filename)
            return
        self._stats.count_failed_attempt()
        if isinstance(outcome, Misconfigured):
            self._catalog.states.mark_waiting(image.id, outcome.reason, None, "server")
        elif isinstance(outcome, Rejected):
            self._catalog.states.mark_rejected(image.id, outcome.reason)
            _log.error("%s rejected: %s", image.filename, outcome.reason)
        else:
            self._defer(image, outcome)

    def _note_line(self, outcome: Outcome) -> None:
        deferred = outcome if isinstance(outcome, Deferred) else None
        if deferred is None or deferred.cause == "server":
            self._line.note_reached()
        elif deferred.cause == "connection":
            self._line.note_unreachable(deferred.reason)
        self._line.note_portal(deferred is not None and deferred.captive_portal)
        if isinstance(outcome, Misconfigured):
            self._line.pause(outcome)
        elif deferred is None:
            self._line.resume()

    def _defer(self, image: Image, outcome: Deferred) -> None:
        if outcome.cause == "connection":  # the whole line waits, not this image
            self._catalog.states.mark_waiting(image.id, outcome.reason, None, "connection")
            return
        wait_s = image_wait_s(outcome, image.attempts + 1, self._jitter)
        wait_for = outcome.cause if outcome.retry_after_s is None else "retry_after"
        self._wait(image, outcome.reason, wait_s, wait_for, logging.WARNING)

    def _wait(self, image: Image, reason: str, wait_s: float, wait_for: str, level: int) -> None:
        due_at = self._now() + timedelta(seconds=wait_s)
        self._catalog.states.mark_waiting(image.id, reason, due_at, wait_for)
        _log.log(level, "%s not uploaded: %s; next try in %.0f s", image.filename, reason, wait_s)


class LiveWorker(Worker):
    """Send new images as they come."""

    def __init__(
        self,
        config: UploadConfig,
        sender: Sender,
        target: UploadTarget,
        *,
        on_idle: Callable[[], None],
    ) -> None:
        super().__init__("upload-live")
        self._sender = sender
        self._target = target
        self._on_idle = on_idle
        self._queue: queue.Queue[Image] = queue.Queue(config.queue_size)
        self._sending = False

    @property
    def busy(self) -> bool:
        """Tell whether a new image is being sent or waits to be."""
        return self._sending or not self._queue.empty()

    @property
    def queue_size(self) -> int:
        """Return how many new images wait in memory."""
        return self._queue.qsize()

    def submit(self, image: Image) -> None:
        """Queue a new image; when the queue is full, it is sent with the backlog."""
        if not self._sender.claims.take(image.id):
            return
        try:
            self._queue.put_nowait(image)
        except queue.Full:
            self._sender.claims.release(image.id)
        self.wake()

    def step(self) -> float | None:
        """Send one image."""
        self._sending = True
        try:
            image = self._queue.get_nowait()
        except queue.Empty:
            self._sending = False
            self._on_idle()
            return None
        try:
            self._sender.send_claimed(self._target, image, replay=False)
        finally:
            self._sending = False
            self._sender.claims.release(image.id)
        return 0.0

    def close(self) -> None:
        """Close connections."""
        self._target.close()


class RetryWorker(Worker):
    """Send what is pending and due, oldest first, letting new images pass.

    While uploads are paused only the worker that `probes` sends, one image a minute.
    """

    def __init__(
        self,
        name: str,
        catalog: Catalog,
        sender: Sender,
        target: UploadTarget,
        line: Line,
        progress: Progress,
        pace: BacklogPace,
        *,
        let_pass: Callable[[], bool],
        probes: bool,
        now: Callable[[], datetime],
    ) -> None:
        super().__init__(name)
        self._catalog = catalog
        self._sender = sender
        self._target = target
        self._line = line
        self._progress = progress
        self._pace = pace
        self._let_pass = let_pass
        self._probes = probes
        self._now = now
        self._found: deque[Image] = deque()
        """What to send next; a hint, since each image is read again before it is sent."""

    def hurry(self) -> None:
        """Send at once, without any rest. For any thread."""
        self._pace.hurry()
        self.wake()

    def step(self) -> float:
        """Send one image and return when to send the next."""
        if self._let_pass():
            return self._pace.look_every_s  # woken when the new images are through
        hold_s = self._line.hold_s()
        if hold_s > 0:
            return hold_s
        if self._pace.take_hurry():
            self._found.clear()
        rest_s = self._pace.rest_s(online=self._line.online is True)
        if rest_s > 0:
            return rest_s
        return self._probe() if self._line.paused is not None else self._send_due()

    def close(self) -> None:
        """Close connections."""
        self._target.close()

    def _probe(self) -> float:
        if not self._probes:
            return _PROBE_S  # woken when the pause ends
        for image in self._catalog.rows.oldest_pending(_PROBED):
            if self._sender.send(self._target, image, replay=True, probe=True) is not None:
                break
        if self._line.paused is None:
            return 0.0
        return self._pace.rest(_PROBE_S)

    def _send_due(self) -> float:
        if not self._found:
            now = self._now()
            due = self._find(now)
            if not due:
                return self._wait_for_due(now)
            self._found.extend(image for image in due if not self._sender.claims.has(image.id))
            if not self._found:  # other workers are sending all of them
                return self._pace.look_every_s
        image = self._found.popleft()
        outcome = self._sender.send(self._target, image, replay=True)
        if outcome is None:  # it has gone or was sent meanwhile
            return 0.0
        if isinstance(outcome, Deferred):
            self._found.clear()
        elif isinstance(outcome, (Delivered, Rejected)):
            self._progress.note()
        return self._pace.after(outcome)

    def _find(self, now: datetime) -> list[Image]:
        """Return the next images to send.

        After a failure, images that have not failed yet come first: images that the server can't
        take, however many, must not keep the others.
        """
        claimed = self._sender.claims.count()
        self._progress.set_left(self._catalog.rows.totals().by_state["pending"] - claimed)
        return self._catalog.rows.due_uploads(
            now, claimed + _LOOK_AHEAD, without_wait_first=self._pace.failing
        )

    def _wait_for_due(self, now: datetime) -> float:
        next_at = self._catalog.rows.next_attempt_at(now)
        if next_at is None:
            return self._pace.look_every_s
        return min(self._pace.look_every_s, max(0.05, (next_at - now).total_seconds()))


class ConnectivityMonitor(Worker):
    """Open a connection to the upload server, or the proxy before it, now and then."""

    def __init__(self, config: UploadConfig, line: Line) -> None:
        super().__init__("connectivity")
        self._address = first_hop(config)
        self._interval_s = config.connectivity_check_interval_s
        self._line = line

    def step(self) -> float:
        """Try once."""
        try:
            with socket.create_connection(self._address, timeout=CONNECT_TIMEOUT_S):
                pass
        except OSError as error:
            reason = error.strerror or str(error) or "no answer"
            self._line.note_unreachable(f"cannot reach {self._address[0]}: {reason}")
        else:
            self._line.note_reached()
        return self._interval_s
