"""A camera's URL split up: where it is, how to log in, and what must not be shown."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes, urlsplit

_DEFAULT_PORTS: Final = {"rtsp": 554, "rtsps": 322}  # as FFmpeg has them


@dataclass(frozen=True, repr=False)
class Address:
    """Where a camera is and how to log in; its `repr` does not show the password."""

    tls: bool
    host: str
    port: int
    uri: str
    """The URL without credentials, as requests name it."""
    user: str
    password: str
    secrets: tuple[str, ...]
    """The password in every spelling that must not be shown."""

    @property
    def place(self) -> str:
        """Return host and port in a form that can be logged."""
        host = self.host if len(self.host) <= 60 else self.host[:57] + "..."
        return _printable(f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}")

    def show(self, text: str, limit: int = 40) -> str:
        """Make text from the network loggable: short, printable, hidden if it has the password."""
        text = _printable(text.strip())
        if any(secret in text for secret in self.secrets):
            return "(text hidden)"
        return text if len(text) <= limit else text[: limit - 3] + "..."


def _printable(text: str) -> str:
    return "".join(char if " " <= char <= "~" else "?" for char in text)


def parse_url(url: str) -> Address:
    """Split a URL up.

    Raises:
        ValueError: it names no RTSP server; the text may hold parts of the password.
    """
    parts = urlsplit(url)
    port = _DEFAULT_PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
    query, fragment = parts.query and "?" + parts.query, parts.fragment and "#" + parts.fragment
    rest = parts.path + query + fragment
    user = unquote_to_bytes(parts.username or "").decode("latin-1")
    password = unquote_to_bytes(parts.password or "").decode("latin-1")
    # An @ only after the host: a / ? or # in the password cut it, and "host" would be the user.
    # Behind a path, though, a query may hold one: ?user=a&password=P@ss.
    before_query = parts.path or parts.query
    cut = "@" in before_query + parts.fragment and "@" not in parts.netloc
    broken = cut or any(char < " " for char in user)  # a line break would forge headers
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or not port or broken:
        raise ValueError
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    uri = "".join(
        char if "!" <= char <= "~" and char not in '"\\' else quote(char)
        for char in f"{parts.scheme}://{host}:{port}{rest}"
    )
    basic = base64.b64encode(f"{user}:{password}".encode("latin-1")).decode()
    spellings = (password, parts.password or "", quote(password, "", "latin-1"), basic)
    hidden = tuple(filter(None, spellings)) if password else ()
    return Address(parts.scheme == "rtsps", parts.hostname, port, uri, user, password, hidden)
