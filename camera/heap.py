"""Let glibc's allocator keep a decoder's memory while cars come, and then give it back.

A decoder needs 20 MB and more for 1080p. If that is given back after each picture, the kernel has
to provide and clear every page again for the next one: captures were 10 to 30 ms slower.
"""

from __future__ import annotations

import ctypes
import math
import time
from functools import cache
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_ARENAS: Final = 2
_KEPT_BYTES: Final = 256_000_000
_LARGEST_BYTES: Final = 32 << 20  # glibc's limit; on 32 bits it refuses this too
_KEEP_S: Final = 10.0  # cars come close together


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def set_up_heap() -> None:
    """Let all threads share two heaps that keep free memory until it is given back.

    Call it before threads start; other libcs ignore it.
    """
    if hasattr(_libc(), "mallopt"):
        _libc().mallopt(_M_ARENA_MAX, _ARENAS)
        _libc().mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES)
        _libc().mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


class IdleMemory:
    """Give free memory back to the system once nothing was decoded for ten seconds."""

    def __init__(self) -> None:
        self._given_back_s = -math.inf

    def look(self, decoded_s: float) -> bool:
        """Take the time of the last decoding and tell whether memory was given back now."""
        now_s = time.monotonic()
        if decoded_s <= self._given_back_s or now_s - decoded_s < _KEEP_S:
            return False
        self._given_back_s = now_s
        if hasattr(_libc(), "malloc_trim"):
            _libc().malloc_trim(0)
        return True
