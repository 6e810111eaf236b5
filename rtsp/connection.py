"""A connection to a camera, plain or with TLS, within a deadline."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from rtsp.address import Address
from rtsp.errors import RtspError

Tap = Callable[[socket.socket], socket.socket]
"""Gives what takes a socket's place and sees what goes through it."""

_OLD_TLS: Final = frozenset(
    {
        "UNSUPPORTED_PROTOCOL",
        "TLSV1_ALERT_PROTOCOL_VERSION",
        "SSLV3_ALERT_HANDSHAKE_FAILURE",
        "DH_KEY_TOO_SMALL",
        "WRONG_SIGNATURE_TYPE",
        "LEGACY_SIGALG_DISALLOWED_OR_UNSUPPORTED",
    }
)
"""What OpenSSL says of protocols, ciphers and keys that it no longer accepts."""


def untapped(sock: socket.socket) -> socket.socket:
    """Return the socket itself."""
    return sock


def remaining_s(deadline: float) -> float:
    """Return the seconds left until `deadline`. Raises `TimeoutError` when there are none."""
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _resolve(target: Address, deadline: float) -> list[tuple[Any, ...]]:
    """Look the host up, on a thread of its own because getaddrinfo(3) cannot be interrupted."""
    found: list[tuple[Any, ...]] = []
    errors: list[Exception] = []

    def look_up(flags: int = 0) -> None:
        try:
            found.extend(
                socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM, flags=flags)
            )
        except (OSError, ValueError) as error:  # ValueError: not a host name, like "a..b"
            errors.append(error)

    look_up(socket.AI_NUMERICHOST)  # an IP address needs neither DNS nor thread
    if not found:
        errors.clear()
        thread = threading.Thread(target=look_up, name="diagnosis-dns", daemon=True)
        thread.start()
        thread.join(max(0.0, deadline - time.monotonic()))
    if found:
        return found
    name = target.show(target.host, 60)
    if not errors or getattr(errors[0], "errno", None) == socket.EAI_AGAIN:
        hint = "Check the network's DNS server, or enter the camera's IP address instead."
        raise RtspError("unknown_host", f"cannot look up {name} (no answer from DNS)", hint)
    raise RtspError("unknown_host", f"unknown host {name}")


def connect(target: Address, deadline: float) -> socket.socket:
    """Connect to the first of the host's addresses that answers; they share the time evenly."""
    addresses = _resolve(target, deadline)
    errors: list[OSError] = []
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        sock: socket.socket | None = None
        try:
            sock = socket.socket(family, kind, protocol)
            sock.settimeout(remaining_s(deadline) / (len(addresses) - tried))
            sock.connect(address)
        except OSError as error:
            if sock is not None:
                sock.close()
            errors.append(error)
        else:
            return _secured(sock, target, deadline) if target.tls else sock
    # "Refused" says most: the host is there.
    raise _connect_failure(target, min(errors, key=lambda e: not isinstance(e, ConnectionError)))


def _connect_failure(target: Address, error: OSError) -> RtspError:
    if isinstance(error, ConnectionRefusedError):
        return RtspError("refused", f"nothing listens on {target.place} (connection refused)")
    if isinstance(error, TimeoutError):
        return RtspError("timeout", f"no answer from {target.place} (timeout)")
    words = {errno.EHOSTUNREACH: "no route to host", errno.ENETUNREACH: "network unreachable"}
    why = words.get(error.errno or 0) or (error.strerror or type(error).__name__).lower()
    return RtspError("unreachable", f"{target.place} cannot be reached ({why})")


def _secured(sock: socket.socket, target: Address, deadline: float) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        sock.settimeout(remaining_s(deadline))
        return context.wrap_socket(sock)
    except TimeoutError:
        raise RtspError("timeout", f"{target.place} does not answer in TLS (timeout)") from None
    except OSError as error:
        if getattr(error, "reason", None) in _OLD_TLS:
            hint = "Update the camera's firmware, or use rtsp:// instead of rtsps://."
            reason = f"{target.place} speaks only a TLS that is too old to be safe"
            raise RtspError("not_rtsp", reason, hint) from None
        hint = "Try rtsp:// instead of rtsps://, or check the port."
        raise RtspError("not_rtsp", f"{target.place} does not speak TLS", hint) from None
    finally:
        sock.close()  # does nothing once the TLS socket has taken over
