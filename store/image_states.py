"""The life of saved images: sent, refused, missing, to be sent again."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from store.database import Database
from store.errors import StorageError
from store.image_files import jpeg_size
from store.late_writes import LateWrites
from store.rows import Image, to_us

# Older releases keep a missing image's former state in `wait_for`; those before them nowhere.
_FOUND: Final = (
    "last_error = NULL, wait_for = NULL, state_before = NULL, state = CASE"
    " WHEN coalesce(wait_for, state_before) IN ('uploaded', 'rejected', 'skipped', 'unknown')"
    " THEN coalesce(wait_for, state_before)"
    " WHEN uploaded_us IS NOT NULL THEN 'uploaded'"
    " WHEN source = 'test' THEN 'skipped' ELSE 'pending' END"
)


class ImageStates:
    """Change the state of images. All methods are for any thread and may raise `StorageError`."""

    def __init__(
        self, database: Database, writes: LateWrites, deleting: AbstractContextManager[object]
    ) -> None:
        """Begin; `deleting` is held while files are deleted: no image becomes pending meanwhile."""
        self._db = database
        self._writes = writes
        self._deleting = deleting

    def check_room_to_note(self) -> None:
        """Raise `StorageError` when memory has no room for another outcome."""
        self._writes.check_room()

    def mark_uploaded(self, image_id: int, location: str | None) -> None:
        """Note that the server has the image, now or once that can be written.

        Lazily: after a power cut the image may be sent again, with the same key.
        """
        self._note(
            image_id,
            "uploaded",
            "attempts = attempts + 1, last_error = NULL, wait_for = NULL,"
            " uploaded_us = ?, remote_location = ?",
            (to_us(datetime.now(UTC)), location),
            lazy=True,
        )

    def mark_waiting(
        self, image_id: int, error: str, next_attempt_at: datetime | None, wait_for: str
    ) -> None:
        """Note a failed attempt; `wait_for` is connection, silent, server, retry_after or file."""
        self._update(
            image_id,
            "attempts = attempts + 1, last_error = ?, next_attempt_us = ?, wait_for = ?",
            (error, 0 if next_attempt_at is None else to_us(next_attempt_at), wait_for),
        )

    def mark_rejected(self, image_id: int, error: str) -> None:
        """Note that the server refuses this very image, now or once that can be written."""
        self._note(image_id, "rejected", "attempts = attempts + 1, last_error = ?", (error,))

    def mark_missing(self, image_id: int) -> None:
        """Note that the row's file has gone, now or once that can be written."""
        what = "state_before = state, wait_for = NULL, last_error = ?"
        self._note(image_id, "missing", what, ("the file has gone",))

    def mark_found(self, image_id: int) -> None:
        """Note that a missing file is back: its image returns to its former state."""
        with self._deleting:
            self._update(image_id, _FOUND, ())

    def with_sha256(self, image: Image, jpeg: bytes) -> Image:
        """Complete the row of an adopted file, whose content was not read until now."""
        sha256 = hashlib.sha256(jpeg).hexdigest()
        width, height = jpeg_size(jpeg) or (None, None)
        with suppress(StorageError):  # the next attempt computes it again
            self._update(image.id, "sha256 = ?, width = ?, height = ?", (sha256, width, height))
        return replace(image, sha256=sha256, width=width, height=height)

    def retry(self, filename: str | None = None) -> int:
        """Make one image, or all that are pending or rejected, pending and due now.

        Returns the number of images. Test images are left out.
        """
        self._writes.record()
        with self._deleting, self._db.transaction() as sql:
            changed = sql.execute(
                "UPDATE images SET state = 'pending', next_attempt_us = 0, wait_for = NULL"
                " WHERE source != 'test' AND (state IN ('pending', 'rejected') AND ? IS NULL"
                " OR state IN ('pending', 'rejected', 'skipped') AND filename = ?)",
                (filename, filename),
            ).rowcount
        self._writes.pending_changed()
        return changed

    def resolve_unknown(self, state: str) -> int:
        """Turn all images in state `unknown` into `pending` or `uploaded`; return how many."""
        changed = self._db.run_in_parts(
            "UPDATE images SET state = ?"
            " WHERE id IN (SELECT id FROM images WHERE state = 'unknown' LIMIT ?)",
            state,
            holding=self._deleting,
        )
        self._writes.pending_changed()
        return changed

    def _note(
        self,
        image_id: int,
        state: str,
        assignments: str,
        parameters: tuple[object, ...],
        *,
        lazy: bool = False,
    ) -> None:
        sql = f"UPDATE images SET state = ?, {assignments} WHERE id = ?"  # noqa: S608
        statements = [(sql, (state, *parameters, image_id))]
        self._writes.commit_or_keep(statements, image_id, state, lazy=lazy)

    def _update(self, image_id: int, assignments: str, parameters: tuple[object, ...]) -> None:
        sql = f"UPDATE images SET {assignments} WHERE id = ?"  # noqa: S608
        self._writes.commit([(sql, (*parameters, image_id))])
        self._writes.pending_changed()
