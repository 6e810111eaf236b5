"""The log file on a disk that fails: no flood, no end of logging."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from runtime.logs import _LogFile


class Stream:
    """A file on a full disk."""

    closed = False

    def write(self, text: str) -> None:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        self.closed = True

    def seek(self, *_: int) -> None:
        """Nothing to do."""

    def tell(self) -> int:
        return 0


def line(text: str) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, "x.py", 1, text, None, None)


def test_a_full_disk_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = _LogFile(tmp_path / "x.log")
    real, log.stream = log.stream, Stream()  # type: ignore[assignment]
    for _ in range(5):
        log.emit(line("lost"))
    log.stream = real
    log.emit(line("kept"))
    log.close()
    errors = capsys.readouterr().err
    assert errors.count("No space left on device") == 1
    assert "Traceback" not in errors
    assert (tmp_path / "x.log").read_text() == "kept\n"


def test_a_rollover_that_failed_does_not_end_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = _LogFile(tmp_path / "x.log")
    assert log.stream is not None
    log.stream.close()  # what a rollover leaves that could not flush its last lines
    log.emit(line("lost"))
    log.emit(line("kept"))
    log.close()
    assert (tmp_path / "x.log").read_text() == "kept\n"
    assert capsys.readouterr().err.count("cannot write") == 1
