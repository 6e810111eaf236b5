"""Who may use the web interface: the password in `.env`, sessions, and the pace of logins."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from dotenv import dotenv_values
from werkzeug.security import check_password_hash, generate_password_hash

from runtime.durable_file import replace_file

_log = logging.getLogger(__name__)

DEFAULT_PASSWORD: Final = "admin123"  # noqa: S105 - the documented one, which can only change itself
MIN_PASSWORD_LENGTH: Final = 8
_MAX_PASSWORD_LENGTH: Final = 1024
_HASH_VARIABLE: Final = "ADMIN_PASSWORD_HASH"
_HASH_METHOD: Final = "scrypt:32768:8:1"
_HASHING_PATIENCE_S: Final = 5.0
_KEY_BYTES: Final = 32
_MOST_SESSIONS: Final = 100
_LONGEST_SESSION_S: Final = 30 * 86400.0
_SAVE_EVERY_S: Final = 60.0


class WeakPasswordError(ValueError):
    """The new password is not good enough; the text says why."""


class WrongPasswordError(Exception):
    """The current password is another one."""


class ManagedByEnvironmentError(Exception):
    """The hash comes from the real environment and can't be changed here."""


class BusyError(Exception):
    """Too many passwords are being checked right now."""


class Passwords:
    """The one password of the interface, kept as a hash in `env_file`.

    The file is read again whenever it changed, so that `setup_password.py` works beside a running
    daemon. Without a hash the password is the default one.
    """

    def __init__(self, env_file: Path, environment: Mapping[str, str] = os.environ) -> None:
        self._env_file = env_file
        self._environment = environment
        self._hashing = threading.Lock()
        self._read_at: tuple[int, int, int] | None = None
        self._hash = ""
        self._default_hashes: dict[str, bool] = {"": True}

    @property
    def managed_by_environment(self) -> bool:
        """Tell whether the real environment sets the hash."""
        return bool(self._environment.get(_HASH_VARIABLE))

    @property
    def fingerprint(self) -> str:
        """Return what changes whenever the password does."""
        return hashlib.sha256(self._current_hash().encode()).hexdigest()[:16]

    @property
    def is_default(self) -> bool:
        """Tell whether the password is still the default one. Hashes once for each new hash."""
        current = self._current_hash()
        if current not in self._default_hashes:
            with self._hashing:
                self._default_hashes = {"": True, current: _matches(current, DEFAULT_PASSWORD)}
        return self._default_hashes[current]

    def check(self, password: str) -> bool:
        """Tell whether this is the password. One at a time: each check takes 32 MB.

        Raises:
            BusyError: others are being checked for too long.
        """
        if len(password) > _MAX_PASSWORD_LENGTH:
            return False
        current = self._current_hash()
        if not current:
            return hmac.compare_digest(password.encode(), DEFAULT_PASSWORD.encode())
        if not self._hashing.acquire(timeout=_HASHING_PATIENCE_S):
            raise BusyError
        try:
            return _matches(current, password)
        finally:
            self._hashing.release()

    def change(self, current: str, new: str) -> None:
        """Set a new password.

        Raises:
            ManagedByEnvironmentError, WrongPasswordError, WeakPasswordError, BusyError
            OSError: `.env` can't be written.
        """
        if self.managed_by_environment:
            raise ManagedByEnvironmentError
        if not self.check(current):
            raise WrongPasswordError
        require_strong(new)
        if new == current:
            raise WeakPasswordError("The new password must differ from the current one.")
        store_password(self._env_file, new)

    def _current_hash(self) -> str:
        if self.managed_by_environment:
            return self._environment[_HASH_VARIABLE].strip()
        try:
            status = self._env_file.stat()
        except OSError:
            return ""
        read_at = (status.st_mtime_ns, status.st_size, status.st_ino)
        if read_at != self._read_at:
            try:
                values = dotenv_values(self._env_file, interpolate=False, encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                # The last known password stays: a broken file must not bring the default one back.
                _log.error("%s can't be read: %s", self._env_file, error)
                return self._hash
            self._hash = (values.get(_HASH_VARIABLE) or "").strip()
            self._read_at = read_at
        return self._hash


def require_strong(password: str) -> None:
    """Refuse what is too easy to guess.

    Raises:
        WeakPasswordError
    """
    if len(password) < MIN_PASSWORD_LENGTH:
        raise WeakPasswordError(f"Use at least {MIN_PASSWORD_LENGTH} characters.")
    if len(password) > _MAX_PASSWORD_LENGTH:
        raise WeakPasswordError(f"Use at most {_MAX_PASSWORD_LENGTH} characters.")
    if password == DEFAULT_PASSWORD:
        raise WeakPasswordError("This is the default password; choose another one.")
    if len(set(password)) < 4:
        raise WeakPasswordError("Use more different characters.")


def store_password(env_file: Path, password: str) -> None:
    """Write the password's hash to `env_file`, which is made from `env.example` when missing.

    All other lines stay as they are; the file is replaced in one step, readable by its owner only.

    Raises:
        OSError: it can't be read or written.
    """
    target = env_file.resolve()
    try:
        text = target.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        example = Path(__file__).parents[1] / "env.example"
        text = example.read_text(encoding="utf-8") if example.exists() else ""
    except UnicodeDecodeError as error:
        raise OSError(f"{env_file} is not UTF-8 text") from error
    hashed = generate_password_hash(password, _HASH_METHOD)
    _replace(target, _with_line(text, f"{_HASH_VARIABLE}='{hashed}'"))


def _with_line(text: str, line: str) -> str:
    """Return the text with `line` in the place of the one that set the same variable."""
    name = line.partition("=")[0]
    lines = text.splitlines()
    ours = [i for i, old in enumerate(lines) if _variable_of(old) == name]
    if ours:
        lines[ours[-1]] = line
        for i in reversed(ours[:-1]):
            del lines[i]
    else:
        commented = [i for i, old in enumerate(lines) if _variable_of(old.lstrip("# ")) == name]
        if commented:
            lines[commented[-1]] = line
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _variable_of(line: str) -> str:
    return line.strip().removeprefix("export ").partition("=")[0].strip() if "=" in line else ""


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, [text.encode()], private=True)


