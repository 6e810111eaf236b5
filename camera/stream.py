"""A camera's RTSP session kept open, what state it is in, and frames of its moments on demand.

One reader thread a camera receives packets; it decodes but a session's first keyframe, for its
size. A capture's thread decodes a single GOP's beginning, up to the picture it wants; while cars
come, what would take long is decoded before the capture.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass, replace
from typing import Final

from camera.decoder import set_up_opencv, size_of
from camera.frame_maker import Frame, FrameMaker, PictureError, Shown
from camera.pinned_pictures import Moments, NoPictureError, Pin
from config import CameraConfig, CaptureConfig
from rtsp.dialogue import Diagnosis, RtspError
from rtsp.session import RtspSession
from runtime.worker import Worker

_log = logging.getLogger(__name__)

_OPEN_TIMEOUT_S: Final = 10.0  # some cameras need seconds to answer a DESCRIBE
_READ_TIMEOUT_S: Final = 0.5
_REOPEN_S: Final = 4.0
_SHORT_SESSION_S: Final = 2.0
_BACKOFF_START_S: Final = 0.5
_BACKOFF_CAP_S: Final = 1.0
_REFUSED_BACKOFF_S: Final = 60.0  # cameras lock an account after a few wrong passwords
_EARLY_S: Final = 0.3  # a camera that hesitates longer must not keep others from decoding
_CARS_COME_S: Final = 30.0  # after one; at a quiet gate nothing is decoded
_AHEAD_EVERY_S: Final = 0.05
_LONGEST_GOP_S: Final = 4.0
_LONG_GOP_S: Final = 2.5
_CODEC_HINT: Final = (
    "Set the camera's stream to H.264 or H.265 with regular I-frames (no intra refresh)."
)
_SILENT: Final = Diagnosis(
    "silent",
    "answers but sends no picture",
    "Restart the camera; check that its stream is enabled and its network is not overloaded.",
)


class StreamError(Exception):
    """No frame can be had. `reason` says why in words, `hint` what to do."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True)
class StreamStatus:
    """What is known of a camera right now; `state` is one of those in docs/architecture.md."""

    state: str
    error: str | None
    hint: str | None
    since_s: float
    last_frame_age_s: float | None
    fps: float | None
    width: int | None
    height: int | None
    codec: str | None
    gop_s: float | None
    gop_too_long: bool
    ring_too_short: bool
    """The seconds that captures may reach back for don't fit into memory."""
    advice: str | None
    """What to change in the camera's settings."""


