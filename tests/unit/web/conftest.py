"""Let hashing a password take no time."""

from __future__ import annotations

import pytest

from web import passwords


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_HASH_METHOD", "scrypt:1024:8:1")
