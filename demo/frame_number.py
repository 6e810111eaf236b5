"""A frame number in a corner of the picture that survives H.264 and JPEG.

Twelve by two blocks of 8 x 8 pixels, bottom right, on the codec's grid: 16 bits of the number and
8 check bits, the most significant first, white for 1.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Bgr = npt.NDArray[np.uint8]
"""A picture as OpenCV holds it: uint8, (height, width, 3), blue first."""

WIDTH: Final = 1280
HEIGHT: Final = 720
_BLOCK: Final = 8
_COLUMNS: Final = 12
_ROWS: Final = 2
_NUMBER_BITS: Final = 16
_CHECK_BITS: Final = 8
_TOP: Final = HEIGHT - _ROWS * _BLOCK
_LEFT: Final = WIDTH - _COLUMNS * _BLOCK
_DARKEST_WHITE: Final = 165
_LIGHTEST_BLACK: Final = 90
_POLYNOMIAL: Final = 0x07
_START: Final = 0xA5


def draw(bgr: Bgr, number: int) -> None:
    """Draw a number from 0 to 65535 into a picture of 1280 x 720 pixels."""
    if bgr.shape != (HEIGHT, WIDTH, 3):
        raise ValueError(f"a picture of {WIDTH} x {HEIGHT} is needed, not {bgr.shape}")
    if not 0 <= number < 1 << _NUMBER_BITS:
        raise ValueError(f"{number} does not fit into {_NUMBER_BITS} bits")
    word = number << _CHECK_BITS | _check(number)
    count = _COLUMNS * _ROWS
    bits = np.array([word >> (count - 1 - i) & 1 for i in range(count)], np.uint8)
    blocks = np.kron(bits.reshape(_ROWS, _COLUMNS) * 255, np.ones((_BLOCK, _BLOCK), np.uint8))
    bgr[_TOP:, _LEFT:] = blocks.astype(np.uint8)[:, :, None]


def read(bgr: Bgr) -> int | None:
    """Return the number drawn into a picture, None where there is none to be trusted."""
    if bgr.shape != (HEIGHT, WIDTH, 3):
        return None
    strip = bgr[_TOP:, _LEFT:].mean(axis=2)
    blocks = strip.reshape(_ROWS, _BLOCK, _COLUMNS, _BLOCK)[:, 2:-2, :, 2:-2]
    levels = blocks.mean(axis=(1, 3)).ravel()
    if np.any((levels > _LIGHTEST_BLACK) & (levels < _DARKEST_WHITE)):
        return None
    word = 0
    for level in levels:
        word = word << 1 | int(level >= _DARKEST_WHITE)
    number = word >> _CHECK_BITS
    return number if _check(number) == word & (1 << _CHECK_BITS) - 1 else None


def _check(number: int) -> int:
    """Return the CRC-8 of a number; the start value keeps a black strip from being a zero."""
    crc = _START
    for byte in number.to_bytes(_NUMBER_BITS // 8, "big"):
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (_POLYNOMIAL if crc & 0x80 else 0)) & 0xFF
    return crc
