"""Deliver images: new ones at once, the backlog behind them, nothing given up.

The catalog is the queue. What is held in memory is only a hint of what to send next, so that
losing it loses nothing.
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
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from config import UploadConfig, redact_url
from runtime.stats import Stats
from runtime.worker import Worker
from store.catalog import Catalog
from store.errors import StorageError
from store.rows import Image
from upload.http_target import (
    Deferred,
    Delivered,
    Misconfigured,
    Outcome,
    Rejected,
    UploadTarget,
    first_hop,
)
from upload.line import Claims, Drain, Line, Progress

_log = logging.getLogger(__name__)

_BACKOFF_START_S: Final = 2.0
_BACKOFF_CAP_S: Final = 300.0
_BUSY_CAP_S: Final = 30.0
_REST_CAP_S: Final = 15.0
_PROBE_S: Final = 60.0
_LOOK_AHEAD: Final = 32
_PROBED: Final = 10  # the oldest may be unreadable
_CONNECT_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True)
class UploadStatus:
    """What is known of the uploads; `online` is None until something was tried."""

    enabled: bool
    online: bool | None
    paused: str | None
    hint: str | None
    captive_portal: bool
    queue_size: int
    target: str
    drain: Drain | None


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
    ) -> None:
        self._config = config
        self._catalog = catalog
        self._line = Line(on_return=self.wake)
        self._progress = Progress()
        claims = Claims()
        self._sender = Sender(catalog, stats, self._line, claims)
        self._make_target = make_target
        self._direct = threading.local()  # a target is not for two captures at once
        self._live = LiveWorker(config, self._sender, make_target(), on_idle=self.wake)
        retries = [
            RetryWorker(
                f"upload-retry-{number}",
                config,
                catalog,
                self._sender,
                make_target(),
                self._line,
                self._progress,
                let_pass=lambda: self._live.busy,
                probes=number == 1,
            )
            for number in range(1, config.retry_workers + 1)
        ]
        self._retries = retries
        monitor = ConnectivityMonitor(config, self._line)
        self.workers: list[Worker] = [*retries, self._live, monitor] if config.enabled else []

    def submit(self, image: Image) -> None:
        """Send a new image soon, or now with `BACKGROUND_UPLOAD=false`."""
        if not self._config.enabled or image.state != "pending":
            return
        if self._config.background:
            self._live.submit(image)
        else:
            self._send_now(image)

    def _send_now(self, image: Image) -> None:
        if self._line.online is False:  # a capture shall not wait for what can't come about
            return
        target = getattr(self._direct, "target", None)
        if target is None:
            target = self._direct.target = self._make_target()
        try:
            self._sender.send(target, image, replay=False)
        except StorageError as error:  # the picture is safe, the backlog takes care of it
            _log.error("%s not uploaded yet: %s", image.filename, error)

    def retry(self, filename: str | None = None) -> int:
        """Make one image, or all, due now; return how many."""
        changed = self._catalog.states.retry(filename)
        self._line.resume()
        for worker in self._retries:
            worker.hurry()
        return changed

    def wake(self) -> None:
        """Let the backlog be looked at now."""
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
    """Send one image and write down what came of it. For any thread."""

    def __init__(self, catalog: Catalog, stats: Stats, line: Line, claims: Claims) -> None:
        self._catalog = catalog
        self._stats = stats
        self._line = line
        self.claims = claims

    def send(
        self, target: UploadTarget, image: Image, *, replay: bool, probe: bool = False
    ) -> Outcome | None:
        """Claim an image, send it, and return the outcome; `None` when it was not to be sent."""
        if not self.claims.take(image.id):
            return None
        try:
            return self.send_claimed(target, image, replay=replay, probe=probe)
        finally:
            self.claims.release(image.id)

    def send_claimed(
        self, target: UploadTarget, image: Image, *, replay: bool, probe: bool = False
    ) -> Outcome | None:
        """Do the same with an image that is claimed already."""
        if self._line.paused is not None and not probe:
            return None
        tried = image.attempts
        try:
            image = self._catalog.rows.image(image.filename)
        except KeyError:
            return None
        if image.state != "pending" or image.attempts != tried:  # somebody else was at it
            return None
        jpeg = self._read(image)
        if jpeg is None:
            return None
        if image.sha256 is None:
            image = self._catalog.states.with_sha256(image, jpeg)
        self._catalog.states.check_room_to_note()
        outcome = target.send(image, jpeg, replay=replay)
        self._write_down(image, outcome)
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
            wait_s = backoff_s(image.attempts + 1)
            due_at = datetime.now(UTC) + timedelta(seconds=wait_s)
            self._catalog.states.mark_waiting(image.id, reason, due_at, "file")
            self._stats.count_failed_attempt()
            _log.error("%s not uploaded: %s; next try in %.0f s", image.filename, reason, wait_s)
            return None

    def _write_down(self, image: Image, outcome: Outcome) -> None:
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
        if outcome.cause == "connection":  # not the image waits, the whole line does
            self._catalog.states.mark_waiting(image.id, outcome.reason, None, "connection")
            return
        wait_for: str = outcome.cause
        # That the server has too much to do says nothing about the image.
        wait_s = backoff_s(image.attempts + 1, _BUSY_CAP_S if outcome.busy else _BACKOFF_CAP_S)
        if outcome.retry_after_s is not None:
            wait_for, wait_s = "retry_after", outcome.retry_after_s
        due_at = datetime.now(UTC) + timedelta(seconds=wait_s)
        self._catalog.states.mark_waiting(image.id, outcome.reason, due_at, wait_for)
        _log.warning(
            "%s not uploaded: %s; next try in %.0f s", image.filename, outcome.reason, wait_s
        )


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
        """Tell whether there is a new image to send."""
        return self._sending or not self._queue.empty()

    @property
    def queue_size(self) -> int:
        """Return how many new images wait in memory."""
        return self._queue.qsize()

    def submit(self, image: Image) -> None:
        """Queue a new image; when the queue is full it is simply one of the pending."""
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
        config: UploadConfig,
        catalog: Catalog,
        sender: Sender,
        target: UploadTarget,
        line: Line,
        progress: Progress,
        *,
        let_pass: Callable[[], bool],
        probes: bool,
    ) -> None:
        super().__init__(name)
        self._look_every_s = config.offline_retry_interval_s
        self._catalog = catalog
        self._sender = sender
        self._target = target
        self._line = line
        self._progress = progress
        self._let_pass = let_pass
        self._probes = probes
        self._found: deque[Image] = deque()
        """What to send next; a hint, since each is looked at again before it goes."""
        self._failures_in_a_row = 0
        self._not_before_s = 0.0
        self._waits_for_line = False
        self._hurried = False

    def hurry(self) -> None:
        """End a rest, since somebody asked for it; also one that an attempt under way begins."""
        self._hurried = True
        self.wake()

    def step(self) -> float:
        """Send one image and return when to send the next."""
        if self._let_pass():
            return self._look_every_s  # woken when the new images are through
        hold_s = self._line.hold_s()
        if hold_s > 0:
            return hold_s
        if self._waits_for_line and self._line.online:
            self._waits_for_line = False
            self._failures_in_a_row = 0
            self._not_before_s = 0.0
        if self._hurried:
            self._hurried = False
            self._not_before_s = 0.0
            self._found.clear()
        rest_s = self._not_before_s - time.monotonic()
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
        return self._rest(_PROBE_S)

    def _send_due(self) -> float:
        if not self._found:
            now = datetime.now(UTC)
            due = self._find(now)
            if not due:
                return self._wait_for_due(now)
            self._found.extend(image for image in due if not self._sender.claims.has(image.id))
            if not self._found:  # others send all of them
                return self._look_every_s
        image = self._found.popleft()
        outcome = self._sender.send(self._target, image, replay=True)
        if outcome is None:  # it has gone or was sent meanwhile: on to the next
            return 0.0
        return self._after(outcome)

    def _find(self, now: datetime) -> list[Image]:
        """Return the next images to send.

        After a failure these are such as have not failed themselves: images that the server
        can't take, however many, shall not be all that is tried.
        """
        claimed = self._sender.claims.count()
        self._progress.set_left(self._catalog.rows.totals().by_state["pending"] - claimed)
        return self._catalog.rows.due_uploads(
            now,
            claimed + _LOOK_AHEAD,
            without_wait_first=self._failures_in_a_row > 0,
        )

    def _wait_for_due(self, now: datetime) -> float:
        next_at = self._catalog.rows.next_attempt_at(now)
        if next_at is None:
            return self._look_every_s
        return min(self._look_every_s, max(0.05, (next_at - now).total_seconds()))

    def _after(self, outcome: Outcome) -> float:
        if isinstance(outcome, (Delivered, Rejected)):
            self._progress.note()
        if not isinstance(outcome, Deferred):
            self._failures_in_a_row = 0
            return 0.0
        self._found.clear()
        self._failures_in_a_row += 1
        if outcome.cause == "connection":
            self._waits_for_line = True
            return self._rest(self._look_every_s)
        asked_s = min(self._look_every_s, outcome.retry_after_s or 0.0)
        cap_s = min(self._look_every_s, _REST_CAP_S)
        # On top of what was asked for: else all sites that were told the same come back at once.
        return self._rest(asked_s + backoff_s(self._failures_in_a_row, cap_s))

    def _rest(self, seconds: float) -> float:
        """Send nothing for a while, woken or not."""
        self._not_before_s = time.monotonic() + seconds
        return 0.0 if self._hurried else seconds


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
            with socket.create_connection(self._address, timeout=_CONNECT_TIMEOUT_S):
                pass
        except OSError as error:
            reason = error.strerror or str(error) or "no answer"
            self._line.note_unreachable(f"cannot reach {self._address[0]}: {reason}")
        else:
            self._line.note_reached()
        return self._interval_s


def backoff_s(attempts: int, cap_s: float = _BACKOFF_CAP_S) -> float:
    """Return a wait after so many failures: exponential, capped, with full jitter."""
    longest_s: float = min(cap_s, _BACKOFF_START_S * 2.0 ** min(attempts - 1, 16))
    return random.uniform(0, longest_s)  # noqa: S311 - jitter, not a secret
