"""What could not be written to the catalog yet: kept in memory, in order, until it can be."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from store.image_files import StorageError

_log = logging.getLogger(__name__)

_LIMIT: Final = 10_000
_AT_ONCE: Final = 500

Statement = tuple[str, tuple[object, ...]]
Statements = list[Statement]


class Unrecorded:
    """Outcomes that wait for a disk that can be written. All methods are for any thread."""

    def __init__(self) -> None:
        self._outcomes: deque[tuple[Statements, int | None]] = deque()
        self._recording = threading.Lock()
        self.states: dict[int, str] = {}
        """What images have come to although their rows can't say so yet, by id."""

    def __len__(self) -> int:
        """Return how many outcomes wait."""
        return len(self._outcomes)

    def check_room(self) -> None:
        """Raise `StorageError` when no further outcome can be kept."""
        if len(self._outcomes) >= _LIMIT:
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
        self._outcomes.append((statements, image_id))

    def record(self, commit: Callable[[Statements], None]) -> bool:
        """Write all that waits, oldest first; tell whether there was anything.

        `commit` writes statements in one transaction: captures wait for this, so not one for each.

        Raises:
            StorageError: the rest still waits.
        """
        recorded = False
        with self._recording:
            while number := min(len(self._outcomes), _AT_ONCE):
                outcomes = [self._outcomes[place] for place in range(number)]
                commit([one for statements, _ in outcomes for one in statements])
                recorded = True
                for _, image_id in outcomes:
                    self._outcomes.popleft()
                    if image_id is not None:
                        self.states.pop(image_id, None)
        return recorded
