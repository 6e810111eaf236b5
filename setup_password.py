"""Set the web interface's password: `python setup_password.py [PASSWORD]`.

Writes its hash to `.env` in the working directory, which is made from `env.example` when missing.
Without an argument it asks on a terminal. An empty answer, or no terminal, sets the default
password, which has to be changed at the first login. A running daemon needs no restart.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from web.passwords import DEFAULT_PASSWORD, WeakPasswordError, require_strong, store_password

ENV_FILE = Path(".env")


def main(
    arguments: Sequence[str],
    ask: Callable[[str], str] | None = None,
    say: Callable[[str], object] = print,
) -> int:
    """Set the password and return the exit code; `ask` is None without a terminal."""
    if len(arguments) > 1 or (arguments and arguments[0] in ("-h", "--help")):
        say((__doc__ or "").strip())
        return 0 if arguments[0] in ("-h", "--help") else 2
    try:
        password = _wanted(arguments, ask, say)
        if password is None:
            return 1
        if password != DEFAULT_PASSWORD:
            require_strong(password)
        store_password(ENV_FILE, password)
    except WeakPasswordError as error:
        say(f"Not set: {error}")
        return 1
    except OSError as error:
        say(f"Not set: {ENV_FILE.absolute()} can't be written: {error.strerror or error}")
        return 1
    say(f"The password is set in {ENV_FILE.absolute()}.")
    if password == DEFAULT_PASSWORD:
        say(f"It is the default one, {DEFAULT_PASSWORD}: it has to be changed at the first login.")
    if os.environ.get("ADMIN_PASSWORD_HASH"):
        say("Note: ADMIN_PASSWORD_HASH is set in the environment, which wins over the file.")
    return 0


def _wanted(
    arguments: Sequence[str], ask: Callable[[str], str] | None, say: Callable[[str], object]
) -> str | None:
    if arguments:
        return arguments[0] or DEFAULT_PASSWORD
    if ask is None:
        return DEFAULT_PASSWORD
    password = ask(f"New password (empty: {DEFAULT_PASSWORD}): ")
    if not password:
        return DEFAULT_PASSWORD
    if ask("Once more: ") != password:
        say("Not set: the two differ.")
        return None
    return password


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], getpass.getpass if sys.stdin.isatty() else None))
