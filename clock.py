"""Whether the system clock can be trusted."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from functools import cache
from typing import Final

_TIME_ERROR: Final = 5
_TIMEX_BYTES: Final = 512  # struct timex is about 208 bytes; room for any ABI


@cache
def _libc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    except OSError:
        return None


def is_synchronized() -> bool | None:
    """Ask the kernel whether the clock is disciplined by NTP; `None` when it can't say.

    Source: adjtimex(2), which answers TIME_ERROR while the clock is not synchronised.
    """
    libc = _libc()
    if libc is None or not hasattr(libc, "adjtimex") or os.uname().sysname != "Linux":
        return None
    state = int(libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    return None if state < 0 else state != _TIME_ERROR
