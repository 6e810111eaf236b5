"""Keep glibc's allocator from holding on to what decoding a picture needed for a moment."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

_M_ARENA_MAX: Final = -8
_ARENAS: Final = 2


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def limit_arenas() -> None:
    """Let all threads share two heaps. Call it before threads start; other libcs ignore it."""
    if hasattr(_libc(), "mallopt"):
        _libc().mallopt(_M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Return free memory to the system."""
    if hasattr(_libc(), "malloc_trim"):
        _libc().malloc_trim(0)
