"""Sessions: how long they last, what ends them, and the tokens of their forms."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from web.passwords import DEFAULT_PASSWORD, Passwords
from web.sessions import Sessions

GOOD = "gate-7 opens!"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def make_sessions(tmp_path: Path, clock: Clock) -> tuple[Sessions, Passwords]:
    passwords = Passwords(tmp_path / ".env", {})
    (tmp_path / "state").mkdir(exist_ok=True)
    return Sessions(tmp_path / "state", passwords, 600, clock), passwords


def test_a_session_lasts_while_it_is_used(tmp_path: Path) -> None:
    clock = Clock()
    sessions, _ = make_sessions(tmp_path, clock)
    session_id = sessions.open(must_change_password=False)
    for _ in range(5):
        clock.now_s += 500
        assert sessions.find(session_id)
    clock.now_s += 601
    assert sessions.find(session_id) is None
    clock.now_s -= 601
    assert sessions.find(session_id) is None


def test_an_id_that_was_never_given_finds_no_session(tmp_path: Path) -> None:
    sessions, _ = make_sessions(tmp_path, Clock())
    sessions.open(must_change_password=False)
    for text in (None, "", "x", "../../etc"):
        assert sessions.find(text) is None


def test_a_session_ends_at_logout_and_when_the_password_changes(tmp_path: Path) -> None:
    sessions, passwords = make_sessions(tmp_path, Clock())
    first, second = (sessions.open(must_change_password=True) for _ in range(2))
    sessions.close(first)
    assert sessions.find(first) is None
    assert sessions.find(second)
    passwords.change(DEFAULT_PASSWORD, GOOD)
    assert sessions.find(second) is None


def test_sessions_outlive_a_restart_and_ids_are_not_stored(tmp_path: Path) -> None:
    sessions, _ = make_sessions(tmp_path, Clock())
    session_id = sessions.open(must_change_password=True)
    token = sessions.csrf_token(session_id)
    stored = list((tmp_path / "state").iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in stored} == {0o600}
    assert all(session_id not in path.read_text() for path in stored)
    again, _ = make_sessions(tmp_path, Clock())
    found = again.find(session_id)
    assert found
    assert found.must_change_password
    assert again.is_csrf_token(session_id, token)


@pytest.mark.parametrize("text", ["{", "[]", '{"x": 5}', '{"x": {"y": 1}}'])
def test_a_broken_list_of_sessions_only_ends_them(tmp_path: Path, text: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "sessions.json").write_text(text)
    sessions, _ = make_sessions(tmp_path, Clock())
    assert sessions.find(sessions.open(must_change_password=False))


def test_the_session_unused_longest_ends_when_there_are_too_many(tmp_path: Path) -> None:
    clock = Clock()
    sessions, _ = make_sessions(tmp_path, clock)
    ids = []
    for _ in range(105):
        clock.now_s += 1
        ids.append(sessions.open(must_change_password=False))
    assert [bool(sessions.find(one)) for one in (ids[0], ids[-1])] == [False, True]


def test_a_token_belongs_to_its_session(tmp_path: Path) -> None:
    sessions, _ = make_sessions(tmp_path, Clock())
    mine, other = (sessions.open(must_change_password=False) for _ in range(2))
    token = sessions.csrf_token(mine)
    assert sessions.csrf_token(mine) != token, "masked anew"
    assert sessions.is_csrf_token(mine, token)
    assert not sessions.is_csrf_token(other, token)
    assert not sessions.is_csrf_token(None, token)
    for bad in (None, "", "zz", "00", token[:-2], "0" * len(token)):
        assert not sessions.is_csrf_token(mine, bad)
