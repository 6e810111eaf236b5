"""The life of accepted edges: each ends saved or failed, whatever happens."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from store.database import Database
from store.late_writes import LateWrites, Statements
from store.rows import join_flags, to_us


class Events:
    """Write the table `events`. All methods are for any thread and may raise `StorageError`."""

    def __init__(self, database: Database, writes: LateWrites, boot: str) -> None:
        """Begin; `boot` identifies the machine's present run."""
        self._db = database
        self._writes = writes
        self._boot = boot
        self.last_earlier_id = int(database.query("SELECT coalesce(max(id), 0) FROM events")[0][0])
        """The id of the last event of earlier runs."""

    def begin(
        self,
        camera: str,
        source: str,
        edge_at: datetime,
        flags: Sequence[str] = (),
        *,
        untrusted_s: float | None = None,
    ) -> int:
        """Commit an accepted edge as `capturing` and return the event's id.

        `untrusted_s` is the edge on the monotonic clock, when `edge_at` is not to be trusted.
        """
        self._writes.record()
        sql = (
            "INSERT INTO events (camera, source, edge_us, flags, state)"
            " VALUES (?, ?, ?, ?, 'capturing') RETURNING id"
        )
        insert = (sql, (camera, source, to_us(edge_at), join_flags("", flags)))
        [row] = self._writes.commit([insert, *self._note_untrusted(untrusted_s)])
        return int(row["id"])

    def _note_untrusted(self, untrusted_s: float | None) -> Statements:
        """Return the statement that marks the event just inserted for a correction of its time."""
        if untrusted_s is None:
            return []
        sql = "INSERT INTO uncorrected VALUES (last_insert_rowid(), ?, ?)"
        return [(sql, (self._boot, round(untrusted_s * 1_000_000)))]

    def fail(self, event_id: int, reason: str) -> None:
        """End an event without a picture, now or once that can be written."""
        sql = "UPDATE events SET state = 'failed', reason = ? WHERE id = ? AND state = 'capturing'"
        self._writes.commit_or_keep([(sql, (reason, event_id))])

    def fail_unrecorded(
        self,
        camera: str,
        source: str,
        edge_at: datetime,
        reason: str,
        *,
        untrusted_s: float | None = None,
    ) -> None:
        """Record a failed event for an edge that could not be committed, with the next write.

        Touches no disk, since a slow one must not keep an edge's thread waiting.
        """
        sql = (
            "INSERT INTO events (camera, source, edge_us, state, reason)"
            " VALUES (?, ?, ?, 'failed', ?)"
        )
        insert = (sql, (camera, source, to_us(edge_at), reason))
        self._writes.keep([insert, *self._note_untrusted(untrusted_s)])

    def fail_interrupted(self) -> int:
        """End the events that the previous run left `capturing`; return how many."""
        with self._db.transaction() as sql:
            return sql.execute(
                "UPDATE events SET state = 'failed', reason = 'interrupted'"
                " WHERE state = 'capturing' AND id <= ?",
                (self.last_earlier_id,),
            ).rowcount

    def correct_times(self, offset_s: float, limit: int) -> int:
        """Correct the time of edges of this boot that came while the clock was wrong.

        `offset_s` is wall minus monotonic time; returns the number of edges, at most `limit`.
        Images get the time of their edge; names and files stay. An edge that is still `capturing`
        comes later: its file, without a row, could be found only by the first time.
        """
        rows = self._db.query(
            "SELECT monotonic_us + ? AS edge_us, event_id FROM uncorrected"
            " JOIN events ON events.id = event_id"
            " WHERE boot_id = ? AND state != 'capturing' LIMIT ?",
            (round(offset_s * 1_000_000), self._boot, limit),
        )
        if not rows:
            return 0
        corrections = [tuple(row) for row in rows]
        with self._db.transaction() as sql:
            sql.executemany("UPDATE events SET edge_us = ? WHERE id = ?", corrections)
            sql.executemany(
                "UPDATE images SET edge_us = ?, clock_trusted = 1 WHERE event_id = ?", corrections
            )
            sql.executemany(
                "DELETE FROM uncorrected WHERE event_id = ?", [(row[1],) for row in rows]
            )
        self._writes.pending_changed()
        return len(rows)

    def delete_ended(self, before: datetime) -> int:
        """Delete ended events before `before` that have no image; return how many.

        Events whose time still has to be corrected are kept.
        """
        return self._db.run_in_parts(
            "DELETE FROM events WHERE id IN (SELECT id FROM events"
            " WHERE edge_us < ? AND state != 'capturing' AND NOT EXISTS"
            " (SELECT 1 FROM images WHERE event_id = events.id)"
            " AND NOT EXISTS (SELECT 1 FROM uncorrected WHERE event_id = events.id) LIMIT ?)",
            to_us(before),
        )
