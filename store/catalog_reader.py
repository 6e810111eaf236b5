"""Questions to the catalog: which images exist, are due or are old, and where their files are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from store.database import Database
from store.image_files import FoundFile, ImageFolder
from store.rows import (
    IMAGE_STATES,
    Event,
    Image,
    ImageFilter,
    Totals,
    event_of,
    from_us,
    image_of,
    to_us,
)
from store.thumbnails import Thumbnails

_HOUR_US: Final = 3_600_000_000
_FILES_AT_ONCE: Final = 500
_INSANE_WAIT_US: Final = 4 * 3600 * 1_000_000  # longer than any wait: the clock was set back


class CatalogReader:
    """Answer questions, each within milliseconds however many rows there are. For any thread.

    Nothing here writes. Every method may raise `StorageError`.
    """

    def __init__(
        self,
        database: Database,
        files: ImageFolder,
        thumbnails: Thumbnails,
        unwritten_states: Mapping[int, str],
    ) -> None:
        """Begin; `unwritten_states` holds states by image id that are newer than the rows."""
        self._db = database
        self._files = files
        self._thumbnails = thumbnails
        self._unwritten_states = unwritten_states

    def image(self, filename: str) -> Image:
        """Return one image's row. Raises `KeyError` when there is none."""
        found = self._images("WHERE filename = ?", (filename,))
        if not found:
            raise KeyError(filename)
        return found[0]

    def state_of(self, image_id: int) -> str | None:
        """Return an image's present state, `None` when its row is gone."""
        return next((i.state for i in self._images("WHERE id = ?", (image_id,))), None)

    def images(
        self,
        which: ImageFilter,
        *,
        limit: int,
        before_id: int | None = None,
        skip: int = 0,
    ) -> list[Image]:
        """Return images, newest first, with ids below `before_id`."""
        clause, parameters = _where(which, before_id)
        page = (*parameters, limit, skip)
        if which.since or which.until:
            # A day's images are found by their time, in an index alone, and then sorted.
            ids = f"SELECT id FROM images {clause} ORDER BY +id DESC LIMIT ? OFFSET ?"  # noqa: S608
            return self._images(f"WHERE id IN ({ids}) ORDER BY id DESC", page)
        return self._images(f"{clause} ORDER BY id DESC LIMIT ? OFFSET ?", page)

    def count(self, which: ImageFilter) -> int:
        """Return how many images pass a filter."""
        clause, parameters = _where(which)
        counted = "coalesce(sum(images), 0) FROM image_totals"
        if which.since or which.until:
            counted = "count(*) FROM images"
        return int(self._db.query(f"SELECT {counted} {clause}", parameters)[0][0])

    def images_of_event(self, event_id: int) -> list[Image]:
        """Return the images of one edge, in the order of their moments."""
        return self._images("WHERE event_id = ? ORDER BY offset_ms, id", (event_id,))

    def hours(self, since: datetime) -> list[tuple[datetime, int]]:
        """Return every hour from that of `since` to now, oldest first, and its number of images."""
        first = to_us(since) // _HOUR_US
        rows = self._db.query(
            "SELECT edge_us / ? AS hour, count(*) FROM images WHERE edge_us >= ? GROUP BY hour",
            (_HOUR_US, first * _HOUR_US),
        )
        counts = {row[0]: row[1] for row in rows}
        last = max(to_us(datetime.now(UTC)) // _HOUR_US, first)
        return [(from_us(hour * _HOUR_US), counts.get(hour, 0)) for hour in range(first, last + 1)]

    def events(
        self, state: str | None, *, limit: int, before_id: int | None = None, skip: int = 0
    ) -> list[Event]:
        """Return events, newest first, with ids below `before_id`."""
        which, parameters = ("state = ? AND", (state,)) if state else ("", ())
        rows = self._db.query(
            "SELECT *, (SELECT group_concat(filename) FROM images WHERE event_id = events.id)"  # noqa: S608
            " AS filenames, NOT EXISTS (SELECT 1 FROM uncorrected WHERE event_id = events.id)"
            f" AS clock_trusted FROM events WHERE {which} id < ?"
            " ORDER BY id DESC LIMIT ? OFFSET ?",
            (*parameters, 1 << 62 if before_id is None else before_id, limit, skip),
        )
        return [event_of(row) for row in rows]

    def totals(self) -> Totals:
        """Return counts of images and events."""
        by_state = dict.fromkeys(IMAGE_STATES, 0)
        size_bytes = 0
        for row in self._db.query(
            "SELECT state, sum(images) AS images, sum(size_bytes) AS size_bytes"
            " FROM image_totals GROUP BY state"
        ):
            by_state[row["state"]] = row["images"]
            size_bytes += row["size_bytes"] if row["state"] != "missing" else 0
        events = {r["state"]: r["events"] for r in self._db.query("SELECT * FROM event_totals")}
        images = sum(by_state.values()) - by_state["missing"]
        return Totals(images, size_bytes, by_state, events)

    def saved_between(self, since: datetime, until: datetime) -> tuple[int, datetime | None]:
        """Return how many images have an edge in (since, until], and the time of the first."""
        row = self._db.query(
            "SELECT count(*), min(edge_us) FROM images WHERE edge_us > ? AND edge_us <= ?",
            (to_us(since), to_us(until)),
        )[0]
        return int(row[0]), None if row[1] is None else from_us(row[1])

    def has_between(self, since: datetime, until: datetime, states: Sequence[str]) -> bool:
        """Tell whether an image in one of `states` has an edge in (since, until]."""
        sql = (
            f"SELECT 1 FROM images WHERE state IN {_marks(states)}"  # noqa: S608
            " AND edge_us > ? AND edge_us <= ? LIMIT 1"
        )
        return bool(self._db.query(sql, (*states, to_us(since), to_us(until))))

    def newest_image_at(self) -> datetime | None:
        """Return the latest edge time of an image whose clock was right."""
        rows = self._db.query(
            "SELECT edge_us FROM images WHERE clock_trusted ORDER BY edge_us DESC LIMIT 1"
        )
        return from_us(rows[0][0]) if rows else None

    def due_uploads(
        self, now: datetime, limit: int, *, without_wait_first: bool = False
    ) -> list[Image]:
        """Return pending images whose wait is over, oldest first.

        With `without_wait_first`, images without a wait come before all others.
        """
        now_us = to_us(now)
        insane_us = now_us + _INSANE_WAIT_US
        if without_wait_first:
            found = self._pending("AND next_attempt_us = 0", (), limit, index="images_due")
            if found:
                return found
        # When all of 100,000 images wait, `images_due` tells so without a look at each of them.
        earliest, latest = self._db.query(
            "SELECT (SELECT min(next_attempt_us) FROM images INDEXED BY images_due"
            " WHERE state = 'pending'), (SELECT max(next_attempt_us) FROM images"
            " INDEXED BY images_due WHERE state = 'pending')"
        )[0]
        if earliest is None or (earliest > now_us and latest <= insane_us):
            return []
        return self._pending(
            "AND (next_attempt_us <= ? OR next_attempt_us > ?)", (now_us, insane_us), limit
        )

    def oldest_pending(self, limit: int = 1, after_id: int = -1) -> list[Image]:
        """Return pending images, due or not, oldest first."""
        return self._pending("AND id > ?", (after_id,), limit)

    def next_attempt_at(self, now: datetime) -> datetime | None:
        """Return when the next waiting image becomes due."""
        rows = self._db.query(
            "SELECT min(next_attempt_us) FROM images INDEXED BY images_due"
            " WHERE state = 'pending' AND next_attempt_us > ?",
            (to_us(now),),
        )
        return None if rows[0][0] is None else from_us(rows[0][0])

    def expired(self, before: datetime, states: Sequence[str], limit: int) -> list[Image]:
        """Return images in `states` with a trusted edge time before `before`, oldest first."""
        return self._images(
            f"{_expired(states)} ORDER BY edge_us LIMIT ?",
            (to_us(before), *states, limit),
        )

    def expired_totals(self, before: datetime, states: Sequence[str]) -> tuple[int, int]:
        """Return the number and the bytes of all images that `expired` finds without a limit."""
        row = self._db.query(
            "SELECT count(*), coalesce(sum(size_bytes) FILTER (WHERE state != 'missing'), 0)"  # noqa: S608
            f" FROM images {_expired(states)}",
            (to_us(before), *states),
        )[0]
        return int(row[0]), int(row[1])

    def oldest_sent(self, limit: int) -> list[Image]:
        """Return images that were sent or are never to be sent, oldest first, for a full disk.

        Images of the last event's second are left out: a further capture in that second would get
        the same name again.
        """
        return self._images(
            "WHERE state IN ('uploaded', 'skipped') AND edge_us / 1000000 IS NOT"
            " (SELECT edge_us / 1000000 FROM events ORDER BY id DESC LIMIT 1) ORDER BY id LIMIT ?",
            (limit,),
        )

    @property
    def rebuilding(self) -> bool:
        """Tell whether rows are still being made for files whose rows were lost."""
        return bool(self._db.query("SELECT 1 FROM meta WHERE key = 'rebuilding'"))

    def filenames(self, after_id: int, limit: int) -> list[tuple[int, str, str]]:
        """Return (id, filename, state) of the next rows by id."""
        rows = self._db.query(
            "SELECT id, filename, state FROM images WHERE id > ? ORDER BY id LIMIT ?",
            (after_id, limit),
        )
        return [(row["id"], row["filename"], row["state"]) for row in rows]

    def known_names(self, names: Sequence[str]) -> set[str]:
        """Return those of `names` that have a row; at most some thousands at a time."""
        sql = f"SELECT filename FROM images WHERE filename IN {_marks(names)}"  # noqa: S608
        return {row["filename"] for row in self._db.query(sql, tuple(names))}

    def has_row(self, filename: str) -> bool:
        """Tell whether the catalog knows a file name."""
        return bool(self._db.query("SELECT 1 FROM images WHERE filename = ?", (filename,)))

    def files_without_row(self, is_settled: Callable[[FoundFile], bool]) -> Iterator[FoundFile]:
        """Yield settled image files without a row, looked up in chunks: there may be 700,000.

        A file is settled when no capture is about to commit its row. A file that no longer exists
        once its row was looked for is left out: a cleanup deletes the file, then the row.
        """
        files = self._files.scan()
        while found := list(islice(files, _FILES_AT_ONCE)):
            settled = [file for file in found if is_settled(file)]
            known = self.known_names([file.name for file in settled])
            for file in settled:
                if file.name not in known and self.path_of(file.name).exists():
                    yield file

    def path_of(self, filename: str) -> Path:
        """Return the path of an image's file, whether or not it exists."""
        return self._files.path / filename

    def thumbnail(self, filename: str) -> Path | None:
        """Return the path of an image's thumbnail, if it has one."""
        return self._thumbnails.find(filename)

    def _images(self, clause: str, parameters: tuple[object, ...]) -> list[Image]:
        states = dict(self._unwritten_states)  # before the query: else a state could be in neither
        rows = self._db.query(f"SELECT * FROM images {clause}", parameters)  # noqa: S608
        images = [image_of(row) for row in rows]
        return [replace(i, state=states.get(i.id, i.state)) for i in images] if states else images

    def _pending(
        self,
        condition: str,
        parameters: tuple[object, ...],
        limit: int,
        index: str = "images_pending",
    ) -> list[Image]:
        rows = limit + len(self._unwritten_states)  # these rows may still say pending
        images = self._images(
            f"INDEXED BY {index} WHERE state = 'pending' {condition} ORDER BY id LIMIT ?",
            (*parameters, rows),
        )
        return [image for image in images if image.state == "pending"][:limit]


def _where(which: ImageFilter, before_id: int | None = None) -> tuple[str, tuple[object, ...]]:
    """Return the SQL clause of a filter, empty without conditions, and its parameters."""
    is_day = which.since or which.until
    # The plus keeps SQLite from searching a day among all images of a camera in one state.
    conditions = {
        "camera = ?": which.camera,
        "+state = ?" if is_day and which.camera else "state = ?": which.state,
        "edge_us >= ?": which.since and to_us(which.since),
        "edge_us < ?": which.until and to_us(which.until),
        "id < ?": before_id,
    }
    given = {sql: value for sql, value in conditions.items() if value is not None}
    return f"WHERE {' AND '.join(given)}" if given else "", tuple(given.values())


def _expired(states: Sequence[str]) -> str:
    return f"WHERE edge_us < ? AND clock_trusted AND state IN {_marks(states)}"


def _marks(values: Sequence[object]) -> str:
    return f"({', '.join('?' * len(values))})"
