"""Kinds of NAL units of H.264 and H.265, read from their first bytes.

Source: ITU-T H.264 and H.265, 7.3.1 (NAL unit header), 7.3.2.3 (SEI) and 7.3.3 (slice header).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

START_CODE: Final = b"\0\0\0\1"

_H264_IDR: Final = 5
_H264_SLICES: Final = frozenset({1, 2, 5})
_H264_SEI: Final = 6
_H264_SPS: Final = 7
_H264_SETS: Final = frozenset({7, 8, 13, 15})
_H264_DELIMITER: Final = 9
_H264_INTRA_SLICES: Final = frozenset({2, 4, 7, 9})
_H264_HIGH_PROFILES: Final = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128})
_CHROMA_444: Final = 3
_HEAD_BYTES: Final = 32
_SPS_BYTES: Final = 256
_RECOVERY_POINT: Final = 6
_H265_SLICES: Final = range(32)
_H265_IRAP: Final = range(16, 24)
_H265_SPS: Final = 33
_H265_SETS: Final = frozenset({32, 33, 34})
_H265_DELIMITER: Final = 35


@dataclass(frozen=True, slots=True)
class Unit:
    """What a NAL unit is, as far as its first bytes say.

    A slice `is_first` when it begins a picture. `is_key`: a decoder can start at its picture.
    """

    kind: int = -1
    is_slice: bool = False
    is_first: bool = False
    is_key: bool = False
    is_set: bool = False
    is_sps: bool = False
    is_delimiter: bool = False


def identify(unit: bytes, codec: str) -> Unit:
    """Identify a NAL unit without its start code; `codec` is h264 or h265."""
    if len(unit) < (2 if codec == "h264" else 3):
        return Unit()
    if codec == "h264":
        kind = unit[0] & 0x1F
        if kind in _H264_SLICES:
            return Unit(
                kind=kind,
                is_slice=True,
                is_first=bool(unit[1] & 0x80),  # first_mb_in_slice = 0
                is_key=kind == _H264_IDR,
            )
        return Unit(
            kind=kind,
            is_key=kind == _H264_SEI and _is_recovery_point(unit),
            is_set=kind in _H264_SETS,
            is_sps=kind == _H264_SPS,
            is_delimiter=kind == _H264_DELIMITER,
        )
    kind = unit[0] >> 1 & 0x3F
    return Unit(
        kind=kind,
        is_slice=kind in _H265_SLICES,
        is_first=bool(unit[2] & 0x80),  # first_slice_segment_in_pic_flag
        is_key=kind in _H265_IRAP,
        is_set=kind in _H265_SETS,
        is_sps=kind == _H265_SPS,
        is_delimiter=kind == _H265_DELIMITER,
    )


def holds_slice(picture: bytes, codec: str) -> bool:
    """Tell whether Annex B data holds a slice, not only parameter sets and the like."""
    return any(identify(unit, codec).is_slice for unit in picture.split(START_CODE[1:]))


class _Bits:
    """Read the bits of a NAL unit after its first byte. Raises `ValueError` at the end."""

    def __init__(self, unit: bytes, size: int = _HEAD_BYTES) -> None:
        plain = unit[1:size].replace(b"\0\0\3", b"\0\0")  # emulation prevention
        self._bits = "".join(f"{byte:08b}" for byte in plain)
        self._at = 0

    def number(self, bits: int) -> int:
        self._at += bits
        if self._at > len(self._bits):
            raise ValueError("the unit is cut short")
        return int(self._bits[self._at - bits : self._at], 2)

    def golomb(self) -> int:
        """Read an Exp-Golomb code."""
        zeros = self._bits.index("1", self._at) - self._at
        self._at += zeros
        return self.number(zeros + 1) - 1


def is_intra(slice_: bytes) -> bool:
    """Tell whether an H.264 slice needs no other picture."""
    try:
        bits = _Bits(slice_)
        bits.golomb()  # first_mb_in_slice
        return bits.golomb() in _H264_INTRA_SLICES
    except ValueError:
        return False


def follows(keyframe: bytes, earlier: bytes, later: bytes) -> bool:
    """Tell whether the H.264 picture `later` was certainly encoded right after `earlier`.

    All are Annex B; `keyframe` is their GOP's, with its parameter sets.
    """
    try:
        sps = next(u for u in keyframe.split(START_CODE) if identify(u, "h264").is_sps)
        width = _frame_number_bits(sps)
        one, other = (
            next(u for u in picture.split(START_CODE) if identify(u, "h264").is_slice)
            for picture in (earlier, later)
        )
        is_reference = bool(one[0] & 0x60)
        expected = (_frame_number(one, width) + is_reference) % (1 << width)
        return _frame_number(other, width) == expected
    except (ValueError, StopIteration, RuntimeError):
        return False


def may_hold_fields(sps: bytes) -> bool:
    """Tell whether pictures of an H.264 stream may be two fields each, by its parameter set."""
    try:
        bits = _Bits(sps, _SPS_BYTES)
        _skip_to_frame_number_bits(bits)
        bits.golomb()  # log2_max_frame_num_minus4
        order_type = bits.golomb()
        if order_type == 0:
            bits.golomb()  # log2_max_pic_order_cnt_lsb_minus4
        elif order_type == 1:
            bits.number(1)
            for _ in range(2):
                bits.golomb()  # offsets, signed: as long as unsigned ones
            for _ in range(bits.golomb()):
                bits.golomb()
        bits.golomb()  # max_num_ref_frames
        bits.number(1)
        bits.golomb()  # width, height
        bits.golomb()
        return bits.number(1) == 0  # frame_mbs_only_flag
    except ValueError:
        return False


def _frame_number_bits(sps: bytes) -> int:
    bits = _Bits(sps, _SPS_BYTES)
    _skip_to_frame_number_bits(bits)
    return bits.golomb() + 4


def _skip_to_frame_number_bits(bits: _Bits) -> None:
    profile = bits.number(8)
    bits.number(16)
    bits.golomb()  # seq_parameter_set_id
    if profile in _H264_HIGH_PROFILES:
        chroma = bits.golomb()
        if chroma == _CHROMA_444:
            bits.number(1)
        bits.golomb()  # bit depths
        bits.golomb()
        bits.number(1)
        if bits.number(1):
            for number in range(12 if chroma == _CHROMA_444 else 8):
                if bits.number(1):
                    _skip_scaling_list(bits, 16 if number < 6 else 64)


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.golomb()
            delta = (code + 1) // 2 if code % 2 else -(code // 2)
            following = (last + delta) % 256
        last = following or last


def _frame_number(slice_: bytes, width: int) -> int:
    bits = _Bits(slice_)
    for _ in ("first_mb_in_slice", "slice_type", "pic_parameter_set_id"):
        bits.golomb()
    return bits.number(width)


def _is_recovery_point(sei: bytes) -> bool:
    """Tell whether an H.264 SEI holds a recovery point, where decoding can start.

    One that is reached only some pictures later (intra refresh) is none: until then a part of each
    picture is missing.
    """
    at = 1
    while at + 2 < len(sei):
        kind, at = _sum_of_bytes(sei, at)
        size, at = _sum_of_bytes(sei, at)
        if kind == _RECOVERY_POINT and at < len(sei):
            return bool(sei[at] & 0x80)  # recovery_frame_cnt = 0
        at += size
    return False


def _sum_of_bytes(sei: bytes, at: int) -> tuple[int, int]:
    total = 0
    while at < len(sei):
        total += sei[at]
        at += 1
        if sei[at - 1] != 0xFF:
            break
    return total, at
