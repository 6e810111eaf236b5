"""The rows of files that a crash, an older release or a lost database left without one.

`reconcile` finds them; here each gets a row, and the event it belongs to.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Final

from store.rows import AdoptedFile

REBUILT_IDS_END: Final = 1_000_000_000
"""A rebuild gives images ids below this one, new images get ids above: newer means larger."""
_PLAUSIBLE_S: Final = 1_325_376_000  # 2012, the first Raspberry Pi; a lost clock says 1970 or 2000
_BURST: Final = re.compile(r"_b\d{1,3}\.jpg$", re.ASCII)


def next_rebuilt_id(sql: sqlite3.Connection) -> int | None:
    """Return the id of the next image that a rebuild finds, `None` when there is no rebuild."""
    if sql.execute("SELECT 1 FROM meta WHERE key = 'rebuilding'").fetchone() is None:
        return None
    last = "SELECT coalesce(max(id), 0) FROM images WHERE id < ?"
    return 1 + int(sql.execute(last, (REBUILT_IDS_END,)).fetchone()[0])


def adopt(
    sql: sqlite3.Connection, file: AdoptedFile, image_id: int | None, last_event_id: int
) -> bool:
    """Make a row for a file, unless there is one; tell whether it was made.

    The file belongs to the event that was interrupted between file and row, or to that of the first
    picture of its burst. `last_event_id` is the last event of earlier runs.
    """
    event = _event_of(sql, file, last_event_id)
    is_test = event is not None and event["source"] == "test"
    new = sql.execute(
        "INSERT INTO images (id, event_id, filename, camera, source, edge_us, flags,"
        " clock_trusted, size_bytes, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (filename) DO NOTHING",
        (
            image_id,
            event["id"] if event else None,
            file.name,
            file.camera,
            event["source"] if event else "gpio",
            event["edge_us"] if event else file.epoch * 1_000_000,
            event["flags"] if event else "",
            event["clock_trusted"] if event else file.epoch >= _PLAUSIBLE_S,
            file.size_bytes,
            "skipped" if is_test else file.state,
        ),
    ).rowcount
    if new and event:
        sql.execute(
            "UPDATE events SET state = 'saved', reason = NULL WHERE id = ? AND state != 'saved'",
            (event["id"],),
        )
    return bool(new)


def _event_of(sql: sqlite3.Connection, file: AdoptedFile, last_event_id: int) -> sqlite3.Row | None:
    """Return the event that a file without a row belongs to.

    The picture itself names it; else it is the event of that second that an earlier run left
    `capturing`. A later picture of a burst goes with the first.
    """
    if file.event_id is not None:
        which = "id = ? AND edge_us = ?"
        parameters: tuple[object, ...] = (file.event_id, file.edge_us)
    else:
        which = "edge_us BETWEEN ? AND ? AND state = 'capturing' AND id <= ?"
        first_us = file.epoch * 1_000_000
        parameters = (first_us, first_us + 999_999, last_event_id)
    first = _BURST.sub(".jpg", file.name)
    found: sqlite3.Row | None = sql.execute(
        "SELECT id, source, edge_us, flags,"  # noqa: S608
        " NOT EXISTS (SELECT 1 FROM uncorrected WHERE event_id = events.id) AS clock_trusted"
        f" FROM events WHERE camera = ? AND ({which}"
        " OR id = (SELECT event_id FROM images WHERE filename = ?)) ORDER BY id LIMIT 1",
        (file.camera, *parameters, first),
    ).fetchone()
    return found
