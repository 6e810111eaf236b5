"""A camera's RTSP session kept open, its state, and frames of wanted moments.

One reader thread a camera receives pictures and decodes only each session's first keyframe, for
its size. A capture's thread decodes one GOP's beginning, up to the picture it wants.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from camera.decoder import PictureError, set_up_opencv, size_of
from camera.frame import Choice, Frame, Pin, StreamError, StreamStatus
from camera.frame_maker import FrameMaker, Turn
from camera.pinned_pictures import NoPictureError, PinnedPictures, Pulse
from config import CameraConfig, CaptureConfig
from rtsp.errors import SILENT, Diagnosis, RtspError
from rtsp.session import RtspSession
from runtime.worker import Worker

_log = logging.getLogger(__name__)

_OPEN_TIMEOUT_S: Final = 10.0  # some cameras need seconds to answer a DESCRIBE
_READ_TIMEOUT_S: Final = 0.5
_REOPEN_S: Final = 4.0
_SHORT_SESSION_S: Final = 2.0
_MOST_TOLD: Final = 20
_NUMBER: Final = re.compile(r"\d+(\.\d+)?")
_KEYFRAME_S: Final = 5.0  # most cameras send one each 1 to 4 s
_BACKOFF_START_S: Final = 0.5
_BACKOFF_CAP_S: Final = 1.0
_REFUSED_BACKOFF_S: Final = 60.0  # for people to act; cameras lock an account after some refusals
_EARLY_S: Final = 0.3  # a camera that is later must not keep others from decoding
_LONGEST_GOP_S: Final = 4.0
_LONG_GOP_S: Final = 2.5
_WRONG_CLOCK_PPM: Final = 20_000
_CODEC_HINT: Final = (
    "Set the camera's stream to H.264 or H.265 with regular I-frames (no intra refresh)."
)
_NO_KEYFRAME: Final = Diagnosis(
    "no_keyframe",
    "sends pictures but no keyframe (I-frame), so none can be shown",
    "Set the I-frame interval (GOP) to 1 s in the camera; switch intra refresh and smart codecs"
    " (H.264+, H.265+, Zipstream) off.",
)
_JPEG_HINT: Final = (
    "Set the camera's stream to H.264 or H.265, or MJPEG to at most 2040 pixels each way: RTP has"
    " no room for the size of larger ones."
)


class CameraStream(Worker):
    """Keep one camera's session open and answer for any moment of its last seconds.

    `decode_slots` bounds the decodes of all cameras together: each takes time and memory.
    """

    def __init__(
        self,
        camera: CameraConfig,
        capture: CaptureConfig,
        decode_slots: threading.Semaphore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(f"camera-{camera.name}")
        self.camera = camera
        self._clock = clock
        self._settings = capture
        self._maker = FrameMaker(capture, decode_slots)
        self._latency_s = camera.latency_ms / 1000
        self._attempts = 0
        self._session: RtspSession | None = None
        self._opened_s = 0.0
        self.decoded_s = 0.0
        """When a picture was last decoded, on the monotonic clock."""
        self._codec = ""
        self._told: set[str] = set()
        self._has_looked = False
        self._pictures = PinnedPictures(
            keep_s=_keep_s(camera, capture),
            near_s=capture.max_offset_ms / 1000,
            patience_s=capture.timeout_s,
            is_ending=lambda: self.stopping,
            clock=clock,
        )
        # Guarded by _lock, since captures and the web read them.
        self._lock = threading.Lock()
        self._state = "connecting"
        self._reason: str | None = None
        self._hint: str | None = None
        self._size: tuple[int, int] | None = None
        set_up_opencv()

    # The reader thread.

    def step(self) -> float | None:
        """Read the next pictures, or try to open the session."""
        if self._session is None:
            return self._connect()
        return self._read(self._session)

    def close(self) -> None:
        """Close the session and forget its pictures."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self._pictures.end()

    def _connect(self) -> float:
        url, transport = self.camera.url, self._settings.rtsp_transport
        try:
            session = RtspSession(url, transport, _OPEN_TIMEOUT_S, lambda: not self.stopping)
        except RtspError as error:
            failure = error.diagnosis
            self._attempts += 1
            refused = failure.code == "wrong_password"
            wait_s = _REFUSED_BACKOFF_S if refused else _backoff_s(self._attempts)
            self._enter("down", failure.reason, failure.hint, f"; retrying in {wait_s:.1f} s")
            return wait_s
        self._session = session
        self._opened_s = self._clock()
        self._codec, self._size, self._has_looked = session.codec, None, False
        self._pictures.begin(session.codec)
        return 0.0

    def _read(self, session: RtspSession) -> float:
        try:
            for picture in session.read(_READ_TIMEOUT_S):
                if picture.key and not (picture.torn or self._has_looked):
                    self._has_looked = True
                    self._size = size_of(self._codec, picture.data, self._settings.max_pixels)
                    self.decoded_s = self._clock()
                self._pictures.append(picture)
        except RtspError as error:
            return self._lose(error.diagnosis.reason, error.diagnosis.hint)
        except PictureError as error:  # too large: only other settings help
            self.close()
            next_step = f"; retrying in {_REFUSED_BACKOFF_S:.0f} s"
            self._enter("down", str(error), error.hint, next_step)
            return _REFUSED_BACKOFF_S
        age_s = self._pictures.age_s()
        is_late = self._pictures.is_late(age_s)
        if is_late and age_s > _REOPEN_S:
            return self._lose(f"no new picture for {age_s:.0f} s", SILENT.hint)
        if is_late:
            if self._state == "streaming":
                self._enter("stalled", f"no new picture for {age_s:.1f} s", SILENT.hint)
        elif self._state == "streaming":
            if not self._pictures.has_pictures():  # its only keyframe is too old to be kept
                return self._lose(_NO_KEYFRAME.reason, _NO_KEYFRAME.hint)
        else:
            if self._pictures.live():
                self._enter("streaming", None, None)
                self._attempts = 0
            elif self._lacks_keyframe():
                self._enter("connecting", _NO_KEYFRAME.reason, _NO_KEYFRAME.hint)
        return 0.0

    def _lacks_keyframe(self) -> bool:
        """Tell whether pictures have come for a while, and none that a decoder can begin with."""
        waited_s = self._clock() - self._opened_s
        return waited_s > _KEYFRAME_S and self._pictures.pulse().newest_shot_s is not None

    def _lose(self, reason: str, hint: str) -> float:
        """End the session and return the seconds to wait before the next one."""
        self.close()
        self._enter("down", reason, hint, "; reconnecting")
        if self._clock() - self._opened_s >= _SHORT_SESSION_S:
            return 0.0
        self._attempts += 1
        return _backoff_s(self._attempts)

    def _enter(self, state: str, reason: str | None, hint: str | None, next_step: str = "") -> None:
        with self._lock:
            before = self._state
            self._state, self._reason, self._hint = state, reason, hint
        name = self.camera.name
        if state == "streaming":
            self._told.clear()
            if before == "connecting":
                _log.info("camera %s streaming: %s", name, self._codec.upper())
            else:
                _log.info("camera %s recovered after %d failed attempts", name, self._attempts)
        elif self._is_news(f"{state}: {reason}"):
            _log.warning("camera %s %s: %s%s", name, state, reason, next_step)

    def _is_news(self, words: str) -> bool:
        """Tell whether these words, whatever numbers are in them, were not logged since it worked.

        A camera that fails in ever other ways must not fill the log.
        """
        cause = _NUMBER.sub("#", words)
        if cause in self._told or len(self._told) >= _MOST_TOLD:
            return False
        self._told.add(cause)
        return True

    # Any thread.

    def pin(self, moment_s: float, within_s: float = 0.0) -> Pin:
        """Keep the picture of `moment_s` on the monotonic clock, past or to come.

        With `within_s` it is the sharpest picture at most that far away.
        """
        return self._pictures.pin(moment_s + self._latency_s, within_s)

    def drop(self, pin: Pin) -> None:
        """Let go of a pin that nobody will take."""
        self._pictures.drop(pin)

    def take(self, pin: Pin, *, urgent: bool = True) -> Frame:
        """Wait for the pinned picture and return it decoded.

        Blocks until the next picture has come: on a live stream for about 1 s after the wanted
        moment at most, otherwise for `CAPTURE_TIMEOUT_S`. An `urgent` picture's GOP is decoded
        while the picture itself is still to come.

        Raises:
            StreamError: there is no picture near that moment.
        """
        try:
            with self._maker.turn() as turn:
                for nearest in self._pictures.until_settled(pin):
                    if urgent and not pin.within_s:
                        self._decode_early(turn, pin, nearest)
                self.decoded_s = self._clock()
                frame = turn.frame(
                    pin.choices,
                    pin.wanted_s,
                    neighbours=lambda: self._pictures.around(pin),
                    last_resort=lambda: self._pictures.nearest(pin),
                )
        except NoPictureError as error:
            with self._lock:
                reason = self._reason or "no picture from the camera yet"
                raise StreamError(reason, self._hint or SILENT.hint) from error
        except PictureError as error:
            hint = _JPEG_HINT if self._codec == "mjpeg" else _CODEC_HINT
            raise StreamError(str(error), error.hint or hint) from error
        self._size = (frame.width, frame.height)
        return replace(frame, shot_s=frame.shot_s - self._latency_s)

    def _decode_early(self, turn: Turn, pin: Pin, nearest: Choice | None) -> None:
        """Decode close to the pinned moment only, and what is live: others may want to decode."""

        def may_go_on() -> bool:
            return not pin.choices and self._clock() - pin.settled_s <= _EARLY_S

        comes_in_s = pin.settled_s - self._clock()
        if nearest is None or abs(comes_in_s) > _EARLY_S:
            turn.give_up()
        else:
            turn.decode_early(nearest, comes_in_s + self._pictures.period_s(), may_go_on)

    def give_up_waiting(self) -> None:
        """Stop waiting for a camera that sends nothing."""
        self._pictures.give_up_waiting()

    def status(self) -> StreamStatus:
        """Return what is known right now."""
        pulse, size, codec = self._pictures.pulse(), self._size, self._codec
        with self._lock:
            state, reason, hint = self._state, self._reason, self._hint
        age_s = None
        if pulse.newest_shot_s is not None:
            age_s = max(0.0, self._clock() - pulse.newest_shot_s)
            if state == "streaming" and self._pictures.is_late(age_s):
                state, reason, hint = "stalled", f"no new picture for {age_s:.1f} s", SILENT.hint
        return StreamStatus(
            state=state,
            error=reason,
            hint=hint,
            last_frame_age_s=age_s,
            fps=round(1 / pulse.period_s, 1) if pulse.period_s and state == "streaming" else None,
            width=size[0] if size else None,
            height=size[1] if size else None,
            codec=codec or None,
            gop_s=pulse.gop_s,
            gop_too_long=(pulse.gop_s or 0.0) > _LONGEST_GOP_S,
            ring_too_short=pulse.ring_too_short,
            clock_ppm=pulse.clock_ppm,
            advice=_advice(pulse),
        )


