"""The last seconds of a camera's stream, undecoded, and which of its pictures is a moment's.

Pure bookkeeping over coded pictures: no camera, no thread. `CameraClock` tells when each was shot.
"""

from __future__ import annotations

import bisect
import math
import operator
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import Final

from camera.frame import Choice
from rtsp.camera_clock import CameraClock
from rtsp.rtp import CodedPicture

_REORDER_S: Final = 0.5  # B-frames step back by a few frames at most
_GAP_PERIODS: Final = 1.6
_OWN_S: Final = 0.04  # stamps may be noisy; what is further off is not the moment's own picture
_IRREGULAR_SHARE: Final = 0.2  # more wide gaps: the frame rate varies, nothing is lost
_RECENT: Final = 50
_STUCK: Final = 8  # pictures; a few may share a stamp
_BACK_STEPS: Final = 3  # so many among the recent pictures mean B-frames


@dataclass(frozen=True, slots=True)
class _Held:
    """A picture and the clock that tells when it was shot: after a jump there is a new one."""

    picture: CodedPicture
    clock: CameraClock

    @property
    def shot_s(self) -> float:
        return self.clock.shot_s(self.picture.position_s)


@dataclass(slots=True)
class _Gop:
    """A keyframe and the pictures that depend on it, in decoding order."""

    pictures: list[_Held] = field(default_factory=list)
    size_bytes: int = 0