def _matches(hashed: str, password: str) -> bool:
    try:
        return check_password_hash(hashed, password)
    except ValueError:  # not a hash that werkzeug knows
        _log.error("%s is not a hash; run setup_password.py", _HASH_VARIABLE)
        return False


@dataclass
class Session:
    """Somebody who has logged in."""

    created_at: float
    """Seconds since 1970."""
    password: str
    """The fingerprint of the password that opened it."""
    must_change_password: bool


class Sessions:
    """Sessions, kept on this side; the cookie holds a random id and nothing else.

    Only the ids' hashes are stored, in `state_dir`, with the secret key. A session ends when it was
    not used for `idle_s`, after thirty days, at logout, and when the password changes.
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
        self._saved_s = clock()

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
        """Return a session that has not ended, and note that it is used."""
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
        """Return a session's token, masked anew each time so that compression gives nothing away.

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
            _replace(self._file, json.dumps(sessions))
        except OSError as error:  # a full disk must not keep anybody from logging in
            _log.warning("%s can't be written: %s", self._file, error.strerror)


def _name_of(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()


def _load_key(path: Path) -> bytes:
    """Return the secret key, made at the first start; if it can't be kept, one for this run."""
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
        if len(key) == _KEY_BYTES:
            return key
    except (OSError, ValueError):
        pass
    key = secrets.token_bytes(_KEY_BYTES)
    try:
        _replace(path, key.hex() + "\n")
    except OSError as error:
        _log.warning("%s can't be written: %s", path, error.strerror)
    return key


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
    """Attempts at once, seconds until another one."""
    _ALL: Final = (50.0, 1.0)
    _MOST_CLIENTS: Final = 10_000

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._clients: dict[str, _Bucket] = {}
        self._all = _Bucket(self._ALL[0], clock())

    def wait_s(self, client: str) -> float:
        """Return for how many seconds a client has to wait, 0 when it may try; count the try."""
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
    """Return what one owner has: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if address.version == 4:
        return client
    return str(ipaddress.ip_network((address, 64), strict=False))
