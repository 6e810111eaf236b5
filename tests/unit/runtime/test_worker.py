"""The one thread lifecycle: no wake-up lost, no failure unseen, nobody left running."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from itertools import islice

import pytest

from runtime.worker import Worker, stop_all

PATIENCE_S = 5.0


class Steps(Worker):
    """Do what a test wants at each step."""

    def __init__(self, act: Callable[[], float | None], name: str = "steps") -> None:
        super().__init__(name)
        self._act = act
        self.closed_on: list[str] = []

    def step(self) -> float | None:
        return self._act()

    def close(self) -> None:
        self.closed_on.append(threading.current_thread().name)


def end(*workers: Worker) -> None:
    assert stop_all(workers, PATIENCE_S) == []


def test_it_steps_at_once_and_then_when_woken() -> None:
    stepped = threading.Semaphore(0)
    worker = Steps(lambda: stepped.release())
    worker.start()
    for _ in range(3):
        assert stepped.acquire(timeout=PATIENCE_S)
        worker.wake()
    assert stepped.acquire(timeout=PATIENCE_S)
    end(worker)
    assert not stepped.acquire(blocking=False)


def test_it_steps_again_after_the_seconds_it_asked_for() -> None:
    waits = iter([0.0, 0.001, None])
    done = threading.Event()

    def act() -> float | None:
        wait_s = next(waits)
        if wait_s is None:
            done.set()
        return wait_s

    worker = Steps(act)
    worker.start()
    assert done.wait(PATIENCE_S)
    end(worker)
    assert next(waits, "used up") == "used up"


def test_a_wake_during_a_step_is_not_lost() -> None:
    stepped = threading.Semaphore(0)
    wakes = iter(range(2))

    def act() -> None:
        if next(wakes, None) is not None:
            worker.wake()
        stepped.release()

    worker = Steps(act)
    worker.start()
    for _ in range(3):
        assert stepped.acquire(timeout=PATIENCE_S)
    end(worker)


def test_every_item_put_before_its_wake_is_seen_by_a_step() -> None:
    taken: list[int] = []
    items: list[int] = []
    all_there = threading.Event()

    def act() -> None:
        while items:
            taken.append(items.pop(0))
        if len(taken) == 2000:
            all_there.set()

    worker = Steps(act)
    worker.start()
    for number in range(2000):
        items.append(number)
        worker.wake()
    assert all_there.wait(PATIENCE_S)
    end(worker)
    assert taken == list(range(2000))


def test_a_stop_during_a_step_is_not_lost() -> None:
    worker = Steps(lambda: worker.stop())
    worker.start()
    assert worker.join(PATIENCE_S)
    assert worker.closed_on == ["steps"]


def test_a_stop_before_the_first_step_ends_it_without_one() -> None:
    stepped: list[str] = []
    worker = Steps(lambda: stepped.append("step"))
    worker.stop()
    worker.start()
    assert worker.join(PATIENCE_S)
    assert stepped == []
    assert worker.closed_on == ["steps"]


def test_stop_ends_a_pause() -> None:
    pausing = threading.Event()

    def act() -> None:
        pausing.set()
        worker.pause(3600)

    worker = Steps(act)
    worker.start()
    assert pausing.wait(PATIENCE_S)
    end(worker)
    assert not worker.is_alive()


def test_a_failure_shows_its_traceback_once_then_ever_more_seldom_and_its_recovery(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outcomes = iter([True, True, True, False, False, True])

    def act() -> float:
        if next(outcomes):
            raise ValueError("the disk sulks")
        return 7.0

    worker = Steps(act)
    with caplog.at_level(logging.INFO):
        waits = [worker._guarded_step() for _ in range(6)]
    assert waits == [0.5, 1.0, 2.0, 7.0, 7.0, 0.5]
    assert [(r.levelname, r.exc_info is not None) for r in caplog.records] == [
        ("ERROR", True),
        ("WARNING", False),
        ("INFO", False),
        ("ERROR", True),
    ]
    assert "the disk sulks" in caplog.records[1].getMessage()
    assert caplog.records[2].getMessage() == "steps recovered after 3 failures"
    assert worker.failures == 1


def test_the_backoff_is_capped() -> None:
    def act() -> None:
        raise OSError("always")

    worker = Steps(act)
    waits = [worker._guarded_step() for _ in range(2000)]
    assert list(islice(waits, 8)) == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert waits[-1] == 30.0


def test_stop_ends_a_backoff() -> None:
    failed = threading.Event()

    def act() -> None:
        failed.set()
        raise OSError("always")

    worker = Steps(act)
    worker.start()
    assert failed.wait(PATIENCE_S)
    end(worker)
    assert worker.failures >= 1


def test_an_unexpected_end_is_told_after_the_close(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    escaped: list[str] = []
    monkeypatch.setattr(
        threading, "excepthook", lambda args: escaped.append(args.exc_type.__name__)
    )

    def act() -> None:
        raise SystemExit(3)

    told: list[list[str]] = []
    worker = Steps(act)
    worker.died = lambda: told.append(list(worker.closed_on))
    worker.start()
    assert worker.join(PATIENCE_S)
    assert told == [["steps"]]
    assert escaped == ["SystemExit"]
    assert "worker steps died" in caplog.text


def test_a_close_that_fails_unasked_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda args: None)

    class Breaks(Steps):
        def close(self) -> None:
            raise OSError("cannot close")

    def act() -> None:
        raise SystemExit(3)

    told: list[bool] = []
    worker = Breaks(act)
    worker.died = lambda: told.append(True)
    worker.start()
    assert worker.join(PATIENCE_S)
    assert told == [True]


def test_an_asked_for_end_is_not_told() -> None:
    told: list[bool] = []
    worker = Steps(lambda: None)
    worker.died = lambda: told.append(True)
    worker.start()
    end(worker)
    assert told == []


def test_stop_all_signals_everybody_before_it_waits_for_anybody() -> None:
    first = Steps(lambda: None, "first")
    second = Steps(lambda: None, "second")
    seen: list[bool] = []
    first.close = lambda: seen.append(second._stop.wait(PATIENCE_S))  # type: ignore[method-assign]
    for worker in (first, second):
        worker.start()
    end(first, second)
    assert seen == [True]


def test_stop_all_names_the_survivors(caplog: pytest.LogCaptureFixture) -> None:
    busy, release = threading.Event(), threading.Event()

    def act() -> None:
        busy.set()
        release.wait(PATIENCE_S)

    stubborn, obedient = Steps(act, "stubborn"), Steps(lambda: None, "obedient")
    for worker in (stubborn, obedient):
        worker.start()
    assert busy.wait(PATIENCE_S)
    assert stop_all([stubborn, obedient], 0.02) == ["stubborn"]
    assert "stubborn did not end" in caplog.text
    assert stubborn.is_alive()
    release.set()
    assert stubborn.join(PATIENCE_S)
    assert obedient.join(PATIENCE_S)


def test_a_worker_that_never_started_is_no_survivor() -> None:
    assert stop_all([Steps(lambda: None)], 0.0) == []


def test_a_step_has_to_be_written() -> None:
    with pytest.raises(NotImplementedError):
        Worker("empty").step()
