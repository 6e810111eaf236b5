"""What the NAL units of H.264 and H.265 are, told from their first bytes.

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
_RECOVERY_POINT: Final = 6
_H265_SLICES: Final = range(32)
_H265_IRAP: Final = range(16, 24)
_H265_SPS: Final = 33
_H265_SETS: Final = frozenset({32, 33, 34})
_H265_DELIMITER: Final = 35


@dataclass(frozen=True, slots=True)
class Unit:
    """What a NAL unit is to somebody who does not decode it.

    A slice `is_first` when it begins a picture. `is_key`: a decoder can start at its picture.
    """

    kind: int = -1
    is_slice: bool = False
    is_first: bool = False
    is_key: bool = False
    is_set: bool = False
    is_sps: bool = False
    is_delimiter: bool = False


def look_at(unit: bytes, codec: str) -> Unit:
    """Tell what a NAL unit without start code is; `codec` is h264 or h265."""
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


def is_intra(slice_: bytes) -> bool:
    """Tell whether an H.264 slice needs no other picture."""
    bits = "".join(f"{byte:08b}" for byte in slice_[1:9])
    at = 0
    for _ in ("first_mb_in_slice", "slice_type"):  # Exp-Golomb codes
        zeros = len(bits[at:]) - len(bits[at:].lstrip("0"))
        code = bits[at + zeros : at + 2 * zeros + 1]
        at += 2 * zeros + 1
    return bool(code) and int(code, 2) - 1 in _H264_INTRA_SLICES


def _is_recovery_point(sei: bytes) -> bool:
    """Tell whether an H.264 SEI holds a recovery point, where decoding can start."""
    at = 1
    while at + 2 < len(sei):
        kind, at = _sum_of_bytes(sei, at)
        size, at = _sum_of_bytes(sei, at)
        if kind == _RECOVERY_POINT:
            return True
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
