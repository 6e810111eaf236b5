"""Pins that another process drives, through the socket named by FAKE_GPIO_SOCKET.

Has the shape of RPi.GPIO and the habits of rpi-lgpio: one callback thread for all pins, no edge
for a pin that is LOW at the start. A datagram `18 0` pulls pin 18 LOW, `18 1` lets it go.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

BCM = 11
IN = 1
PUD_UP = 22
FALLING = 32
LOW = 0
HIGH = 1

_levels: dict[int, int] = {}
_callbacks: dict[int, Callable[[int], None]] = {}
_claimed: set[int] = set()


def setmode(mode: int) -> None:
    """Accept BCM numbering only."""
    if mode != BCM:
        raise ValueError("BCM numbering expected")


def setup(channel: int, direction: int, pull_up_down: int) -> None:
    """Claim an input with its pull-up."""
    if (direction, pull_up_down) != (IN, PUD_UP) or channel in _claimed:
        raise RuntimeError(f"pin {channel}: wrong or repeated setup")
    _claimed.add(channel)


def add_event_detect(channel: int, edge: int, callback: Callable[[int], None]) -> None:
    """Call back on falling edges from now on."""
    if edge != FALLING or channel not in _claimed:
        raise RuntimeError(f"pin {channel}: wrong edge or not set up")
    _callbacks[channel] = callback


def input(channel: int) -> int:
    """Return a pin's level."""
    return _levels.get(channel, HIGH)


def cleanup() -> None:
    """Give all pins back."""
    _callbacks.clear()
    _claimed.clear()


def _listen(wire: socket.socket) -> None:
    while True:
        pin, level = map(int, wire.recv(64).split())
        fell = level == LOW and _levels.get(pin, HIGH) == HIGH
        _levels[pin] = level
        if fell and pin in _callbacks:
            _callbacks[pin](pin)


_wire = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
_wire.bind(os.environ["FAKE_GPIO_SOCKET"])
threading.Thread(target=_listen, args=(_wire,), daemon=True).start()
