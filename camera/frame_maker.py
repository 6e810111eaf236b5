"""From packets held for a moment to the frame that goes to disk: decode, look, choose, encode."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from camera.decoder import (
    Bgr,
    Decoded,
    DecodeError,
    EncodeError,
    GopDecoder,
    decode_jpeg,
    encode_jpeg,
    thumbnail,
)
from camera.packet_ring import Choice
from camera.picture_checks import FreezeWatch, Verdict, look_at
from config import CaptureConfig

_UNDECODABLE: Final = "the picture could not be decoded"

_LEFT_S: Final = 0.1  # of decoding, for a capture
_WORTH: Final = 1.3  # times that at least for a whole GOP, else it isn't worth the memory
_AHEAD_SHARE: Final = 1 / 6  # of the time between pictures: more would hold up the other cameras
_SLOWEST_S: Final = 0.01  # a picture; slower machines have no time and no memory for it
_TURN_S: Final = 0.02  # a capture may be waiting
_TELLING: Final = 8  # so many pictures tell how long one takes
_KEYFRAME: Final = 5  # the time of so many pictures more, the decoder's beginning included


@dataclass(frozen=True)
class Frame:
    """A picture as it goes to disk. `shot_s` is on the monotonic clock, sizes are in pixels."""

    jpeg: bytes
    thumbnail: bytes
    width: int
    height: int
    shot_s: float
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Held:
    """A choice and the codec (h264, h265 or mjpeg) to decode it with."""

    choice: Choice
    codec: str


@dataclass(frozen=True)
class _Looked:
    """A decoded picture; `jpeg` is the camera's own, where it sends JPEGs."""

    held: Held
    bgr: Bgr
    verdict: Verdict
    jpeg: bytes | None = None
    complete: bool = True

    @property
    def is_whole(self) -> bool:
        return self.complete and not self.held.choice.damaged and self.verdict.flags != ("smeared",)


@dataclass(frozen=True)
class Shown:
    """A decoded picture; it is `complete` when nothing it builds on is missing."""

    bgr: Bgr
    complete: bool


class PictureError(Exception):
    """No picture can be made of what is held."""


