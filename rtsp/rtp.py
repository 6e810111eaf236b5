"""RTP packets of one video stream joined to pictures, with losses detected.

Source: RFC 3550 (RTP), RFC 6184 (H.264), RFC 7798 (H.265), RFC 2435 (JPEG, in `rtp_jpeg`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from rtsp.nal_units import START_CODE, identify, is_intra, may_hold_fields
from rtsp.rtp_jpeg import JpegAssembler

_HEADER_BYTES: Final = 12
_LARGEST_PICTURE_BYTES: Final = 16_000_000
_NEAR: Final = 1 << 15
_REORDER_S: Final = 0.05  # on a LAN packets are out of order by milliseconds at most
_RESTARTED: Final = 3000  # a sequence number that far back is a restart, not an old packet
_START_CODES: Final = re.compile(rb"\x00{2,}\x01")  # not possible inside a NAL unit
_H264_SPS: Final = 7
_H264_STAP_A: Final = 24
_H264_FU_A: Final = 28
_H265_AP: Final = 48
_H265_FU: Final = 49


@dataclass(frozen=True, slots=True)
class CodedPicture:
    """One picture as it came.

    `position_s` is the stream's own time, `arrival_s` the monotonic clock when its last packet
    came. `data` is Annex B with all parameter sets before a keyframe, or a JPEG. `torn`: a part of
    it, or something lost right before it that it depends on, is missing. `continues`: it is more of
    the picture before it, whose end seemed to have come.
    """

    position_s: float
    arrival_s: float
    key: bool
    data: bytes
    torn: bool
    continues: bool = False


class RtpReceiver:
    """Take packets of one source in the order they arrive.

    At most `reorder` packets are held back while an earlier one may still come; 0 over TCP.
    `size` (width, height) in pixels is for JPEGs too large for RTP's own size fields.
    """

    def __init__(
        self,
        codec: str,
        *,
        payload_type: int,
        clock_hz: int,
        parameter_sets: tuple[bytes, ...] = (),
        reorder: int = 0,
        size: tuple[int, int] = (0, 0),
    ) -> None:
        self._payload_type = payload_type
        self._clock_hz = clock_hz
        self._reorder = reorder
        self._assembler: JpegAssembler | NalAssembler = (
            JpegAssembler(size) if codec == "mjpeg" else NalAssembler(codec, parameter_sets)
        )
        self._source: bytes | None = None
        self._expected: int | None = None
        self._is_other_source = False
        self._early: dict[int, tuple[bytes, float]] = {}
        self._ticks = self._step = 0
        self._same_stamp = self._same_stamp_before = 0
        """Pictures with the present stamp so far, and with the one before."""
        self._timestamp: int | None = None
        self._is_open = False
        self._has_ended = False
        self._arrival_s = 0.0

    def feed(self, packet: bytes, arrival_s: float, pictures: list[CodedPicture]) -> None:
        """Take a packet and append the pictures that it completes to `pictures`."""
        is_rtp = len(packet) >= _HEADER_BYTES and packet[0] >> 6 == 2
        if not is_rtp or packet[1] & 0x7F != self._payload_type:
            return
        sequence = int.from_bytes(packet[2:4], "big")
        if packet[8:12] != self._source:  # the camera has restarted
            self._is_other_source = self._source is not None
            self._source = packet[8:12]
            self._expected = None
            self._early.clear()
        ahead = 0 if self._expected is None else (sequence - self._expected) & 0xFFFF
        if ahead >= _NEAR and 0x10000 - ahead < _RESTARTED:
            return  # a duplicate, or too late
        if ahead and self._reorder:
            self._early[sequence] = (packet, arrival_s)
            waited_s = arrival_s - next(iter(self._early.values()))[1]
            if len(self._early) > self._reorder or waited_s > _REORDER_S:
                self._take_early(pictures, skip=True)
            return
        self._take(sequence, packet, arrival_s, pictures)
        if self._early:
            self._take_early(pictures, skip=False)

    def _take_early(self, pictures: list[CodedPicture], *, skip: bool) -> None:
        """Take held-back packets that are in order now; `skip` gives up on the missing ones."""
        while self._early:
            expected = self._expected or 0
            sequence = min(self._early, key=lambda number: (number - expected) & 0xFFFF)
            if sequence != expected and not skip:
                return
            skip = False
            packet, arrival_s = self._early.pop(sequence)
            self._take(sequence, packet, arrival_s, pictures)

    def _take(
        self, sequence: int, packet: bytes, arrival_s: float, pictures: list[CodedPicture]
    ) -> None:
        lost = self._is_other_source or (self._expected is not None and sequence != self._expected)
        self._is_other_source = False
        self._expected = (sequence + 1) & 0xFFFF
        timestamp = int.from_bytes(packet[4:8], "big")
        if timestamp != self._timestamp:
            if self._is_open:  # its marker bit was lost, or is never set
                self._finish(pictures, torn=lost)
            before = timestamp if self._timestamp is None else self._timestamp
            step = (timestamp - before) & 0xFFFF_FFFF
            self._step = step - (1 << 32) if step >> 31 else step
            self._ticks += self._step
            self._timestamp = timestamp
            self._has_ended = False
            self._same_stamp_before, self._same_stamp = self._same_stamp, 0
        elif self._has_ended and not self._is_open and isinstance(self._assembler, NalAssembler):
            self._assembler.go_on()
        self._is_open = True
        self._arrival_s = arrival_s
        self._assembler.add(_payload(packet), after_loss=lost)
        if isinstance(self._assembler, NalAssembler):
            for built in self._assembler.take_built():
                self._hand_over(built, pictures)
        if packet[1] & 0x80 and not self._assembler.is_midway:
            self._finish(pictures, torn=False)

    def _finish(self, pictures: list[CodedPicture], *, torn: bool) -> None:
        self._is_open = False
        if isinstance(self._assembler, JpegAssembler):
            position_s = self._ticks / self._clock_hz
            jpeg = self._assembler.finish()
            if jpeg is not None and not torn:
                pictures.append(CodedPicture(position_s, self._arrival_s, True, jpeg, False))
            return
        built = self._assembler.finish(torn=torn)
        if built is not None:
            self._has_ended = True
            self._hand_over(built, pictures)

    def _hand_over(self, built: _Built, pictures: list[CodedPicture]) -> None:
        """Give a picture its position; those that share a stamp are spread up to the next one."""
        if not built.continues:
            self._same_stamp += 1
        place = max(0, self._same_stamp - 1)
        ticks = self._ticks + self._step * place / max(self._same_stamp_before, place + 1)
        pictures.append(
            CodedPicture(
                position_s=ticks / self._clock_hz,
                arrival_s=self._arrival_s,
                key=built.key,
                data=built.data,
                torn=built.torn,
                continues=built.continues,
            )
        )


def _payload(packet: bytes) -> bytes:
    """Return a packet's payload, without header extension and padding."""
    if packet[0] == 0x80:  # neither sources nor extension nor padding: nearly always
        return packet[_HEADER_BYTES:]
    start = _HEADER_BYTES + 4 * (packet[0] & 0x0F)
    if packet[0] & 0x10:
        start += 4 + 4 * int.from_bytes(packet[start + 2 : start + 4], "big")
    end = len(packet) - (packet[-1] if packet[0] & 0x20 else 0)
    return packet[start:end]


