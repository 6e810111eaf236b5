"""From the pictures chosen for a moment to the frame that goes to disk: decode, judge, encode."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from camera.decoder import (
    Bgr,
    Decoded,
    GopDecoder,
    PictureError,
    decode_jpeg,
    encode_jpeg,
    thumbnail,
)
from camera.frame import Choice, Frame
from camera.picture_checks import FreezeWatch, Verdict, judge
from config import CaptureConfig


@dataclass(frozen=True)
class _Judged:
    """A decoded and judged picture; `jpeg` is the camera's own, where it sends JPEGs.

    It is `complete` when nothing it depends on is missing.
    """

    choice: Choice
    bgr: Bgr
    verdict: Verdict
    complete: bool
    jpeg: bytes | None

    @property
    def is_whole(self) -> bool:
        return self.complete and not self.choice.damaged and self.verdict.flags != ("smeared",)


_Rank = Callable[[_Judged], float]


class FrameMaker:
    """Make frames of one camera, one at a time; all cameras' decodes share `decode_slots`."""

    def __init__(self, settings: CaptureConfig, decode_slots: threading.Semaphore) -> None:
        self._settings = settings
        self._decode_slots = decode_slots
        self._camera = threading.Lock()
        self._freeze_watch = FreezeWatch()

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """Give one frame its turn at the decoder, from its first decoding to the end."""
        max_pixels = self._settings.max_pixels
        turn = Turn(self._camera, self._decode_slots, self._encode, max_pixels)
        try:
            yield turn
        finally:
            turn.give_up()

    def _encode(self, best: _Judged, wanted_s: float) -> Frame:
        choice = best.choice
        height, width = best.bgr.shape[:2]
        offset_ms = abs(choice.shot_s - wanted_s) * 1000
        flags = {
            "stale": choice.stands_in or offset_ms > self._settings.max_offset_ms,
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


class Turn:
    """One frame's turn: no other frame of this camera is made until it ends.

    The decode slot is held only while there is something to decode, or soon will be.
    """

    def __init__(
        self,
        camera: threading.Lock,
        decode_slots: threading.Semaphore,
        encode: Callable[[_Judged, float], Frame],
        max_pixels: int,
    ) -> None:
        self._camera = camera
        self._decode_slots = decode_slots
        self._encode = encode
        self._max_pixels = max_pixels
        self._has_camera = self._has_slot = False
        self._early: _EarlyGop | None = None

    def decode_early(self, choice: Choice, wait_s: float, may_go_on: Callable[[], bool]) -> None:
        """Decode a GOP up to `choice` while the wanted picture is to come, as long as it may go on.

        Does nothing when others keep the decoder for longer than `wait_s`, or with JPEGs.
        """
        if choice.codec == "mjpeg" or not self._acquire(wait_s):
            return
        if self._early is not None and not self._early.leads_to(choice):
            self._early.free()
            self._early = None
        if self._early is None:
            self._early = _EarlyGop(choice.codec, self._max_pixels)
        self._early.decode(choice, may_go_on)

    def give_up(self) -> None:
        """Let others decode; discard what was decoded early."""
        try:
            self._end_early()
        finally:
            if self._has_camera:
                self._has_camera = False
                self._camera.release()

    def frame(
        self,
        candidates: Sequence[Choice],
        wanted_s: float,
        *,
        neighbours: Callable[[], Sequence[Choice]] = tuple,
        last_resort: Callable[[], Sequence[Choice]] = tuple,
    ) -> Frame:
        """Make a frame of the sharpest candidate, or of a neighbour when all are damaged.

        `neighbours` is called only when needed; of these the one nearest to `wanted_s` is taken.
        `last_resort` is called when none of them can be decoded either.

        Raises:
            PictureError: nothing can be decoded or encoded.
        """
        if not self._has_camera:
            self._has_camera = self._camera.acquire()

        def nearness(judged: _Judged) -> float:
            return -abs(judged.choice.shot_s - wanted_s)

        best = self._finish_early(candidates) or self._best_of(candidates, _sharpness)
        if best is None or not best.is_whole:
            other = self._best_of(neighbours(), nearness)
            if other is not None and (best is None or other.is_whole):
                is_farther = best is None or nearness(other) < nearness(best)
                best = replace(other, choice=replace(other.choice, stands_in=is_farther))
        best = best or self._best_of(last_resort(), _sharpness)
        if best is None:
            raise PictureError("the picture could not be decoded")
        return self._encode(best, wanted_s)

    def _acquire(self, wait_s: float) -> bool:
        """Get the camera and a decode slot, or neither."""
        until_s = time.monotonic() + wait_s
        if not self._has_camera:
            self._has_camera = self._camera.acquire(timeout=max(0.0, wait_s))
        if self._has_camera and not self._has_slot:
            left_s = max(0.0, until_s - time.monotonic())
            self._has_slot = self._decode_slots.acquire(timeout=left_s)
        if not self._has_slot:
            self.give_up()
        return self._has_slot

    def _finish_early(self, candidates: Sequence[Choice]) -> _Judged | None:
        """Decode on to the only candidate, if what was decoded early leads to it."""
        early = self._early
        if early is None:
            return None
        try:
            leads = len(candidates) == 1 and early.leads_to(candidates[0])
            found = early.finish(candidates[0]) if leads else None
        except PictureError:
            return None
        finally:
            self._end_early()
        return None if found is None else _judged(candidates[0], *found)

    def _end_early(self) -> None:
        early, self._early = self._early, None
        try:
            if early is not None:
                early.free()
        finally:
            if self._has_slot:
                self._has_slot = False
                self._decode_slots.release()

    def _best_of(self, candidates: Sequence[Choice], rank: _Rank) -> _Judged | None:
        """Decode candidates and return the best; holds the decode slot only meanwhile."""
        if not candidates:
            return None
        with self._decode_slots:
            return _best(_judge_all(candidates, rank, self._max_pixels), rank)


class _EarlyGop:
    """A GOP's beginning, decoded before the wanted picture has come or is known."""

    def __init__(self, codec: str, max_pixels: int) -> None:
        self._decoder: GopDecoder | None = GopDecoder(codec, max_pixels)
        self._fed: list[bytes] = []
        self._wanted = 0
        self._found: Decoded | None = None

    def leads_to(self, choice: Choice) -> bool:
        """Tell whether what was decoded begins a choice, and its picture can still come out."""
        fed = self._fed
        is_beginning = len(choice.pictures) >= len(fed) and all(
            one is other for one, other in zip(fed, choice.pictures, strict=False)
        )
        return is_beginning and (choice.index >= len(fed) or choice.index == self._wanted)

    def decode(self, choice: Choice, may_go_on: Callable[[], bool]) -> None:
        """Decode on up to a choice; between two pictures it may be told to stop."""
        assert self._decoder is not None  # noqa: S101 - it is not used after free()
        self._wanted = choice.index
        for picture in choice.pictures[len(self._fed) :]:
            if not may_go_on():
                return
            self._fed.append(picture)
            self._keep(self._decoder.feed(picture))

    def finish(self, choice: Choice) -> tuple[Bgr, bool] | None:
        """Return the chosen picture and whether it is complete; `None` when it does not come out.

        Raises:
            PictureError: its colours can't be converted.
        """
        decoder = self._decoder
        self.decode(choice, lambda: True)
        self.free()
        if decoder is None or self._found is None or self._found.number != choice.index:
            return None
        return self._found.bgr(), decoder.is_whole(choice.index)

    def free(self) -> None:
        """Take what is left in the decoder and free its memory."""
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            self._keep(decoder.flush())

    def _keep(self, decoded: Iterable[Decoded]) -> None:
        for one in decoded:
            if one.number == self._wanted:
                self._found = one


def _sharpness(judged: _Judged) -> float:
    return judged.verdict.sharpness


def _best(found: Iterable[_Judged], rank: _Rank) -> _Judged | None:
    return max(found, key=lambda judged: (judged.is_whole, rank(judged)), default=None)


def _judge_all(candidates: Sequence[Choice], rank: _Rank, max_pixels: int) -> list[_Judged]:
    """Decode candidates, each GOP once, and return the best of each GOP.

    At most two pictures of a GOP are kept at a time: each may take 25 MB.
    """
    gops: dict[int, list[Choice]] = {}
    for choice in candidates:
        gops.setdefault(id(choice.pictures), []).append(choice)
    found = (_judge_gop(gop, rank, max_pixels) for gop in gops.values())
    return [judged for judged in found if judged is not None]


def _judge_gop(gop: Sequence[Choice], rank: _Rank, max_pixels: int) -> _Judged | None:
    """Return the best of one GOP's choices, or the last picture that comes out when none does."""
    pictures = gop[0].pictures
    if gop[0].codec == "mjpeg":
        jpeg = pictures[gop[0].index]
        found = decode_jpeg(jpeg, max_pixels)
        return None if found is None else _judged(gop[0], *found, jpeg)
    wanted = {choice.index: choice for choice in gop}
    best: _Judged | None = None
    last: Decoded | None = None
    decoder = GopDecoder(gop[0].codec, max_pixels)
    for last in decoder.decode(pictures):
        if last.number in wanted:
            complete = decoder.is_whole(last.number)
            judged = _judged(wanted[last.number], last.bgr(), complete)
            best = judged if best is None else _best((best, judged), rank)
    if best is not None:  # with B-frames, what it depends on may have come out after it
        return replace(best, complete=decoder.is_whole(best.choice.index))
    return None if last is None else _judged(wanted[max(wanted)], last.bgr(), complete=False)


def _judged(choice: Choice, bgr: Bgr, complete: bool = True, jpeg: bytes | None = None) -> _Judged:
    return _Judged(choice, bgr, judge(bgr), complete, jpeg)