class PacketRing:
    """Hold whole GOPs covering at least `keep_s`, never more than `max_bytes`.

    `follows(keyframe, earlier, later)` tells whether `later` was certainly encoded right after
    `earlier`.
    """

    def __init__(
        self,
        *,
        codec: str,
        keep_s: float = 4.0,
        max_bytes: int = 32_000_000,
        follows: Callable[[bytes, bytes, bytes], bool] | None = None,
    ) -> None:
        self._codec = codec
        self._follows = follows
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self.b_frames = False
        """Pictures come in another order than they are shown in."""
        self._back_steps: deque[int] = deque(maxlen=_BACK_STEPS)
        self._pictures_seen = 0
        self._merged = False
        self.gop_s: float | None = None
        """Duration of the last complete GOP."""
        self.too_short = False
        """`keep_s` does not fit into `max_bytes`: I-frame interval or bit rate is far too high."""
        self._by_arrival = 0
        """Pictures in a row whose time stamps did not move."""
        self._gops: deque[_Gop] = deque()
        self.size_bytes = 0
        """Bytes of all pictures held."""
        self._former_period_s = math.inf
        self._begin_time()

    def _begin_time(self) -> None:
        """Begin a new time base; pictures and their period stay."""
        self._clock = CameraClock()
        self._recent_s: deque[float] = deque(maxlen=_RECENT)
        self._newest_s: float | None = None
        self._previous_newest_s: float | None = None
        self._last_position_s: float | None = None

    def append(self, picture: CodedPicture) -> None:
        """Add one picture as it came."""
        last_s, position_s = self._last_position_s, picture.position_s
        if last_s is not None and picture.continues:
            self._merge(picture)
            return
        self._pictures_seen += 1
        if self._begins_new_time(position_s, picture.arrival_s):
            self._former_period_s = self._regular_period_s()
            self._begin_time()
        self._by_arrival = self._by_arrival + 1 if picture.by_arrival else 0
        self._clock.note(position_s, picture.arrival_s)
        self._recent_s.append(position_s)
        if self._newest_s is None or position_s > self._newest_s:
            self._previous_newest_s, self._newest_s = self._newest_s, position_s
        self._last_position_s = position_s
        held = _Held(picture, self._clock)
        if picture.key:
            if self._gops and self._gops[-1].pictures[0].clock is self._clock:
                self.gop_s = held.shot_s - self._gops[-1].pictures[0].shot_s
            self._gops.append(_Gop())
        if not self._gops:
            return
        gop = self._gops[-1]
        gop.pictures.append(held)
        self._grow(gop, len(picture.data))
        self._trim()

    @property
    def period_s(self) -> float | None:
        """Seconds between two pictures; `None` until a few have come."""
        intervals = self._intervals()
        return median(intervals) * self._clock.rate if len(intervals) > 3 else None

    @property
    def clock_ppm(self) -> int | None:
        """Parts per million by which the stream's time runs fast; `None` while that is unsure."""
        is_known = self._clock.is_sure and not self.stamps_stuck
        return round((1 / self._clock.rate - 1) * 1_000_000) if is_known else None

    @property
    def stamps_stuck(self) -> bool:
        """Tell whether the stream's time stamps do not move."""
        return self._by_arrival >= _STUCK

    @property
    def newest_shot_s(self) -> float | None:
        """When the newest picture was shot, on the monotonic clock."""
        return None if self._newest_s is None else self._clock.shot_s(self._newest_s)

    @property
    def has_pictures(self) -> bool:
        """Tell whether there is a picture that can be decoded: a keyframe has come."""
        return bool(self._gops)

    def covers(self, wanted_s: float) -> bool:
        """Tell whether the picture nearest to `wanted_s` can no longer change."""
        reordered = self._merged or self.b_frames
        settled_s = self._previous_newest_s if reordered else self._newest_s
        return settled_s is not None and self._clock.shot_s(settled_s) >= wanted_s

    def nearest(self, wanted_s: float, within_s: float) -> Choice | None:
        """Choose the picture shot nearest to `wanted_s`, an undamaged one if it is in `within_s`.

        Returns `None` when there is no picture that can be decoded.
        """
        candidates = sorted(
            (
                (abs(shot_s - wanted_s), gop, index)
                for gop in self._gops
                for index, shot_s in _decodable(gop)
            ),
            key=lambda candidate: candidate[0],
        )
        if not candidates:
            return None
        period_s = self._regular_period_s()
        whole = {id(gop): self._undamaged(gop, period_s) for gop in self._gops}
        undamaged = (
            candidate
            for candidate in candidates
            if candidate[0] <= within_s and candidate[2] < whole[id(candidate[1])]
        )
        nearest = candidates[0]
        best = distance_s, gop, index = next(undamaged, nearest)
        [choice] = self._choices(gop, [index], damaged=index >= whole[id(gop)])
        is_far = distance_s > max(_OWN_S, period_s)
        stands_in = best is not nearest or (is_far and self._lacks(wanted_s))
        return replace(choice, stands_in=stands_in)

    def _lacks(self, wanted_s: float) -> bool:
        """Tell whether a moment's own picture was lost, or came before those that are held."""
        held = sorted((one.shot_s, n, one) for n, one in enumerate(self._all_held()))
        place = bisect.bisect_right(held, wanted_s, key=operator.itemgetter(0))
        if not 0 < place < len(held):
            return place == 0
        earlier, later = held[place - 1][2], held[place][2]
        return later.picture.after_loss or later.clock is not earlier.clock

    def _all_held(self) -> Iterator[_Held]:
        return (held for gop in self._gops for held in gop.pictures)

    def around(self, wanted_s: float, within_s: float) -> list[Choice]:
        """Return all undamaged pictures shot no further than `within_s` from `wanted_s`.

        Choices of one GOP share one tuple of pictures, so that it is decoded once.
        """
        found: list[Choice] = []
        period_s = self._regular_period_s()
        for gop in self._gops:
            whole = self._undamaged(gop, period_s)
            indexes = [
                index
                for index, shot_s in _decodable(gop)
                if index < whole and abs(shot_s - wanted_s) <= within_s
            ]
            if indexes:
                found += self._choices(gop, indexes, damaged=False)
        return found

    def _choices(self, gop: _Gop, indexes: Sequence[int], *, damaged: bool) -> list[Choice]:
        """Return choices of one GOP's pictures, all with what it holds up to the last of them."""
        pictures = tuple(held.picture.data for held in gop.pictures[: max(indexes) + 1])
        return [
            Choice(
                codec=self._codec,
                pictures=pictures,
                index=index,
                shot_s=held.shot_s,
                damaged=damaged,
                timing_unsure=held.picture.by_arrival or not held.clock.is_sure,
            )
            for index, held in ((index, gop.pictures[index]) for index in indexes)
        ]

    def _merge(self, part: CodedPicture) -> None:
        """Add another part to the newest picture."""
        self._merged = True
        if self._gops:
            gop = self._gops[-1]
            whole = gop.pictures[-1].picture
            torn = whole.torn or part.torn
            whole = replace(whole, data=whole.data + part.data, torn=torn)
            gop.pictures[-1] = replace(gop.pictures[-1], picture=whole)
            self._grow(gop, len(part.data))

    def _grow(self, gop: _Gop, size_bytes: int) -> None:
        gop.size_bytes += size_bytes
        self.size_bytes += size_bytes

    def _trim(self) -> None:
        while len(self._gops) > 1 and (
            self._kept_without_oldest_s() >= self._keep_s or self.size_bytes > self._max_bytes
        ):
            self.too_short = self._kept_without_oldest_s() < self._keep_s
            self.size_bytes -= self._gops.popleft().size_bytes
        if self.size_bytes > self._max_bytes:
            self.too_short = True
            self._gops.clear()
            self.size_bytes = 0

    def _kept_without_oldest_s(self) -> float:
        return self._gops[-1].pictures[-1].shot_s - self._gops[1].pictures[0].shot_s

    def _begins_new_time(self, position_s: float, arrival_s: float) -> bool:
        """Tell whether the stream's time has jumped; B-frames rightly step back a little."""
        last_s = self._last_position_s
        if last_s is None:
            return False
        if self._clock.contradicts(position_s, arrival_s):
            return True
        step_s = (position_s - last_s) * self._clock.rate
        if step_s <= -_REORDER_S:
            return True
        if step_s < 0 and not self.b_frames:
            self._back_steps.append(self._pictures_seen)
            recent = self._pictures_seen - self._back_steps[0] < _RECENT
            self.b_frames = len(self._back_steps) == _BACK_STEPS and recent
        if self.b_frames or not self._back_steps:
            return False
        was_no_b_frame = self._pictures_seen - self._back_steps[-1] >= _RECENT
        if was_no_b_frame:
            self._back_steps.clear()
        return was_no_b_frame

    def _intervals(self) -> list[float]:
        """Return the seconds between recent pictures, in the order they are shown."""
        shown = sorted(self._recent_s)
        return [later - earlier for earlier, later in pairwise(shown)]

    def _regular_period_s(self) -> float:
        """Return the time between two pictures; without end when that varies or is unknown."""
        intervals = self._intervals()
        if len(intervals) <= 3:
            return self._former_period_s
        period_s = median(intervals)
        wide = sum(interval_s > period_s * _GAP_PERIODS for interval_s in intervals)
        is_irregular = wide > max(1.0, _IRREGULAR_SHARE * len(intervals))
        return math.inf if is_irregular else period_s * self._clock.rate

    def _undamaged(self, gop: _Gop, period_s: float) -> int:
        """Return how many pictures of `gop` come before the first damaged one."""
        torn = (index for index, held in enumerate(gop.pictures) if held.picture.torn)
        return min(next(torn, len(gop.pictures)), self._first_gap(gop, period_s))

    def _first_gap(self, gop: _Gop, period_s: float) -> int:
        """Return the index of the first picture of `gop` whose predecessor is missing."""
        longest_s = period_s * _GAP_PERIODS
        if self._codec != "h264" or longest_s == math.inf:
            return len(gop.pictures)
        shots_s = [held.shot_s for held in gop.pictures]
        ordered = sorted(range(len(shots_s)), key=shots_s.__getitem__)
        gaps = [
            min(ordered[n:])
            for n, (one, other) in enumerate(pairwise(ordered), start=1)
            if shots_s[other] - shots_s[one] > longest_s
            and gop.pictures[one].clock is gop.pictures[other].clock
            and not self._left_out(gop, one, other)
        ]
        return min(gaps, default=len(gop.pictures))

    def _left_out(self, gop: _Gop, earlier: int, later: int) -> bool:
        """Tell whether the camera itself left out the pictures between two others.

        It does when it is overloaded or lowers its rate in the dark; H.264 numbers what it sends.
        """
        if self._follows is None or self.b_frames or later != earlier + 1:
            return False
        first, *pair = (gop.pictures[index].picture.data for index in (0, earlier, later))
        return self._follows(first, *pair)


def _decodable(gop: _Gop) -> Iterator[tuple[int, float]]:
    """Yield index and moment of each picture but those shown before their keyframe."""
    start_s = gop.pictures[0].shot_s
    for index, held in enumerate(gop.pictures):
        if (shot_s := held.shot_s) >= start_s:
            yield index, shot_s
