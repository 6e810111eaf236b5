"""Let glibc's allocator keep what decoding needs from one capture to the next, and no longer.

A decoder takes 20 MB and more of 1080p. Given back after each picture, every page of it has to be
got from the kernel and cleared again for the next one, which made captures 10 to 30 ms slower.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_ARENAS: Final = 2
_KEPT_BYTES: Final = 256_000_000
_LARGEST_BYTES: Final = 32 << 20  # glibc takes no more


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def set_up_heap() -> None:
    """Let all threads share two heaps that keep what is free until `give_back`.

    Call it before threads start; other libcs ignore it.
    """
    if hasattr(_libc(), "mallopt"):
        _libc().mallopt(_M_ARENA_MAX, _ARENAS)
        _libc().mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES)
        _libc().mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back() -> None:
    """Return free memory to the system."""
    if hasattr(_libc(), "malloc_trim"):
        _libc().malloc_trim(0)
