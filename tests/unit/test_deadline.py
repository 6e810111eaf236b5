"""A deadline over whole requests: it cuts, it leaves alone, it leaves no thread behind."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import cast

import pytest

from deadline import Deadline

PATIENCE_S = 10.0


class FakeSocket:
    """Note when it is cut."""

    def __init__(self) -> None:
        self.cut = threading.Event()

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_RDWR
        self.cut.set()


def connect(deadline: Deadline) -> FakeSocket:
    fake = FakeSocket()
    deadline._note(cast(socket.socket, fake))
    return fake


@pytest.fixture
def deadline() -> Iterator[Deadline]:
    deadline = Deadline()
    yield deadline
    deadline.close()


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "upload-deadline"]


def test_a_request_that_takes_too_long_is_cut(deadline: Deadline) -> None:
    with deadline.within(0.01):
        assert connect(deadline).cut.wait(PATIENCE_S)
    assert deadline.passed
    with deadline.within(60):
        fake = connect(deadline)
    assert not deadline.passed
    assert not fake.cut.is_set()


def test_a_connection_that_comes_too_late_is_cut(deadline: Deadline) -> None:
    with deadline.within(0.01):
        assert connect(deadline).cut.wait(PATIENCE_S)
        assert connect(deadline).cut.is_set()


def test_one_thread_watches_over_many_requests(deadline: Deadline) -> None:
    for _ in range(50):
        with deadline.within(60):
            [watcher] = watchers()
    for _ in range(50):
        with deadline.within(60):
            assert watchers() == [watcher]
    deadline.close()
    assert watchers() == []


def test_a_later_request_is_cut_by_the_thread_of_an_earlier_one(deadline: Deadline) -> None:
    with deadline.within(0.05):
        [watcher] = watchers()
    with deadline.within(0.1):
        assert connect(deadline).cut.wait(PATIENCE_S)
    watcher.join(PATIENCE_S)
    assert watchers() == []


def test_the_thread_ends_when_no_requests_come(deadline: Deadline) -> None:
    with deadline.within(0.01):
        [watcher] = watchers()
    watcher.join(PATIENCE_S)
    assert watchers() == []
    with deadline.within(0.01):
        assert connect(deadline).cut.wait(PATIENCE_S)
