"""RTP packets of one video stream joined to pictures, with losses detected.

Source: RFC 3550 (RTP). What is inside payloads, `rtp_nal` and `rtp_jpeg` know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rtsp.assembler import Assembler, BuiltPicture
from rtsp.rtp_jpeg import JpegAssembler
from rtsp.rtp_nal import NalAssembler

_HEADER_BYTES: Final = 12
_NEAR: Final = 1 << 15
_REORDER_S: Final = 0.05  # on a LAN packets are out of order by milliseconds at most
_LATE_IN_A_ROW: Final = 16
_RESTARTED: Final = 3000  # a sequence number that far back is a restart, not an old packet


@dataclass(frozen=True, slots=True)
class CodedPicture:
    """One picture as it came.

    `position_s` is the stream's own time, `arrival_s` the monotonic clock when its first packet
    came: some cameras spread the others over the time up to the next picture. `data` is Annex B
    with all parameter sets before a keyframe, or a JPEG. `torn`: a part of it, or something lost
    right before it that it depends on, is missing. `continues`: it is more of the picture before
    it, whose end seemed to have come. `by_arrival`: time stamps don't move, so that arrivals make
    the stream's time. `after_loss`: packets right before it are missing, maybe whole pictures.
    """

    position_s: float
    arrival_s: float
    key: bool
    data: bytes
    torn: bool
    continues: bool = False
    by_arrival: bool = False
    after_loss: bool = False


class RtpReceiver:
    """Take packets of one source in the order they arrive.

    At most `reorder` packets are held back while an earlier one may still come; 0 over TCP.
    `size` (width, height) in pixels is for JPEGs too large for RTP's own size fields,
    `has_order_numbers` for H.265 with DONL.
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
        has_order_numbers: bool = False,
    ) -> None:
        self._payload_type = payload_type
        self._clock_hz = clock_hz
        self._reorder = reorder
        self._assembler: Assembler = (
            JpegAssembler(size)
            if codec == "mjpeg"
            else NalAssembler(codec, parameter_sets, has_order_numbers=has_order_numbers)
        )
        self._source: bytes | None = None
        self._expected: int | None = None
        self._is_other_source = False
        self._early: dict[int, tuple[bytes, float]] = {}
        self._late = 0
        """Late packets in a row, one number after the other."""
        self._late_next = 0
        self._ticks = self._step = 0
        self._same_stamp = self._same_stamp_before = 0
        """Pictures with the present stamp so far, and with the one before."""
        self._stamp_arrival_s = 0.0
        """When the first of them came."""
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
            if not self._is_restart(sequence):
                return  # a duplicate, or too late
            self._is_other_source = True
            self._expected, ahead = sequence, 0
            self._early.clear()
        self._late = 0
        if ahead and self._reorder:
            self._early[sequence] = (packet, arrival_s)
            waited_s = arrival_s - next(iter(self._early.values()))[1]
            if len(self._early) > self._reorder or waited_s > _REORDER_S:
                self._take_early(pictures, skip=True)
            return
        self._take(sequence, packet, arrival_s, pictures)
        if self._early:
            self._take_early(pictures, skip=False)

    def _is_restart(self, sequence: int) -> bool:
        """Tell whether late packets are no late ones: so many come one after the other.

        What went ahead of them was one stray packet; else they would be dropped for thousands.
        """
        self._late = self._late + 1 if sequence == self._late_next else 1
        self._late_next = (sequence + 1) & 0xFFFF
        return self._late >= _LATE_IN_A_ROW

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
        elif self._has_ended and not self._is_open:
            self._assembler.go_on()
        self._is_open = True
        had_begun = self._assembler.has_begun
        self._assembler.add(_payload(packet), after_loss=lost)
        for built in self._assembler.take_built():
            self._hand_over(built, pictures)
            had_begun = False
        if not had_begun:
            self._arrival_s = arrival_s
        if packet[1] & 0x80 and not self._assembler.is_midway:
            self._finish(pictures, torn=False)

    def _finish(self, pictures: list[CodedPicture], *, torn: bool) -> None:
        self._is_open = False
        built = self._assembler.finish(torn=torn)
        if built is not None:
            self._has_ended = True
            self._hand_over(built, pictures)

    def _hand_over(self, built: BuiltPicture, pictures: list[CodedPicture]) -> None:
        """Give a picture its position; those that share a stamp are spread up to the next one."""
        if not built.continues:
            self._same_stamp += 1
        place = max(0, self._same_stamp - 1)
        if not place:
            self._stamp_arrival_s = self._arrival_s
        is_stuck = place >= max(1, self._same_stamp_before)
        if is_stuck:
            since = (self._arrival_s - self._stamp_arrival_s) * self._clock_hz
        else:
            since = self._step * place / max(self._same_stamp_before, place + 1)
        pictures.append(
            CodedPicture(
                position_s=(self._ticks + since) / self._clock_hz,
                arrival_s=self._arrival_s,
                key=built.key,
                data=built.data,
                torn=built.torn,
                continues=built.continues,
                by_arrival=is_stuck,
                after_loss=built.after_loss,
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