class FrameMaker:
    """Make frames of one camera, one at a time; all cameras' decodes share `decode_slots`."""

    def __init__(
        self,
        settings: CaptureConfig,
        decode_slots: threading.Semaphore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._decode_slots = decode_slots
        self._clock = clock
        self._decoding = threading.Lock()
        self._ahead: EarlyFrame | None = None  # changed with _decoding only
        self._picture_s = 0.0
        self._freeze_watch = FreezeWatch()

    def begin_early(self, held: Held, wait_s: float | None = None) -> EarlyFrame | None:
        """Get ready to decode what is there of a wanted picture: `held` or one still to come.

        It goes on from what was decoded ahead, where that is of use. `None` when others are at it
        for longer than `wait_s`, and where each picture is a JPEG.
        """
        if held.codec == "mjpeg":
            return None
        until_s = None if wait_s is None else time.monotonic() + wait_s
        if not self._decoding.acquire(timeout=-1 if wait_s is None else wait_s):
            return None
        left_s = None if until_s is None else max(0.0, until_s - time.monotonic())
        if not self._decode_slots.acquire(timeout=left_s):
            self._decoding.release()
            return None
        try:
            early, self._ahead = self._ahead, None
            if early is not None and early.may_give(held.choice):
                early.turn_to(held.choice)
                return early
            if early is not None:
                early.free()
            return EarlyFrame(held, self._ended, self._clock)
        except BaseException:
            self._let_others()
            raise

    def decode_ahead(self, newest: Held, period_s: float, gop_s: float) -> bool:
        """Decode some more of the newest GOP, but for what a capture decodes in a moment.

        Does nothing where a whole GOP takes hardly longer, where pictures come nearly as fast as
        they are decoded, or while others decode. Tells whether something was decoded. It costs the
        memory of a decoder until `rest`, whatever `decode_slots` are free.
        """
        if newest.codec == "mjpeg" or newest.choice.damaged:
            return False
        if gop_s * self._picture_s < _WORTH * _LEFT_S * period_s:
            return False
        if not 0 < self._picture_s <= min(_SLOWEST_S, period_s * _AHEAD_SHARE):
            return False
        upto = len(newest.choice.pictures) - int(_LEFT_S / self._picture_s)
        if upto <= 0 or not self._decoding.acquire(blocking=False):
            return False
        try:
            if not self._decode_slots.acquire(blocking=False):
                return False
            try:
                return self._go_on_ahead(newest, upto, int(_TURN_S / self._picture_s))
            finally:
                self._decode_slots.release()
        finally:
            self._decoding.release()

    def _go_on_ahead(self, newest: Held, upto: int, at_once: int) -> bool:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and not ahead.may_become(newest.choice):
            ahead.free()
            ahead = None
        ahead = ahead or EarlyFrame(newest, self._ended, self._clock)
        ahead.turn_to(newest.choice)
        has_decoded = ahead.decode(min(upto, ahead.fed + at_once))
        self._ahead = ahead
        return has_decoded

    def rest(self) -> bool:
        """Free what was decoded ahead and tell whether there was something."""
        if self._ahead is None:  # not a moment to wait for others
            return False
        with self._decoding:
            ahead, self._ahead = self._ahead, None
            if ahead is not None:
                ahead.free()
            return ahead is not None

    def _ended(self, early: EarlyFrame) -> None:
        if early.pictures >= _TELLING:
            had_keyframe = early.pictures == early.fed
            self._picture_s = early.took_s / (early.pictures + _KEYFRAME * had_keyframe)
        self._let_others()

    def _let_others(self) -> None:
        self._decode_slots.release()
        self._decoding.release()

    def frame(
        self,
        candidates: Sequence[Held],
        wanted_s: float,
        *,
        shown: Shown | None = None,
        neighbours: Callable[[], Sequence[Held]] = tuple,
        last_resort: Callable[[], Sequence[Held]] = tuple,
    ) -> Frame:
        """Make a frame of the sharpest candidate, or of a neighbour when all are damaged.

        `shown` is the only candidate's picture where it is decoded already. `neighbours` are asked
        for only when they are needed; the one nearest to `wanted_s` is taken. The `last_resort` is
        for when nothing of all that can be decoded.

        Raises:
            PictureError: nothing can be decoded or encoded.
        """
        with self._decoding, _in_words():
            best = (
                self._best_of(candidates, _sharpness)
                if shown is None
                else _Looked(candidates[0], shown.bgr, look_at(shown.bgr), complete=shown.complete)
            )
            if best is None or not best.is_whole:

                def nearness(looked: _Looked) -> float:
                    return -abs(looked.held.choice.shot_s - wanted_s)

                other = self._best_of(neighbours(), nearness)
                if other is not None and (best is None or other.is_whole):
                    best = other
            if best is None:
                best = self._best_of(last_resort(), _sharpness)
            if best is None:
                raise PictureError(_UNDECODABLE)
            return self._encode(best, wanted_s)

    def _best_of(
        self, candidates: Sequence[Held], rank: Callable[[_Looked], float]
    ) -> _Looked | None:
        """Decode candidates and return the best; other cameras wait for no more than that."""
        if not candidates:
            return None
        with self._decode_slots:
            return _best(_look_at_all(candidates, rank), rank)

    def _encode(self, best: _Looked, wanted_s: float) -> Frame:
        choice = best.held.choice
        height, width = best.bgr.shape[:2]
        flags = {
            "stale": abs(choice.shot_s - wanted_s) * 1000 > self._settings.max_offset_ms,
            "timing_unsure": choice.timing_unsure,
            "damaged": choice.damaged or not best.complete,
            **dict.fromkeys(best.verdict.flags, True),
            "frozen": self._freeze_watch.is_frozen(best.verdict.grey, choice.shot_s),
        }
        return Frame(
            jpeg=best.jpeg or encode_jpeg(best.bgr, self._settings.jpeg_quality),
            thumbnail=thumbnail(best.verdict.small),
            width=width,
            height=height,
            shot_s=choice.shot_s,
            flags=tuple(name for name, raised in flags.items() if raised),
        )


class EarlyFrame:
    """A GOP's beginning, decoded before the wanted picture is there, or is known.

    A capture has to `end` it; what no capture takes is freed.
    """

    def __init__(
        self, held: Held, on_end: Callable[[EarlyFrame], None], clock: Callable[[], float]
    ) -> None:
        self.fed = 0
        """Pictures of the GOP that the decoder has got."""
        self._decoder = GopDecoder(held.codec)
        self._on_end = on_end
        self._clock = clock
        self._found: Decoded | None = None
        self.turn_to(held.choice)

    def turn_to(self, choice: Choice) -> None:
        """Go on for this choice, and count anew what that takes."""
        self._choice = choice
        self._fed_before = self.fed
        self.took_s = 0.0
        """Time in the decoder, for `pictures`."""

    @property
    def pictures(self) -> int:
        """Return how many pictures were decoded for the present choice."""
        return self.fed - self._fed_before

    def decode_while(self, is_waiting: Callable[[], bool]) -> None:
        """Decode what is there as long as there is time for it."""
        while self.fed < len(self._choice.pictures) and is_waiting():
            self._feed()

    def decode(self, upto: int) -> bool:
        """Decode the GOP's first `upto` pictures and tell whether that was something to do."""
        before = self.fed
        self.decode_while(lambda: self.fed < upto)
        return self.fed > before

    def end(self, held: Held | None) -> Shown | None:
        """Return the picture now known to be the wanted one, `None` when it is another."""
        try:
            if held is None or not self.may_become(held.choice):
                self.free()
                return None
            self._choice = held.choice
            self.decode(len(held.choice.pictures))
            self.free()
            found, number = self._found, self._choice.index
            if found is None or found.number != number:
                return None
            return Shown(found.bgr(), self._decoder.is_whole(number))
        except DecodeError:
            return None
        finally:
            self._on_end(self)

    def free(self) -> None:
        """Take what is left in the decoder, and free its memory."""
        self._keep(self._decoder.flush)

    def may_become(self, choice: Choice) -> bool:
        """Tell whether all that was fed is needed for another choice too."""
        fed = self._choice.pictures[: self.fed]
        return len(choice.pictures) >= self.fed and all(
            one is other for one, other in zip(fed, choice.pictures, strict=False)
        )

    def may_give(self, choice: Choice) -> bool:
        """Tell whether a choice's picture is one of those still to come out."""
        return choice.index >= self.fed and self.may_become(choice)

    def _feed(self) -> None:
        picture = self._choice.pictures[self.fed]
        self.fed += 1
        self._keep(lambda: self._decoder.feed(picture))

    def _keep(self, decode: Callable[[], Iterable[Decoded]]) -> None:
        started_s = self._clock()
        for decoded in decode():
            if decoded.number == self._choice.index:
                self._found = decoded
        self.took_s += self._clock() - started_s


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except (DecodeError, EncodeError) as error:
        raise PictureError(str(error)) from error


def _sharpness(looked: _Looked) -> float:
    return looked.verdict.sharpness


def _best(found: Iterable[_Looked], rank: Callable[[_Looked], float]) -> _Looked | None:
    return max(found, key=lambda looked: (looked.is_whole, rank(looked)), default=None)


def _look_at_all(candidates: Sequence[Held], rank: Callable[[_Looked], float]) -> list[_Looked]:
    """Decode candidates, each GOP once, and return the best of each GOP.

    No more than two pictures are kept at a time: each may take 25 MB.
    """
    gops: dict[int, list[Held]] = {}
    for held in candidates:
        gops.setdefault(id(held.choice.pictures), []).append(held)
    found = (_look_at_gop(gop, rank) for gop in gops.values())
    return [looked for looked in found if looked is not None]


def _look_at_gop(gop: Sequence[Held], rank: Callable[[_Looked], float]) -> _Looked | None:
    pictures = gop[0].choice.pictures
    if gop[0].codec == "mjpeg":
        jpeg = pictures[gop[0].choice.index]
        bgr = decode_jpeg(jpeg)
        return None if bgr is None else _Looked(gop[0], bgr, look_at(bgr), jpeg)
    wanted = {held.choice.index: held for held in gop}
    best: _Looked | None = None
    last: Decoded | None = None
    decoder = GopDecoder(gop[0].codec)
    for last in decoder.decode(pictures):
        if last.number in wanted:
            looked = _looked(wanted[last.number], last, complete=decoder.is_whole(last.number))
            best = looked if best is None else _best((best, looked), rank)
    if best is not None:  # with B-frames, what it builds on may have come out after it
        return replace(best, complete=decoder.is_whole(best.held.choice.index))
    return None if last is None else _looked(wanted[max(wanted)], last, complete=False)


def _looked(held: Held, decoded: Decoded, *, complete: bool) -> _Looked:
    bgr = decoded.bgr()
    return _Looked(held, bgr, look_at(bgr), complete=complete)
