"""What every test gets: a look for threads left behind, and cameras when the host has them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.rigs import rtsp

# A busy machine is no failure: no test judges speed.
settings.register_profile("patient", parent=settings.default, deadline=None)
settings.load_profile("patient")

_LEAK_PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fail a test that leaves a thread running."""
    before = set(threading.enumerate())
    yield
    deadline_s = time.monotonic() + _LEAK_PATIENCE_S
    for thread in set(threading.enumerate()) - before:
        thread.join(max(0.0, deadline_s - time.monotonic()))
        assert not thread.is_alive(), f"{thread.name} was left running"


@pytest.fixture(scope="session")
def cameras_available() -> None:
    """Skip, or fail in CI, where GStreamer's RTSP server can't run."""
    reason = rtsp.missing()
    if reason is None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"no real RTSP server: {reason}")
    pytest.skip(f"NOT TESTED, no real RTSP server: {reason}")
