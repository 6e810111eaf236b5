"""How fast passwords may be tried: a token bucket for each client, and one for all."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass
class _Bucket:
    tokens: float
    at_s: float


class LoginThrottle:
    """Slow down guessing, for each client and in all, without locking the owner out.

    A client may fail five times, then once in ten seconds. When all together fail more than once a
    second for long, only clients that have not failed lately are let through.
    """

    _EACH: Final = (5.0, 10.0)
    """Attempts at once, and seconds until another one."""
    _ALL: Final = (50.0, 1.0)
    _MOST_CLIENTS: Final = 10_000

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._clients: dict[str, _Bucket] = {}
        self._all = _Bucket(self._ALL[0], clock())

    def wait_s(self, client: str) -> float:
        """Return how many seconds a client has to wait; 0 lets it try and counts the attempt."""
        with self._lock:
            now_s = self._clock()
            bucket = self._clients.get(_network(client)) or _Bucket(self._EACH[0], now_s)
            _refill(bucket, self._EACH, now_s)
            _refill(self._all, self._ALL, now_s)
            needed = 1.0 if self._all.tokens >= 1 else self._EACH[0]
            if bucket.tokens < needed:
                return (needed - bucket.tokens) * self._EACH[1]
            bucket.tokens -= 1
            self._all.tokens = max(0.0, self._all.tokens - 1)
            self._remember(_network(client), bucket)
            return 0.0

    def succeeded(self, client: str) -> None:
        """Forget the failures of a client that knows the password."""
        with self._lock:
            self._clients.pop(_network(client), None)
            self._all.tokens = min(self._ALL[0], self._all.tokens + 1)

    def _remember(self, client: str, bucket: _Bucket) -> None:
        self._clients.pop(client, None)
        self._clients[client] = bucket  # the last one tried comes last
        if len(self._clients) > self._MOST_CLIENTS:
            del self._clients[next(iter(self._clients))]


def _refill(bucket: _Bucket, rate: tuple[float, float], now_s: float) -> None:
    most, seconds_each = rate
    bucket.tokens = min(most, bucket.tokens + (now_s - bucket.at_s) / seconds_each)
    bucket.at_s = now_s


def _network(client: str) -> str:
    """Return what belongs to one owner: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if address.version == 4:
        return client
    return str(ipaddress.ip_network((address, 64), strict=False))
