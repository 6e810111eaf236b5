"""Passwords in `.env`, sessions, and the pace of logins."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import setup_password
from config import load
from web import security
from web.security import (
    DEFAULT_PASSWORD,
    LoginThrottle,
    ManagedByEnvironmentError,
    Passwords,
    Sessions,
    WeakPasswordError,
    WrongPasswordError,
    require_strong,
    store_password,
)

GOOD = "gate-7 opens!"


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "_HASH_METHOD", "scrypt:1024:8:1")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_without_a_hash_the_password_is_the_default_one(tmp_path: Path) -> None:
    passwords = Passwords(tmp_path / ".env", {})
    assert passwords.check(DEFAULT_PASSWORD)
    assert not passwords.check("")
    assert not passwords.check("admin1234")
    assert passwords.is_default


def test_a_changed_password_replaces_the_old_one_at_once(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    passwords = Passwords(env, {})
    before = passwords.fingerprint
    passwords.change(DEFAULT_PASSWORD, GOOD)
    assert passwords.check(GOOD)
    assert not passwords.check(DEFAULT_PASSWORD)
    assert not passwords.is_default
    assert passwords.fingerprint != before
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    assert GOOD not in env.read_text()
    store_password(env, "set beside it 9")
    assert passwords.check("set beside it 9"), "a running daemon needs no restart"


def test_a_password_is_changed_only_by_who_knows_it(tmp_path: Path) -> None:
    passwords = Passwords(tmp_path / ".env", {})
    with pytest.raises(WrongPasswordError):
        passwords.change("nonsense", GOOD)
    passwords.change(DEFAULT_PASSWORD, GOOD)
    with pytest.raises(WeakPasswordError):
        passwords.change(GOOD, GOOD)


@pytest.mark.parametrize("weak", ["", "short", DEFAULT_PASSWORD, "aaaaaaaaaa", "x" * 1025])
def test_weak_passwords_are_refused(weak: str) -> None:
    with pytest.raises(WeakPasswordError):
        require_strong(weak)


def test_a_hash_from_the_environment_wins_and_stays(tmp_path: Path) -> None:
    env = tmp_path / "other.env"
    store_password(env, GOOD)
    line = env.read_text().split("ADMIN_PASSWORD_HASH=")[-1].splitlines()[0].strip("'")
    passwords = Passwords(tmp_path / ".env", {"ADMIN_PASSWORD_HASH": line})
    assert passwords.check(GOOD)
    with pytest.raises(ManagedByEnvironmentError):
        passwords.change(GOOD, "another one 1")


def test_a_hash_that_is_none_lets_nobody_in(tmp_path: Path) -> None:
    passwords = Passwords(tmp_path / ".env", {"ADMIN_PASSWORD_HASH": "nonsense"})
    assert not passwords.check("nonsense")
    assert not passwords.check(DEFAULT_PASSWORD)


def test_a_broken_file_does_not_bring_the_default_back(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    passwords = Passwords(env, {})
    passwords.change(DEFAULT_PASSWORD, GOOD)
    assert passwords.check(GOOD)
    env.write_bytes(b"\xff\xfe broken")
    assert passwords.check(GOOD)
    assert not passwords.check(DEFAULT_PASSWORD)


@pytest.mark.parametrize(
    "text",
    [
        "# a comment\nBIND_PORT=9000\n",
        "A='x # y'\nADMIN_PASSWORD_HASH=old\nB=2\n",
        "ADMIN_PASSWORD_HASH=one\nA=1\nADMIN_PASSWORD_HASH=two\n",
        "#ADMIN_PASSWORD_HASH=\nA=1",
        "export ADMIN_PASSWORD_HASH=old\nA=1\n",
        "",
    ],
)
def test_other_lines_are_kept(tmp_path: Path, text: str) -> None:
    env = tmp_path / ".env"
    env.write_text(text)
    store_password(env, GOOD)
    after = env.read_text()
    kept = [line for line in text.splitlines() if "ADMIN_PASSWORD_HASH" not in line]
    assert [line for line in after.splitlines() if "ADMIN_PASSWORD_HASH" not in line] == kept
    assert after.count("ADMIN_PASSWORD_HASH") == 1
    assert Passwords(env, {}).check(GOOD)


def test_a_missing_file_is_made_from_the_example_and_can_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_password(tmp_path / ".env", GOOD)
    text = (tmp_path / ".env").read_text()
    assert "CAMERA_1_IP" in text
    monkeypatch.chdir(tmp_path)
    assert load().web.auth_enabled


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / ".env").symlink_to(tmp_path / "etc" / "gate.env")
    store_password(tmp_path / ".env", GOOD)
    assert (tmp_path / ".env").is_symlink()
    assert Passwords(tmp_path / ".env", {}).check(GOOD)


# Sessions.


def make_sessions(tmp_path: Path, clock: Clock) -> tuple[Sessions, Passwords]:
    passwords = Passwords(tmp_path / ".env", {})
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


def test_ids_that_nobody_was_given_are_none(tmp_path: Path) -> None:
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


def test_there_is_a_bound_for_sessions(tmp_path: Path) -> None:
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


# Throttle.


def test_guessing_is_slowed_down_and_a_success_clears_it() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock)
    assert [throttle.wait_s("10.0.0.1") for _ in range(5)] == [0] * 5
    wait_s = throttle.wait_s("10.0.0.1")
    assert 0 < wait_s <= 10
    assert throttle.wait_s("10.0.0.2") == 0, "others are not concerned"
    clock.now_s += wait_s
    assert throttle.wait_s("10.0.0.1") == 0
    throttle.succeeded("10.0.0.1")
    assert [throttle.wait_s("10.0.0.1") for _ in range(5)] == [0] * 5


def test_many_guessers_do_not_lock_the_owner_out() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock)
    passed = 0
    for round_number in range(600):
        clock.now_s += 0.1
        passed += throttle.wait_s(f"10.0.{round_number % 20}.1") == 0
    assert passed < 180, "twenty guessers together in a minute"
    assert throttle.wait_s("192.168.1.5") == 0, "the owner gets his attempt"


def test_an_ipv6_network_is_one_client() -> None:
    throttle = LoginThrottle(Clock())
    waits = [throttle.wait_s(f"2001:db8::{n:x}") for n in range(6)]
    assert [wait_s == 0 for wait_s in waits] == [True] * 5 + [False]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=60))
def test_nobody_waits_for_more_than_a_minute(tries: list[tuple[str, float]]) -> None:
    clock = Clock()
    throttle = LoginThrottle(clock)
    for client, pause_s in tries:
        clock.now_s += pause_s
        assert 0 <= throttle.wait_s(client) <= 60


# The script.


def run(arguments: list[str], answers: list[str] | None = None) -> tuple[int, str]:
    said: list[str] = []
    ask: Callable[[str], str] | None = None
    if answers is not None:
        given = iter(answers)
        ask = lambda _: next(given)  # noqa: E731
    code = setup_password.main(arguments, ask, said.append)
    return code, "\n".join(said)


@pytest.mark.parametrize(
    ("arguments", "answers", "code", "password"),
    [
        ([], None, 0, DEFAULT_PASSWORD),
        ([], ["", ""], 0, DEFAULT_PASSWORD),
        ([], [GOOD, GOOD], 0, GOOD),
        ([], [GOOD, "other"], 1, None),
        ([GOOD], None, 0, GOOD),
        (["short"], None, 1, None),
        (["a", "b"], None, 2, None),
    ],
)
def test_the_script(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    answers: list[str] | None,
    code: int,
    password: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments, answers)[0] == code
    if password is None:
        assert not (tmp_path / ".env").exists()
    else:
        assert Passwords(tmp_path / ".env", {}).check(password)


def test_the_script_says_what_it_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def fail(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(security, "_replace", fail)
    code, said = run([GOOD])
    assert code == 1
    assert "can't be written: Permission denied" in said
