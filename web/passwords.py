"""The one password of the interface: its hash in `.env`, checked and changed."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dotenv import dotenv_values
from werkzeug.security import check_password_hash, generate_password_hash

from runtime.durable_file import replace_file

_log = logging.getLogger(__name__)

DEFAULT_PASSWORD: Final = "admin123"  # noqa: S105 - documented, good only for changing it
MIN_PASSWORD_LENGTH: Final = 8
_MAX_PASSWORD_LENGTH: Final = 1024
_HASH_VARIABLE: Final = "ADMIN_PASSWORD_HASH"
_HASH_METHOD: Final = "scrypt:32768:8:1"
_HASHING_PATIENCE_S: Final = 5.0


class WeakPasswordError(ValueError):
    """The new password is not good enough; the text says why."""


class WrongPasswordError(Exception):
    """The current password given is wrong."""


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
        """Return a text that changes whenever the password does."""
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
            read_at = (status.st_mtime_ns, status.st_size, status.st_ino)
            if read_at != self._read_at:
                values = dotenv_values(self._env_file, interpolate=False, encoding="utf-8-sig")
                self._hash = (values.get(_HASH_VARIABLE) or "").strip()
                self._read_at = read_at
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            # The last known hash stays: a broken file must not bring the default password back.
            _log.error("%s can't be read: %s", self._env_file, error)
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
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        text = target.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        example = Path(__file__).parents[1] / "env.example"
        text = example.read_text(encoding="utf-8") if example.exists() else ""
    except UnicodeDecodeError as error:
        raise OSError(f"{env_file} is not UTF-8 text") from error
    hashed = generate_password_hash(password, _HASH_METHOD)
    text = _with_line(text, f"{_HASH_VARIABLE}='{hashed}'")
    replace_file(target, [text.encode()], private=True)


def _with_line(text: str, line: str) -> str:
    """Return the text with `line` in place of the line, or comment, of the same variable."""
    name = line.partition("=")[0]
    lines = text.splitlines()
    ours = [i for i, old in enumerate(lines) if _variable_of(old) == name]
    commented = [i for i, old in enumerate(lines) if _variable_of(old.lstrip("# ")) == name]
    place = next(reversed(ours or commented), len(lines))
    lines[place : place + 1] = [line]
    kept = [text for i, text in enumerate(lines) if i == place or i not in ours]
    return "\n".join(kept) + "\n"


def _variable_of(line: str) -> str:
    return line.strip().removeprefix("export ").partition("=")[0].strip() if "=" in line else ""


def _matches(hashed: str, password: str) -> bool:
    try:
        return check_password_hash(hashed, password)
    except ValueError:  # not a hash that werkzeug knows
        _log.error("%s is not a hash; run setup_password.py", _HASH_VARIABLE)
        return False
