"""Writes that survive a failed commit: they wait in memory until one works."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Final

from store.database import Database, Row
from store.errors import StorageError

_log = logging.getLogger(__name__)

_LIMIT: Final = 10_000
_AT_ONCE: Final = 500

Statement = tuple[str, tuple[object, ...]]
Statements = list[Statement]


class LateWrites:
    """Write outcomes now, or in order once the disk can be written. For any thread."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._waiting: deque[tuple[Statements, int | None]] = deque()
        self._recording = threading.Lock()
        self.states: dict[int, str] = {}
        """States of images, by id, that are not yet in their rows."""
        self.pending_version = 0
        """Grows with every change of the pending images."""

    def __len__(self) -> int:
        """Return how many outcomes wait."""
        return len(self._waiting)

    def check_room(self) -> None:
        """Raise `StorageError` when no further outcome can be kept."""
        if len(self._waiting) >= _LIMIT:
            raise StorageError(f"{_LIMIT} outcomes wait for a disk that can be written")

    def keep(self, statements: Statements, image_id: int | None = None, state: str = "") -> None:
        """Keep an outcome; with `image_id` it is the new state of an image."""
        try:
            self.check_room()
        except StorageError as error:
            _log.error("%s; a further one is lost", error)
            return
        if image_id is not None:
            self.states[image_id] = state
        self._waiting.append((statements, image_id))

    def commit(self, statements: Statements, *, lazy: bool = False) -> list[Row]:
        """Write statements in one transaction; return the rows they return.

        Raises:
            StorageError: nothing of it was written.
        """
        rows: list[Row] = []
        with self._db.transaction(lazy=lazy) as sql:
            for statement, parameters in statements:
                rows += sql.execute(statement, parameters).fetchall()
        return rows

    def commit_or_keep(
        self,
        statements: Statements,
        image_id: int | None = None,
        state: str = "",
        *,
        lazy: bool = False,
    ) -> None:
        """Write all that waits, then an outcome; keep it when that fails."""
        try:
            self.record()
            self.commit(statements, lazy=lazy)
        except StorageError as error:
            self.keep(statements, image_id, state)
            _log.error("%s; trying again later", error)
        self.pending_changed()

    def record(self) -> None:
        """Write all that waits, oldest first, many in one transaction: captures wait for this.

        Raises:
            StorageError: the rest still waits.
        """
        with self._recording:
            while number := min(len(self._waiting), _AT_ONCE):
                outcomes = [self._waiting[place] for place in range(number)]
                self.commit([one for statements, _ in outcomes for one in statements])
                for _, image_id in outcomes:
                    self._waiting.popleft()
                    if image_id is not None:
                        self.states.pop(image_id, None)
                self.pending_changed()

    def pending_changed(self) -> None:
        """Note that the set of pending images may have changed."""
        self.pending_version += 1