@dataclass(frozen=True, slots=True)
class _Built:
    """A picture that is complete, as far as packets tell."""

    key: bool
    data: bytes
    torn: bool
    continues: bool


class NalAssembler:
    """Join payloads of H.264 or H.265 to pictures, one after the other."""

    def __init__(self, codec: str, parameter_sets: tuple[bytes, ...]) -> None:
        self._codec = codec
        self._sets: dict[int, list[bytes]] = {}
        """The latest of each kind."""
        self._sets_here: dict[int, list[bytes]] = {}
        for unit in parameter_sets:
            self._sets.setdefault(identify(unit, codec).kind, []).append(unit)
        self._sets_come = False
        self._fields_of = (b"", False)
        self._built: list[_Built] = []
        self._units: list[bytes] = []
        self._fragments: list[bytes] = []
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
    def is_midway(self) -> bool:
        """Tell whether a NAL unit is under way, whatever a marker bit says."""
        return bool(self._fragments)

    def take_built(self) -> list[_Built]:
        """Return pictures that the beginning of another one has ended."""
        built, self._built = self._built, []
        return built

    def finish(self, *, torn: bool) -> _Built | None:
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
        built = _Built(key, data, is_torn, self._continues)
        self._units = []
        self._sets_here = {}
        self._size_bytes = 0
        self._loss_before = self._continues = False
        self._has_slice = self._has_sps = self._is_key = False
        return built

    def go_on(self) -> None:
        """Treat what follows as more of the picture that `finish` has returned."""
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
            self._add_many(payload, 1)
        elif kind == _H264_FU_A:
            header = bytes([payload[0] & 0xE0 | payload[1] & 0x1F])
            self._add_fragment(payload[1], header, payload[2:])
        elif kind < _H264_STAP_A:
            self._add_unit(payload)

    def _add_h265(self, payload: bytes) -> None:
        kind = payload[0] >> 1 & 0x3F
        if kind == _H265_AP:
            self._add_many(payload, 2)
        elif kind == _H265_FU and len(payload) > 2:
            header = bytes([payload[0] & 0x81 | (payload[2] & 0x3F) << 1, payload[1]])
            self._add_fragment(payload[2], header, payload[3:])
        elif kind < _H265_AP:
            self._add_unit(payload)

    def _add_many(self, payload: bytes, at: int) -> None:
        while at + 2 < len(payload):
            end = at + 2 + int.from_bytes(payload[at : at + 2], "big")
            self._torn |= end > len(payload)
            self._add_unit(payload[at + 2 : end])
            at = end

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
        self._fragments = []
        self._add_unit(unit)

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
