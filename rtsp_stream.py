"""A camera's RTSP session kept open, its packets in a ring, and frames decoded on demand.

One reader thread a camera receives packets; it decodes but a session's first keyframe, for its
size. A capture decodes a single GOP's beginning, up to the picture it wants.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from config import CameraConfig, CaptureConfig
from frame_decoder import set_up_opencv, size_of
from frame_maker import EarlyFrame, Frame, FrameMaker, Held, PictureError
from nal_units import follows
from packet_ring import Choice, PacketRing
from rtp import CodedPicture
from rtsp_dialogue import Diagnosis, RtspError
from rtsp_session import RtspSession
from worker import Worker

_log = logging.getLogger(__name__)

_OPEN_TIMEOUT_S: Final = 10.0  # some cameras need seconds to answer a DESCRIBE
_READ_TIMEOUT_S: Final = 0.5
_STALLED_S: Final = 1.5
_REOPEN_S: Final = 4.0
_SHORT_SESSION_S: Final = 2.0
_MISSED_PERIODS: Final = 2.5  # a camera with less than a picture a second may be late by that
_NEXT_PERIODS: Final = 1.5
_BACKOFF_START_S: Final = 0.5
_BACKOFF_CAP_S: Final = 1.0
_REFUSED_BACKOFF_S: Final = 60.0  # cameras lock an account after a few wrong passwords
_LIVE_WAIT_S: Final = 1.0
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


class Pin:
    """A moment somebody wants the picture of, kept from the ring's forgetting.

    `held` is empty until the pictures within `within_s` of the moment can no longer change;
    without `within_s` it is one, the nearest.
    """

    def __init__(self, wanted_s: float, within_s: float, fallback: Held | None) -> None:
        self.wanted_s = wanted_s
        self.within_s = within_s
        self.fallback = fallback
        self.held: Sequence[Held] = ()

    @property
    def settled_s(self) -> float:
        """When the last picture that matters is shot."""
        return self.wanted_s + self.within_s


class CameraStream(Worker):
    """Keep one camera's session open and answer for any moment of its last seconds.

    `decode_slots` bounds the decodes of all cameras together, since each costs memory.
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
        # Guarded by _changed, since captures and the web read them.
        self._changed = threading.Condition()
        self._ring: PacketRing | None = None
        self._pins: list[Pin] = []
        self._state = "connecting"
        self._since_s = time.monotonic()
        self._reason: str | None = None
        self._hint: str | None = None
        self._size: tuple[int, int] | None = None
        self._patient = True
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
        with self._changed:
            for pin in self._pins:
                pin.fallback = self._nearest_of(pin, self._hold(pin.wanted_s))
            self._ring = None
            self._changed.notify_all()

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
        with self._changed:
            self._codec = session.codec
            self._size = None
            keep_s = _keep_s(self.camera, self._settings)
            self._ring = PacketRing(
                codec=session.codec,
                keep_s=keep_s,
                follows=follows if session.codec == "h264" else None,
            )

    def _read(self, session: RtspSession) -> float:
        try:
            for picture in session.read(_READ_TIMEOUT_S):
                self._receive(picture)
        except RtspError as error:
            return self._lose(error.diagnosis.reason, error.diagnosis.hint)
        age_s = self._newest_age_s()
        is_late = self._is_late(age_s)
        if is_late and age_s > _REOPEN_S:
            return self._lose(f"no new picture for {age_s:.0f} s", _SILENT.hint)
        if is_late:
            if self._state == "streaming":
                self._enter("stalled", f"no new picture for {age_s:.1f} s", _SILENT.hint)
        elif self._state != "streaming" and self._live():
            self._enter("streaming", None, None)
            self._attempts = 0
        return 0.0

    def _receive(self, picture: CodedPicture) -> None:
        if picture.key and self._size is None:
            self._size = size_of(self._codec, picture.data)
            self.decoded_s = time.monotonic()
        with self._changed:
            ring = self._ring
            if ring is None:
                return
            ring.append(
                picture.position_s,
                picture.arrival_s,
                picture.key,
                picture.data,
                torn=picture.torn,
            )
            for pin in self._pins:
                if ring.covers(pin.settled_s):
                    pin.held = self._hold_nearer(pin)
            if any(pin.held for pin in self._pins):
                self._pins = [pin for pin in self._pins if not pin.held]
                self._changed.notify_all()

    def _lose(self, reason: str, hint: str) -> float:
        """End the session and return the seconds to wait before the next one."""
        self.close()
        self._enter("down", reason, hint, "; reconnecting")
        if time.monotonic() - self._opened_s >= _SHORT_SESSION_S:
            return 0.0
        self._attempts += 1
        return _backoff_s(self._attempts)

    def _enter(self, state: str, reason: str | None, hint: str | None, next_step: str = "") -> None:
        with self._changed:
            before, before_reason = self._state, self._reason
            self._state, self._reason, self._hint = state, reason, hint
            if before != state:
                self._since_s = time.monotonic()
            self._changed.notify_all()
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
        wanted_s = moment_s + self._latency_s
        with self._changed:
            nearest = self._hold(wanted_s)
            pin = Pin(wanted_s, within_s, nearest[0] if nearest else None)
            if self._ring is not None and self._ring.covers(pin.settled_s):
                pin.held = self._hold(wanted_s, within_s) if within_s else nearest
            if not pin.held:
                self._pins.append(pin)
            return pin

    def drop(self, pin: Pin) -> None:
        """Let go of a pin that nobody will take; one that was taken is none any more."""
        with self._changed:
            if pin in self._pins:
                self._pins.remove(pin)

    def take(self, pin: Pin) -> Frame:
        """Wait for the pinned picture and return it decoded.

        Blocks until the picture's successor came; on a live stream at most 1 s after the wanted
        moment, on another at most `CAPTURE_TIMEOUT_S`.

        Raises:
            StreamError: there is no picture near that moment.
        """
        bgr = None
        self._settle(pin, pin.settled_s - _EARLY_S - time.monotonic())
        early = self._begin_early(pin)
        if early is not None:
            until_s = time.monotonic() + _EARLY_S
            try:
                early.decode_while(lambda: not pin.held and time.monotonic() < until_s)
                self._settle(pin, until_s - time.monotonic())
            finally:
                bgr = early.end(pin.held[0] if pin.held else None)
        self._settle(pin, math.inf)
        self.decoded_s = time.monotonic()
        try:
            frame = self._maker.frame(
                pin.held,
                pin.wanted_s,
                bgr=bgr,
                neighbours=lambda: self._hold_around(pin),
                last_resort=lambda: self._hold_any(pin),
            )
        except PictureError as error:
            raise StreamError(str(error), _CODEC_HINT) from error
        with self._changed:
            self._size = (frame.width, frame.height)
        return replace(frame, shot_s=frame.shot_s - self._latency_s)

    def get_ready(self, captured_s: float) -> float | None:
        """Decode some of what the next capture will need, while cars come.

        Returns the seconds until there is more to do, `None` when the last capture was long ago.
        """
        if time.monotonic() - captured_s > _CARS_COME_S:
            self._maker.rest()
            return None
        with self._changed:
            held = self._hold(time.monotonic()) if self._live() else ()
            period_s = self._period_s()
        if held and held[0].codec != "mjpeg" and self._maker.decode_ahead(held[0], period_s):
            self.decoded_s = time.monotonic()
        return _AHEAD_EVERY_S

    def give_up_waiting(self) -> None:
        """Let nobody wait any more for a camera that sends nothing."""
        with self._changed:
            self._patient = False
            self._changed.notify_all()

    def status(self) -> StreamStatus:
        """Return what is known right now, the age of the newest picture with it."""
        with self._changed:
            ring = self._ring
            shot_s = ring.newest_shot_s if ring is not None else None
            state, reason, hint = self._state, self._reason, self._hint
            age_s = None if shot_s is None else max(0.0, time.monotonic() - shot_s)
            if state == "streaming" and age_s is not None and self._is_late(age_s):
                state, reason, hint = "stalled", f"no new picture for {age_s:.1f} s", _SILENT.hint
            period_s = ring.period_s if ring is not None else None
            gop_s = ring.gop_s if ring is not None else None
            return StreamStatus(
                state=state,
                error=reason,
                hint=hint,
                since_s=self._since_s,
                last_frame_age_s=age_s,
                fps=None if not period_s or state != "streaming" else round(1 / period_s, 1),
                width=self._size[0] if self._size else None,
                height=self._size[1] if self._size else None,
                codec=self._codec or None,
                gop_s=gop_s,
                gop_too_long=(gop_s or 0.0) > _LONGEST_GOP_S,
                ring_too_short=ring is not None and ring.too_short,
                advice=_advice(gop_s, b_frames=ring is not None and ring.has_b_frames),
            )

    def _begin_early(self, pin: Pin) -> EarlyFrame | None:
        """Decode what is there while the pinned picture is still to come, if that helps."""
        with self._changed:
            held = pin.held[0] if pin.held else self._nearest_of(pin, self._hold(pin.wanted_s))
            if pin.within_s or held is None or held.codec == "mjpeg":
                return None
            if not pin.held and not self._live():
                return None
            comes_s = pin.settled_s + self._period_s()
        wait_s = None if pin.held else max(0.0, comes_s - time.monotonic())
        return self._maker.begin_early(held, wait_s)

    def _settle(self, pin: Pin, wait_at_most_s: float) -> None:
        """Wait until the pin holds its picture, or the best one when its own does not come."""
        give_up_s = time.monotonic() + wait_at_most_s
        with self._changed:
            while not pin.held:
                live = self._live()
                patience_s = self._live_wait_s() if live else self._settings.timeout_s
                now_s = time.monotonic()
                wait_s = pin.settled_s + min(patience_s, self._settings.timeout_s) - now_s
                if wait_s <= 0 or self.stopping or not (live or self._patient):
                    self._pins.remove(pin)
                    pin.held = (self._best_late(pin),)
                elif now_s >= give_up_s:
                    return
                else:
                    self._changed.wait(min(wait_s, give_up_s - now_s, 0.1))

    def _live(self) -> bool:
        with self._changed:
            has_pictures = self._ring is not None and self._ring.has_pictures
        return has_pictures and not self._is_late(self._newest_age_s())

    def _newest_age_s(self) -> float:
        with self._changed:
            shot_s = self._ring.newest_shot_s if self._ring is not None else None
        return time.monotonic() - (self._opened_s if shot_s is None else shot_s)

    def _is_late(self, age_s: float) -> bool:
        """Tell whether a newest picture of that age means that the camera has stopped."""
        return age_s > _STALLED_S and age_s > _MISSED_PERIODS * self._period_s()

    def _live_wait_s(self) -> float:
        """Return how long after its moment a live camera's picture may come."""
        return max(_LIVE_WAIT_S, _NEXT_PERIODS * self._period_s())

    def _period_s(self) -> float:
        with self._changed:
            return (self._ring.period_s if self._ring is not None else None) or 0.0

    def _hold(self, wanted_s: float, within_s: float = 0.0) -> tuple[Held, ...]:
        """Return the picture nearest to a moment, or all undamaged ones around it."""
        if self._ring is None:
            return ()
        around = self._ring.around(wanted_s, within_s) if within_s else ()
        nearest = self._ring.nearest(wanted_s, self._settings.max_offset_ms / 1000)
        choices: Sequence[Choice] = around or ((nearest,) if nearest else ())
        return tuple(Held(choice, self._codec) for choice in choices)

    def _hold_nearer(self, pin: Pin) -> Sequence[Held]:
        """Return what the ring has for a pin, or what an earlier session had if that is nearer."""
        held = self._hold(pin.wanted_s, pin.within_s)
        fallback = pin.fallback
        if not held or fallback is None or self._nearest_of(pin, held) is not fallback:
            return held
        distance_s = min(abs(one.choice.shot_s - pin.wanted_s) for one in held)
        return held if distance_s <= self._settings.max_offset_ms / 1000 else (fallback,)

    @staticmethod
    def _nearest_of(pin: Pin, held: Sequence[Held]) -> Held | None:
        """Return the nearest of these and the pin's fallback."""
        found = [one for one in (pin.fallback, *held) if one is not None]
        return min(found, key=lambda one: abs(one.choice.shot_s - pin.wanted_s), default=None)

    def _hold_around(self, pin: Pin) -> tuple[Held, ...]:
        """Return what may stand in for a pinned picture that proves damaged."""
        with self._changed:
            return self._hold(pin.wanted_s, self._settings.max_offset_ms / 1000)

    def _hold_any(self, pin: Pin) -> tuple[Held, ...]:
        """Return the nearest undamaged picture, however far away."""
        with self._changed:
            found = self._ring.nearest(pin.wanted_s, math.inf) if self._ring else None
            return (Held(found, self._codec),) if found else ()

    def _best_late(self, pin: Pin) -> Held:
        """Return the nearest picture there ever was to a moment whose own did not come."""
        best = self._nearest_of(pin, self._hold(pin.wanted_s))
        if best is None or abs(best.choice.shot_s - pin.wanted_s) > self._settings.timeout_s:
            reason = self._reason or "no picture from the camera yet"
            raise StreamError(reason, self._hint or _SILENT.hint)
        return best


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