def _keep_s(camera: CameraConfig, capture: CaptureConfig) -> float:
    """Return how many seconds of stream a capture may reach back for."""
    earliest_ms = camera.offset_ms + min(capture.burst_ms) - capture.best_within_ms
    return _LONGEST_GOP_S + max(0, -earliest_ms) / 1000


def _advice(pulse: Pulse) -> str | None:
    """Say what would make this camera's pictures come sooner and more exact."""
    advice = []
    if pulse.gop_s is not None and pulse.gop_s > _LONG_GOP_S:
        advice.append(
            f"Set the I-frame interval (GOP) to 1 s, now it is {pulse.gop_s:.0f} s; switch a smart"
            " codec (H.264+, H.265+, Zipstream) off."
        )
    if pulse.b_frames:
        advice.append("Switch B-frames off: set them to 0 or the profile to Baseline.")
    if abs(pulse.clock_ppm or 0) > _WRONG_CLOCK_PPM:
        way = "fast" if (pulse.clock_ppm or 0) > 0 else "slow"
        advice.append(
            f"Its time stamps run {abs(pulse.clock_ppm or 0) / 10_000:.0f} % too {way}: set a frame"
            " rate that it can hold, or look for newer firmware. Pictures are corrected for it."
        )
    if pulse.stamps_stuck:
        advice.append(
            "Its time stamps do not move, so that the moments of its pictures are unsure: look for"
            " newer firmware."
        )
    return " ".join(advice) or None


def _backoff_s(attempts: int) -> float:
    cap_s = min(_BACKOFF_CAP_S, _BACKOFF_START_S * 2.0 ** min(attempts - 1, 10))
    return cap_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
