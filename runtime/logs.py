"""The log: to the console and a rotated file, without secrets, surviving a failing disk."""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

_LOG_BYTES: Final = 10_000_000
_LOG_FILES: Final = 5


class _RedactingFormatter(logging.Formatter):
    """Replace secrets in every line, ours or a library's."""

    def __init__(self, secrets: frozenset[str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._secrets = sorted(secrets, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class _LogFile(RotatingFileHandler):
    """Write to a rotated file; report a failure once, and resume when writing works again."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8")
        self._failing = False
        self._failed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self._failed = False
        super().emit(record)
        self._failing = self._failed

    def handleError(self, record: logging.LogRecord) -> None:
        """Say once why lines can't be written, instead of a traceback for each."""
        self._failed = True
        if not self._failing:
            sys.stderr.write(f"cannot write {self.baseFilename}: {sys.exc_info()[1]}\n")
        if self.stream is not None and self.stream.closed:  # else it would never be opened again
            self.stream = None


def set_up_logging(level: str, path: Path | None, secrets: frozenset[str]) -> None:
    """Log to the console and, when a path is given, to a rotated file there."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    failure = None
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(_LogFile(path))
        except OSError as error:
            failure = f"cannot write {path}: {error.strerror}"
    for handler in handlers:
        handler.setFormatter(_RedactingFormatter(secrets))
    logging.basicConfig(level=level, handlers=handlers)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    if failure:
        _log.warning("%s; logging to the console only", failure)
