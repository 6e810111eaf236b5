"""H.264 and H.265 pictures from RTP payloads: what is in the units says where one begins.

Markers and time stamps are hints only. Source: RFC 6184 (H.264), RFC 7798 (H.265).
"""

from __future__ import annotations

import re
from collections import Counter, deque
from typing import Final

from rtsp.assembler import BuiltPicture
from rtsp.nal_units import START_CODE, identify, is_intra, may_hold_fields

_LARGEST_PICTURE_BYTES: Final = 16_000_000
_START_CODES: Final = re.compile(rb"\x00{2,}\x01")  # not possible inside a NAL unit
_H264_SPS: Final = 7
_H264_STAP_A: Final = 24
_H264_FU_A: Final = 28
_H265_AP: Final = 48
_H265_FU: Final = 49
_ORDER_BYTES: Final = 2
_JUDGED_UNITS: Final = 50
_UNITS_NEEDED: Final = 8  # to know a camera's way
_USUAL_SHARE: Final = 0.95


class NalAssembler:
    """Join payloads of H.264 or H.265 to pictures, one after the other.

    `has_order_numbers`: H.265 payloads carry decoding order numbers (DONL), which are taken off.
    """

    def __init__(
        self, codec: str, parameter_sets: tuple[bytes, ...], *, has_order_numbers: bool = False
    ) -> None:
        self._codec = codec
        self._order_bytes = _ORDER_BYTES if has_order_numbers else 0
        self._sets: dict[int, list[bytes]] = {}
        """The latest of each kind."""
        self._sets_here: dict[int, list[bytes]] = {}
        for unit in parameter_sets:
            self._sets.setdefault(identify(unit, codec).kind, []).append(unit)
        self._sets_come = False
        self._fields_of = (b"", False)
        self._built: list[BuiltPicture] = []
        self._units: list[bytes] = []
        self._fragments: list[bytes] = []
        self._fragment_bytes: dict[int, deque[int]] = {}
        """Of recent units of each kind in fragments of one size; 0 for those in uneven ones."""
        self._size_bytes = 0
        self._torn = False
        self._loss_before = False
        self._continues = False
        self._has_slice = self._has_sps = self._is_key = False

    def add(self, payload: bytes, *, after_loss: bool) -> None:
        """Take the next payload; `after_loss` when packets before it are missing."""
        if after_loss:
            self._lose()
        self._size_bytes += len(payload)
        if len(payload) < 2:
            return  # padding alone, or H.264's end of a sequence
        if self._size_bytes > _LARGEST_PICTURE_BYTES:
            self._torn = True
        elif self._codec == "h264":
            self._add_h264(payload)
        else:
            self._add_h265(payload)

    @property
    def has_begun(self) -> bool:
        """Tell whether a slice is there or under way, not only sets and the like."""
        return self._has_slice or bool(self._fragments)

    @property
    def is_midway(self) -> bool:
        """Tell whether a NAL unit is under way, whatever a marker bit says."""
        return bool(self._fragments)

    def take_built(self) -> list[BuiltPicture]:
        """Return pictures that the beginning of another one has ended."""
        built, self._built = self._built, []
        return built

    def finish(self, *, torn: bool) -> BuiltPicture | None:
        """Return the picture that has come, and begin the next one.

        `None` while there is no slice: what came belongs to the next picture.
        """
        if self._fragments and not torn:  # nothing was lost: its end was just not marked
            self._end_fragment()
        torn |= self._torn
        self._fragments.clear()
        self._torn = False
        if not self._has_slice:  # what has come belongs to the next picture
            self._loss_before |= torn
            self._continues = False
            return None
        key = self._is_key
        units = self._units
        self._sets |= self._sets_here
        if key and not self._continues:
            units = [unit for kind in sorted(self._sets) for unit in self._sets[kind]] + units
        data = b"".join(part for unit in units for part in (START_CODE, unit))
        # After a loss between two pictures only a keyframe is whole; if this camera's keyframes
        # bring their parameter sets, only one that has them.
        stands_alone = key and (self._has_sps or not self._sets_come)
        self._sets_come |= self._has_sps
        is_torn = torn or (self._loss_before and not stands_alone)
        built = BuiltPicture(key, data, is_torn, self._continues, self._loss_before)
        self._units = []
        self._sets_here = {}
        self._size_bytes = 0
        self._loss_before = self._continues = False
        self._has_slice = self._has_sps = self._is_key = False
        return built

    def go_on(self) -> None:
        """Expect more of the picture that `finish` has returned: its time stamp comes again."""
        self._continues = True

    def _lose(self) -> None:
        if self._units or self._sets_here or self._fragments:
            self._torn = True
            self._fragments.clear()
        else:
            self._loss_before = True

    def _add_h264(self, payload: bytes) -> None:
        kind = payload[0] & 0x1F
        if kind == _H264_STAP_A:
            self._add_many(payload, 1, order_bytes=0)
        elif kind == _H264_FU_A:
            header = bytes([payload[0] & 0xE0 | payload[1] & 0x1F])
            self._add_fragment(payload[1], header, payload[2:])
        elif kind < _H264_STAP_A:
            self._add_unit(payload)

    def _add_h265(self, payload: bytes) -> None:
        kind = payload[0] >> 1 & 0x3F
        if kind == _H265_AP:
            self._add_many(payload, 2 + self._order_bytes, order_bytes=self._order_bytes // 2)
        elif kind == _H265_FU and len(payload) > 2:
            header = bytes([payload[0] & 0x81 | (payload[2] & 0x3F) << 1, payload[1]])
            begin = 3 + (self._order_bytes if payload[2] & 0x80 else 0)
            self._add_fragment(payload[2], header, payload[begin:])
        elif kind < _H265_AP:
            self._add_unit(payload[:2] + payload[2 + self._order_bytes :])

    def _add_many(self, payload: bytes, at: int, *, order_bytes: int) -> None:
        while at + 2 < len(payload):
            end = at + 2 + int.from_bytes(payload[at : at + 2], "big")
            self._add_unit(payload[at + 2 : end])
            self._torn |= end > len(payload)
            at = end + order_bytes

    def _add_fragment(self, flags: int, header: bytes, rest: bytes) -> None:
        if flags & 0x80:
            self._torn |= bool(self._fragments)
            self._fragments = [header]
        elif not self._fragments:  # its beginning was lost
            self._torn = True
            return
        self._fragments.append(rest)
        if flags & 0x40:
            self._end_fragment()

    def _has_fields(self) -> bool:
        """Tell whether two first slices may be the fields of one frame."""
        if self._codec != "h264":
            return False
        sets = self._sets_here.get(_H264_SPS) or self._sets.get(_H264_SPS)
        if not sets:
            return False
        if self._fields_of[0] != sets[-1]:
            self._fields_of = (sets[-1], may_hold_fields(sets[-1]))
        return self._fields_of[1]

    def _end_fragment(self) -> None:
        unit = b"".join(self._fragments)
        is_shortened = self._is_shortened()
        self._fragments = []
        self._add_unit(unit)  # may end the picture before
        self._torn |= is_shortened

    def _is_shortened(self) -> bool:
        """Tell whether a packet was cut on its way: decoders don't notice, of H.264 now and then.

        Most cameras fill packets up, so that all fragments but a unit's last are of one size. Only
        units of three fragments and more prove that, and only cameras that do it nearly always are
        judged: others begin with a shorter fragment, or end one where their memory ends.
        """
        header, *pieces, _ = self._fragments
        sizes = [len(piece) for piece in pieces]
        if self._order_bytes or not sizes:
            return False
        recent = self._fragment_bytes.setdefault(header[0], deque(maxlen=_JUDGED_UNITS))
        [(usual, count)] = Counter(recent).most_common(1) or [(0, 0)]
        is_known = count >= max(_UNITS_NEEDED, _USUAL_SHARE * len(recent))
        if len(sizes) > 1:
            recent.append(sizes[0] if len(set(sizes)) == 1 else 0)
        return is_known and min(sizes) < usual

    def _add_unit(self, unit: bytes) -> None:
        """Take a NAL unit; some cameras put several into one, with start codes between them."""
        if START_CODE[1:] not in unit:
            self._take_unit(unit)
            return
        for part in _START_CODES.split(unit):
            if part:
                self._take_unit(part)

    def _take_unit(self, unit: bytes) -> None:
        seen = identify(unit, self._codec)
        if seen.is_slice and seen.is_first and not self._has_fields():
            self._continues = False  # it begins a picture, whatever its stamp
            if self._has_slice and (built := self.finish(torn=False)) is not None:
                self._built.append(built)
        # Parameter sets between two slices would make a decoder begin another picture.
        if seen.is_delimiter or (seen.is_set and self._has_slice):
            return
        if seen.is_slice and not self._has_slice:
            self._torn |= not (seen.is_first or self._continues)
            # Some cameras send no IDR: an intra picture after new sets is as good.
            self._is_key |= self._has_sps and self._codec == "h264" and is_intra(unit)
        self._has_slice |= seen.is_slice
        self._has_sps |= seen.is_sps
        self._is_key |= seen.is_key
        if seen.is_set:
            self._sets_here.setdefault(seen.kind, []).append(unit)
        else:
            self._units.append(unit)