class CameraStream(Worker):
    """Keep one camera's session open and answer for any moment of its last seconds.

    `decode_slots` bounds the decodes of all cameras together: each takes time and memory.
    """

    def __init__(
        self, camera: CameraConfig, capture: CaptureConfig, decode_slots: threading.Semaphore
    ) -> None:
        super().__init__(f"camera-{camera.name}")
        self.camera = camera
        self._settings = capture
        self._maker = FrameMaker(capture, decode_slots)
        self._latency_s = camera.latency_ms / 1000
        self._attempts = 0
        self._session: RtspSession | None = None
        self._opened_s = 0.0
        self.decoded_s = 0.0
        """When a picture was last decoded, on the monotonic clock."""
        self._codec = ""
        self._moments = Moments(
            keep_s=_keep_s(camera, capture),
            near_s=capture.max_offset_ms / 1000,
            patience_s=capture.timeout_s,
            is_ending=lambda: self.stopping,
        )
        # Guarded by _lock, since captures and the web read them.
        self._lock = threading.Lock()
        self._state = "connecting"
        self._since_s = time.monotonic()
        self._reason: str | None = None
        self._hint: str | None = None
        self._size: tuple[int, int] | None = None
        set_up_opencv()

    # The reader thread.

    def step(self) -> float | None:
        """Read one packet, or try to open the session."""
        if self._session is None:
            return self._connect()
        return self._read(self._session)

    def close(self) -> None:
        """Close the session and forget its packets."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self._moments.end()

    def _connect(self) -> float:
        url, transport = self.camera.url, self._settings.rtsp_transport
        try:
            session = RtspSession(url, transport, _OPEN_TIMEOUT_S, lambda: not self.stopping)
            self._begin(session)
        except RtspError as error:
            failure = error.diagnosis
            self._attempts += 1
            refused = failure.code == "wrong_password"
            wait_s = _REFUSED_BACKOFF_S if refused else _backoff_s(self._attempts)
            self._enter("down", failure.reason, failure.hint, f"; retrying in {wait_s:.1f} s")
            return wait_s
        return 0.0

    def _begin(self, session: RtspSession) -> None:
        self._session = session
        self._opened_s = time.monotonic()
        self._codec, self._size = session.codec, None
        self._moments.begin(session.codec)

    def _read(self, session: RtspSession) -> float:
        try:
            for picture in session.read(_READ_TIMEOUT_S):
                if picture.key and self._size is None:
                    self._size = size_of(self._codec, picture.data)
                    self.decoded_s = time.monotonic()
                self._moments.append(picture)
        except RtspError as error:
            return self._lose(error.diagnosis.reason, error.diagnosis.hint)
        age_s = self._moments.age_s()
        is_late = self._moments.is_late(age_s)
        if is_late and age_s > _REOPEN_S:
            return self._lose(f"no new picture for {age_s:.0f} s", _SILENT.hint)
        if is_late:
            if self._state == "streaming":
                self._enter("stalled", f"no new picture for {age_s:.1f} s", _SILENT.hint)
        elif self._state != "streaming" and self._moments.live():
            self._enter("streaming", None, None)
            self._attempts = 0
        return 0.0

    def _lose(self, reason: str, hint: str) -> float:
        """End the session and return the seconds to wait before the next one."""
        self.close()
        self._enter("down", reason, hint, "; reconnecting")
        if time.monotonic() - self._opened_s >= _SHORT_SESSION_S:
            return 0.0
        self._attempts += 1
        return _backoff_s(self._attempts)

    def _enter(self, state: str, reason: str | None, hint: str | None, next_step: str = "") -> None:
        with self._lock:
            before, before_reason = self._state, self._reason
            self._state, self._reason, self._hint = state, reason, hint
            if before != state:
                self._since_s = time.monotonic()
        name = self.camera.name
        if state == "streaming":
            codec = self._codec.upper()
            if before == "connecting":
                _log.info("camera %s streaming: %s", name, codec)
            else:
                _log.info("camera %s recovered after %d failed attempts", name, self._attempts)
        elif (state, reason) != (before, before_reason):
            _log.warning("camera %s %s: %s%s", name, state, reason, next_step)

    # Any thread.

    def pin(self, moment_s: float, within_s: float = 0.0) -> Pin:
        """Hold the picture of `moment_s` on the monotonic clock, past or to come.

        With `within_s` it is the sharpest of the pictures that are no further away.
        """
        return self._moments.pin(moment_s + self._latency_s, within_s)

    def drop(self, pin: Pin) -> None:
        """Let go of a pin that nobody will take; one that was taken is none any more."""
        self._moments.drop(pin)

    def take(self, pin: Pin, *, urgent: bool = True) -> Frame:
        """Wait for the pinned picture and return it decoded.

        Blocks until the picture's successor came; on a live stream at most 1 s after the wanted
        moment, on another at most `CAPTURE_TIMEOUT_S`. One that is not `urgent` leaves what was
        decoded ahead to the next that is.

        Raises:
            StreamError: there is no picture near that moment.
        """
        try:
            shown = self._take_early(pin) if urgent and not pin.within_s else None
            self._moments.settle(pin)
            self.decoded_s = time.monotonic()
            frame = self._maker.frame(
                pin.held,
                pin.wanted_s,
                shown=shown,
                neighbours=lambda: self._moments.around(pin),
                last_resort=lambda: self._moments.nearest(pin),
            )
        except NoPictureError as error:
            with self._lock:
                reason = self._reason or "no picture from the camera yet"
                raise StreamError(reason, self._hint or _SILENT.hint) from error
        except PictureError as error:
            raise StreamError(str(error), _CODEC_HINT) from error
        self._size = (frame.width, frame.height)
        return replace(frame, shot_s=frame.shot_s - self._latency_s)

    def _take_early(self, pin: Pin) -> Shown | None:
        """Decode what is there while the pinned picture is still to come."""
        moments, maker = self._moments, self._maker
        moments.settle(pin, pin.settled_s - _EARLY_S - time.monotonic())
        held = moments.best_yet(pin)
        comes_s = pin.settled_s + moments.period_s()
        early = None
        if held is not None:
            early = maker.begin_early(held, max(0.0, comes_s - time.monotonic()))
        if early is None:
            moments.settle(pin)
            early = maker.begin_early(pin.held[0])
        if early is None:
            return None
        until_s = time.monotonic() + _EARLY_S
        try:
            early.decode_while(lambda: not pin.held and time.monotonic() < until_s)
            moments.settle(pin, until_s - time.monotonic())
        finally:
            shown = early.end(pin.held[0] if pin.held else None)
        return shown

    def get_ready(self, captured_s: float) -> float | None:
        """Decode some of what the next capture will need, while cars come.

        Returns the seconds until there is more to do, `None` when there is nothing to do before
        the next capture.
        """
        now_s = time.monotonic()
        if self._codec == "mjpeg" or self._settings.best_within_ms:
            return None
        newest = None
        if now_s - captured_s <= _CARS_COME_S:
            newest = self._moments.newest(now_s + min(0, self.camera.offset_ms) / 1000)
        if newest is None:
            has_changed = self._maker.rest()
        else:
            pulse = self._moments.pulse()
            period_s, gop_s = pulse.period_s or 0.0, pulse.gop_s or 0.0
            has_changed = self._maker.decode_ahead(newest, period_s, gop_s)
        if has_changed:
            self.decoded_s = now_s
        return _AHEAD_EVERY_S if now_s - captured_s <= _CARS_COME_S else None

    def give_up_waiting(self) -> None:
        """Let nobody wait any more for a camera that sends nothing."""
        self._moments.give_up_waiting()

    def status(self) -> StreamStatus:
        """Return what is known right now, the age of the newest picture with it."""
        pulse, size, codec = self._moments.pulse(), self._size, self._codec
        with self._lock:
            state, since_s, reason, hint = self._state, self._since_s, self._reason, self._hint
        age_s = None
        if pulse.newest_shot_s is not None:
            age_s = max(0.0, time.monotonic() - pulse.newest_shot_s)
            if state == "streaming" and self._moments.is_late(age_s):
                state, reason, hint = "stalled", f"no new picture for {age_s:.1f} s", _SILENT.hint
        return StreamStatus(
            state=state,
            error=reason,
            hint=hint,
            since_s=since_s,
            last_frame_age_s=age_s,
            fps=round(1 / pulse.period_s, 1) if pulse.period_s and state == "streaming" else None,
            width=size[0] if size else None,
            height=size[1] if size else None,
            codec=codec or None,
            gop_s=pulse.gop_s,
            gop_too_long=(pulse.gop_s or 0.0) > _LONGEST_GOP_S,
            ring_too_short=pulse.ring_too_short,
            advice=_advice(pulse.gop_s, b_frames=pulse.b_frames),
        )


def _keep_s(camera: CameraConfig, capture: CaptureConfig) -> float:
    """Return how many seconds of stream a capture may reach back for."""
    earliest_ms = camera.offset_ms + min(capture.burst_ms) - capture.best_within_ms
    return _LONGEST_GOP_S + max(0, -earliest_ms) / 1000


def _advice(gop_s: float | None, *, b_frames: bool) -> str | None:
    """Say what would make this camera's pictures come sooner and more exact."""
    advice = []
    if gop_s is not None and gop_s > _LONG_GOP_S:
        advice.append(
            f"Set the I-frame interval (GOP) to 1 s, now it is {gop_s:.0f} s; switch a smart codec"
            " (H.264+, H.265+, Zipstream) off."
        )
    if b_frames:
        advice.append("Switch B-frames off: set them to 0 or the profile to Baseline.")
    return " ".join(advice) or None


def _backoff_s(attempts: int) -> float:
    cap_s: float = min(_BACKOFF_CAP_S, _BACKOFF_START_S * 2.0 ** min(attempts - 1, 10))
    return cap_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
