"""When memory is given back to the system."""

from __future__ import annotations

import time

import pytest

from camera import heap as memory


def test_memory_is_kept_for_the_next_car_and_given_back_once_when_none_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_back: list[int] = []

    class Libc:
        @staticmethod
        def malloc_trim(pad: int) -> int:
            given_back.append(pad)
            return 1

    monkeypatch.setattr(memory, "_libc", Libc)
    idle = memory.IdleMemory()
    now_s = time.monotonic()
    assert not idle.look(now_s - 9.0)
    assert given_back == []
    assert idle.look(now_s - 10.1)
    assert not idle.look(now_s - 10.1)
    assert given_back == [0]
    assert not idle.look(time.monotonic())


def test_a_libc_without_these_functions_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_libc", object)
    memory.set_up_heap()
    assert memory.IdleMemory().look(0.0)
