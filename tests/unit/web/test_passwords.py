"""The password in `.env`: default, changed, from the environment, and checked one at a time."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from config import load
from web import passwords as module
from web.passwords import (
    DEFAULT_PASSWORD,
    BusyError,
    ManagedByEnvironmentError,
    Passwords,
    WeakPasswordError,
    WrongPasswordError,
    require_strong,
    store_password,
)

GOOD = "gate-7 opens!"
PATIENCE_S = 5.0


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


def test_a_text_that_is_no_hash_lets_nobody_in(tmp_path: Path) -> None:
    passwords = Passwords(tmp_path / ".env", {"ADMIN_PASSWORD_HASH": "nonsense"})
    assert not passwords.check("nonsense")
    assert not passwords.check(DEFAULT_PASSWORD)


def test_a_file_out_of_reach_does_not_bring_the_default_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = tmp_path / ".env"
    store_password(env, GOOD)
    passwords = Passwords(env, {})
    assert passwords.check(GOOD)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refuse)
        found = [passwords.check(word) for word in (GOOD, DEFAULT_PASSWORD)]
    assert found == [True, False]


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


def test_a_check_waits_for_the_one_before_it_and_not_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each check takes 32 MB: two at a time could take the captures' memory."""
    passwords = Passwords(tmp_path / ".env", {})
    passwords.change(DEFAULT_PASSWORD, GOOD)
    begun, enough = threading.Event(), threading.Event()

    def hash_long(hashed: str, password: str) -> bool:
        begun.set()
        return enough.wait(PATIENCE_S)

    monkeypatch.setattr(module, "check_password_hash", hash_long)
    monkeypatch.setattr(module, "_HASHING_PATIENCE_S", 0.0)
    answers: list[bool] = []
    first = threading.Thread(target=lambda: answers.append(passwords.check(GOOD)))
    first.start()
    assert begun.wait(PATIENCE_S)
    with pytest.raises(BusyError):
        passwords.check(GOOD)
    with pytest.raises(BusyError):
        passwords.change(GOOD, "another one 1")
    enough.set()
    first.join()
    assert answers == [True]
    assert passwords.check(GOOD), "it is free again"
