"""Who is logged in: sessions kept by the server, and the tokens of their forms."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from runtime.durable_file import replace_file
from web.passwords import Passwords

_log = logging.getLogger(__name__)

_KEY_BYTES: Final = 32
_MOST_SESSIONS: Final = 100
_LONGEST_SESSION_S: Final = 30 * 86400.0


@dataclass
class Session:
    """Somebody who has logged in."""

    created_at: float
    """Seconds since 1970."""
    password: str
    """The fingerprint of the password that opened it."""
    must_change_password: bool


class Sessions:
    """Sessions, kept by the server; the cookie holds a random id and nothing else.

    Only hashes of the ids are stored, in `state_dir`, beside the secret key. A session ends after
    `idle_s` without use, after thirty days, at logout, and when the password changes.
    """

    def __init__(
        self,
        state_dir: Path,
        passwords: Passwords,
        idle_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = state_dir / "sessions.json"
        self._passwords = passwords
        self._idle_s = idle_s
        self._clock = clock
        self._lock = threading.Lock()
        self._key = _load_key(state_dir / "secret_key")
        self._sessions = self._load()
        self._seen = dict.fromkeys(self._sessions, clock())

    def open(self, *, must_change_password: bool) -> str:
        """Begin a session and return its id."""
        session_id = secrets.token_urlsafe(32)
        with self._lock:
            if len(self._sessions) >= _MOST_SESSIONS:
                self._drop(min(self._seen, key=lambda name: self._seen[name]))
            name = _name_of(session_id)
            self._sessions[name] = Session(
                time.time(), self._passwords.fingerprint, must_change_password
            )
            self._seen[name] = self._clock()
            self._save()
        return session_id

    def find(self, session_id: str | None) -> Session | None:
        """Return the session of an id, if it has not ended, and note that it is used."""
        if not session_id:
            return None
        name, now_s = _name_of(session_id), self._clock()
        with self._lock:
            session = self._sessions.get(name)
            if session is None:
                return None
            if (
                now_s - self._seen[name] > self._idle_s
                or not 0 <= time.time() - session.created_at <= _LONGEST_SESSION_S
                or session.password != self._passwords.fingerprint
            ):
                self._drop(name)
                self._save()
                return None
            self._seen[name] = now_s
            return session

    def close(self, session_id: str | None) -> None:
        """End a session."""
        if session_id:
            with self._lock:
                self._drop(_name_of(session_id))
                self._save()

    def csrf_token(self, session_id: str | None) -> str:
        """Return a session's token, masked anew each time: pages are compressed (BREACH).

        `None` stands for everybody while authentication is off.
        """
        mask = secrets.token_bytes(_KEY_BYTES)
        token = self._csrf(session_id)
        return (mask + bytes(a ^ b for a, b in zip(mask, token, strict=True))).hex()

    def is_csrf_token(self, session_id: str | None, text: str | None) -> bool:
        """Tell whether a token is the session's."""
        try:
            given = bytes.fromhex(text or "")
        except ValueError:
            return False
        if len(given) != 2 * _KEY_BYTES:
            return False
        mask, masked = given[:_KEY_BYTES], given[_KEY_BYTES:]
        token = bytes(a ^ b for a, b in zip(mask, masked, strict=True))
        return hmac.compare_digest(token, self._csrf(session_id))

    def _csrf(self, session_id: str | None) -> bytes:
        return hmac.digest(self._key, f"csrf {session_id or ''}".encode(), "sha256")

    def _drop(self, name: str) -> None:
        self._sessions.pop(name, None)
        self._seen.pop(name, None)

    def _load(self) -> dict[str, Session]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            return {str(name): Session(**session) for name, session in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            _log.warning("%s can't be read (%s); everybody has to log in again", self._file, error)
            return {}

    def _save(self) -> None:
        sessions = {name: asdict(session) for name, session in self._sessions.items()}
        try:
            replace_file(self._file, [json.dumps(sessions).encode()], private=True)
        except OSError as error:  # a full disk must not keep anybody from logging in
            _log.warning("%s can't be written: %s", self._file, error.strerror)


def _name_of(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()


def _load_key(path: Path) -> bytes:
    """Return the secret key, created when missing; if it can't be stored, it is for this run."""
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
        if len(key) == _KEY_BYTES:
            return key
    except (OSError, ValueError):
        pass
    key = secrets.token_bytes(_KEY_BYTES)
    try:
        replace_file(path, [f"{key.hex()}\n".encode()], private=True)
    except OSError as error:
        _log.warning("%s can't be written: %s", path, error.strerror)
    return key
