"""A deadline over whole requests: it cuts, it leaves alone, it leaves no thread behind."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from upload.request_deadline import Deadline

PATIENCE_S = 10.0


class Connection:
    """A connection's two ends, of which the far one sees when it is cut."""

    def __init__(self, deadline: Deadline) -> None:
        self._near, self._far = socket.socketpair()
        deadline._note(self._near)

    def is_cut(self, within_s: float = 0.0) -> bool:
        self._far.settimeout(within_s)
        try:
            return self._far.recv(1) == b""
        except (BlockingIOError, TimeoutError):
            return False

    def close(self) -> None:
        self._near.close()
        self._far.close()


Connect = Callable[[], Connection]


@pytest.fixture
def deadline() -> Iterator[Deadline]:
    deadline = Deadline()
    yield deadline
    deadline.close()


@pytest.fixture
def connect(deadline: Deadline) -> Iterator[Connect]:
    made: list[Connection] = []

    def one() -> Connection:
        made.append(Connection(deadline))
        return made[-1]

    yield one
    for connection in made:
        connection.close()


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "upload-deadline"]


def test_a_request_that_takes_too_long_is_cut(deadline: Deadline, connect: Connect) -> None:
    with deadline.within(0.01):
        assert connect().is_cut(PATIENCE_S)
    assert deadline.passed
    with deadline.within(60):
        connection = connect()
    assert not deadline.passed
    assert not connection.is_cut()


def test_a_connection_that_comes_too_late_is_cut(deadline: Deadline, connect: Connect) -> None:
    with deadline.within(0.01):
        assert connect().is_cut(PATIENCE_S)
        assert connect().is_cut()


def test_one_thread_watches_over_many_requests(deadline: Deadline) -> None:
    for _ in range(50):
        with deadline.within(60):
            [watcher] = watchers()
    for _ in range(50):
        with deadline.within(60):
            assert watchers() == [watcher]
    deadline.close()
    assert watchers() == []


def test_a_later_request_is_cut_by_the_thread_of_an_earlier_one(
    deadline: Deadline, connect: Connect
) -> None:
    with deadline.within(0.05):
        [watcher] = watchers()
    with deadline.within(0.1):
        assert connect().is_cut(PATIENCE_S)
    watcher.join(PATIENCE_S)
    assert watchers() == []


def test_the_thread_ends_when_no_requests_come(deadline: Deadline, connect: Connect) -> None:
    with deadline.within(0.01):
        [watcher] = watchers()
    watcher.join(PATIENCE_S)
    assert watchers() == []
    with deadline.within(0.01):
        assert connect().is_cut(PATIENCE_S)
