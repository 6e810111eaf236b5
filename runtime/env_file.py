"""The file `.env`: reading it, and keeping other users from reading it."""

from __future__ import annotations

import stat
from pathlib import Path

from dotenv import dotenv_values


class EnvFileError(Exception):
    """The file can't be read; the text says why."""


def read(env_file: Path) -> dict[str, str]:
    """Return the variables that `env_file` sets; empty when there is no such file.

    Raises:
        EnvFileError: the file exists but can't be read.
    """
    try:
        if not env_file.is_file():
            return {}
        # An editor on Windows may have put a byte order mark in front.
        values = dotenv_values(env_file, interpolate=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8 text" if isinstance(error, ValueError) else error.strerror
        raise EnvFileError(f"{env_file} can't be read: {why}") from error
    return {name: value for name, value in values.items() if value is not None}


def tighten(env_file: Path) -> tuple[bool, list[str]]:
    """Make `env_file` readable by its owner only; return (still exposed, warnings)."""
    try:
        status = env_file.stat()
        if not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return False, []
        env_file.chmod(0o600)
    except FileNotFoundError:
        return False, []
    except OSError:
        return True, [f"{env_file} can be read by other users: chmod 600 {env_file}"]
    return False, [f"{env_file} could be read by other users; it is now readable by its owner only"]
