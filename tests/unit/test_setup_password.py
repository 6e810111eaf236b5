"""The script that sets the password."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import setup_password
from web import passwords
from web.passwords import DEFAULT_PASSWORD, Passwords

GOOD = "gate-7 opens!"


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_HASH_METHOD", "scrypt:1024:8:1")


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

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(passwords, "replace_file", fail)
    code, said = run([GOOD])
    assert code == 1
    assert "can't be written: Permission denied" in said
