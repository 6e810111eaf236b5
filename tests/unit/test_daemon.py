"""What the daemon does as a whole, without a thread but those that a test needs."""

from __future__ import annotations

import logging
import sqlite3
import time
from pathlib import Path

import pytest

from config import parse
from daemon import Daemon

PATIENCE_S = 60.0


def states_of_events(images: Path) -> list[str]:
    connection = sqlite3.connect(images / ".state" / "catalog.sqlite3")
    try:
        return [state for (state,) in connection.execute("SELECT state FROM events")]
    finally:
        connection.close()


def test_a_capture_that_waits_for_a_silent_camera_does_not_hold_up_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {
        "CAMERA_1_RTSP": "rtsp://127.0.0.1:9/never-opened",
        "CAMERA_2_ENABLED": "false",
        "CAMERA_3_ENABLED": "false",
        "CAPTURE_TIMEOUT_S": "60",
        "UPLOAD_ENABLED": "false",
    }
    daemon = Daemon(parse(settings))
    daemon._capture.workers["camera_1"].start()
    ticket = daemon._capture.request("camera_1", edge_s=time.monotonic())
    deadline_s = time.monotonic() + PATIENCE_S
    while states_of_events(tmp_path / "images") != ["capturing"]:
        assert time.monotonic() < deadline_s
        assert ticket.result(0.01) is None
    with caplog.at_level(logging.ERROR):
        daemon._stop()
    outcome = ticket.result(0)
    assert outcome is not None
    assert outcome.reason == "no picture from the camera yet"
    assert states_of_events(tmp_path / "images") == ["failed"]
    assert "did not end" not in caplog.text
