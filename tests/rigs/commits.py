"""Commits that fail, as on a disk that is full."""

from __future__ import annotations

from typing import Any

import pytest

from store.database import Database
from store.errors import StorageError


class BrokenCommits:
    """Let no transaction through while `on`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = False
        real = Database.transaction

        def transaction(database: Database, *, lazy: bool = False) -> Any:
            if self.on:
                raise StorageError("the disk is full", full=True)
            return real(database, lazy=lazy)

        monkeypatch.setattr(Database, "transaction", transaction)
