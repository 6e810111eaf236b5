"""Let glibc's allocator keep what decoding needs from one picture to the next, and no longer.

A decoder takes 20 MB and more of 1080p. Given back after each picture, every page of it has to be
got from the kernel and cleared again for the next one, which made captures 10 to 30 ms slower.
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
_LARGEST_BYTES: Final = 32 << 20  # glibc takes no more; on 32 bits it does not take this
_KEEP_S: Final = 10.0  # cars come close together


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def set_up_heap() -> None:
    """Let all threads share two heaps that keep what is free until it is given back.

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
