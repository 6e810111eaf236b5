"""What a crash left behind, held against what had been acknowledged."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from store.rows import parse_name
from tests.torture import pictures

_DATABASE: Final = "catalog.sqlite3"
_END: Final = b"\xff\xd9"
_SHOWN: Final = 20
_SENT: Final = ("pending", "uploaded")


@dataclass(frozen=True)
class Saved:
    """An acknowledged image."""

    filename: str
    sha256: str
    event_id: int
    source: str


@dataclass
class Told:
    """What the program told while it ran: what it saved, what it deleted, where edges came from."""

    saved: dict[str, Saved] = field(default_factory=dict)
    saved_twice: set[str] = field(default_factory=set)
    freed: set[str] = field(default_factory=set)
    sources: dict[datetime, str] = field(default_factory=dict)

    def note(self, message: Mapping[str, Any]) -> None:
        """Keep a message of the driver's."""
        if "saved" in message:
            name = message["saved"]
            if name in self.saved:
                self.saved_twice.add(name)
            self.saved[name] = Saved(
                *(name, message["sha256"], message["event"], message["source"])
            )
        elif "freed" in message:
            self.freed.add(message["freed"])
        elif "edge" in message:
            self.sources[datetime.fromisoformat(message["edge"])] = message["source"]


@dataclass
class Findings:
    """Faults, counted by kind, the first ones in words."""

    is_expected: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, what: str) -> None:
        """Count a fault, and say it unless it is expected or there were many."""
        self.counts[kind] += 1
        if not self.is_expected and self.counts.total() <= _SHOWN:
            print(f"  {kind}: {what}", flush=True)


def ledger_faults(database: Path, *, ended_up_to: int = 0) -> list[str]:
    """Say where the counts of events and images don't add up.

    Accepted edges are saved, failed or being captured; those up to `ended_up_to` are no longer
    being captured. None was ever deleted by what the rigs do.
    """
    faults = []
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.execute("BEGIN")  # one moment for all questions
        ask = connection.execute
        accepted = ask("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone() or (0,)
        states = dict(ask("SELECT state, count(*) FROM events GROUP BY state"))
        told = dict(ask("SELECT state, events FROM event_totals WHERE events != 0"))
        if sum(states.values()) != accepted[0] or states != told:
            faults.append(f"{accepted[0]} edges accepted, {states} there, {told} told")
        rows = "SELECT camera, state, count(*), sum(size_bytes) FROM images GROUP BY camera, state"
        totals = "SELECT * FROM image_totals WHERE images != 0"
        if set(ask(rows)) != set(ask(totals)):
            faults.append("the totals of images are not what the images are")
        faults += [
            f"{name}: a picture of event {event}, which is {state}"
            for name, event, state in ask(
                "SELECT filename, event_id, events.state FROM images JOIN events"
                " ON event_id = events.id WHERE events.state != 'saved'"
            )
        ]
        faults += [
            f"event {event} is still being captured"
            for (event,) in ask(
                "SELECT id FROM events WHERE state = 'capturing' AND id <= ?", (ended_up_to,)
            )
        ]
    return faults


def rows_left(state_dir: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of images by file name, whatever a dead process left of its database.

    Looked at in a copy: opening the database would already recover it.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_of_database(state_dir, Path(folder))
        with closing(sqlite3.connect(copy)) as connection:
            connection.row_factory = sqlite3.Row
            return {
                row["filename"]: dict(row)
                for row in connection.execute(
                    "SELECT images.*, events.state AS event_state FROM images"
                    " LEFT JOIN events ON event_id = events.id"
                )
            }


def copy_of_database(state_dir: Path, folder: Path) -> Path:
    """Copy a database that no process has open, with its journal; return the copy."""
    for ending in ("", "-wal"):
        path = state_dir / f"{_DATABASE}{ending}"
        if path.exists():
            shutil.copy(path, folder / path.name)
    return folder / _DATABASE


def look_after_kill(folder: Path, saved: Iterable[Saved], findings: Findings) -> None:
    """Look at what a dead process left, before anybody repairs it."""
    state_dir = folder / "images" / ".state"
    if not (state_dir / _DATABASE).exists():
        return
    with tempfile.TemporaryDirectory() as place:
        copy = copy_of_database(state_dir, Path(place))
        try:
            for fault in ledger_faults(copy):
                findings.add("ledger", fault)
            with closing(sqlite3.connect(copy)) as connection:
                for image in saved:
                    row = connection.execute(
                        "SELECT sha256 FROM images WHERE filename = ?", (image.filename,)
                    ).fetchone()
                    if row != (image.sha256,):
                        findings.add("lost", f"{image.filename} was saved, its row is {row}")
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):  # killed before it was made
                raise
    _look_at_list(folder, findings)


def look_at_rest(
    folder: Path,
    saved: Mapping[str, Saved],
    told: Told | None,
    uploads: Sequence[Mapping[str, Any]],
    findings: Findings,
    *,
    drained: bool,
) -> None:
    """Look at a folder that was reconciled, and with `drained` at what should all be uploaded.

    Without what was `told` the pictures are not of our own making, and none was deleted.
    """
    images = folder / "images"
    rows = rows_left(images / ".state")
    on_disk = {p.name: p.read_bytes() for p in images.iterdir() if p.suffix == ".jpg"}
    delivered: dict[str, set[str]] = defaultdict(set)
    for upload in uploads:
        delivered[upload["filename"]].add(upload["sha256"])
    for image in saved.values():
        name, jpeg, row = image.filename, on_disk.get(image.filename), rows.get(image.filename)
        if jpeg is None and told is not None and name in told.freed:
            if image.source != "test" and delivered[name] != {image.sha256}:
                findings.add("lost", f"{name} was deleted before it was uploaded")
        else:
            _look_at_saved(image, jpeg, row, findings)
    for name, jpeg in on_disk.items():
        is_whole = jpeg.endswith(_END) if told is None else pictures.is_whole(jpeg)
        if is_whole:
            _look_at_file(name, jpeg, rows.get(name), told, findings)
        elif name not in saved:
            findings.add("torn", f"{name}: {len(jpeg)} bytes")
    for name in told.saved_twice if told else ():
        findings.add("confused", f"{name} is the name of two pictures")
    for name, row in rows.items():
        if row["state"] == "uploaded" and len(delivered[name]) != 1:
            findings.add("lost", f"{name} counts as uploaded: {delivered[name]} arrived")
        if drained and row["state"] == "pending":
            findings.add("ledger", f"{name} was not uploaded")
    for path in folder.rglob("*.tmp"):
        findings.add("stray", str(path.relative_to(folder)))
    for path in images.joinpath(".state").glob("*.damaged*"):
        findings.add("ledger", f"the catalog was taken for damaged: {path.name}")
    _look_at_list(folder, findings)


def _look_at_saved(
    image: Saved, jpeg: bytes | None, row: Mapping[str, Any] | None, findings: Findings
) -> None:
    if jpeg is None:
        findings.add("lost", f"{image.filename}: no file, row {row and row['state']}")
    elif hashlib.sha256(jpeg).hexdigest() != image.sha256:
        findings.add("torn", f"{image.filename}: {len(jpeg)} bytes that are not its own")
    elif row is None or (row["sha256"], row["event_id"], row["event_state"]) != (
        *(image.sha256, image.event_id, "saved"),
    ):
        findings.add("lost", f"{image.filename}: a file with the row {row}")


def _look_at_file(
    name: str,
    jpeg: bytes,
    row: Mapping[str, Any] | None,
    told: Told | None,
    findings: Findings,
) -> None:
    if row is None:
        findings.add("misfiled", f"{name} has no row")
        return
    facts = pictures.facts_in(jpeg)
    edge_at = datetime.fromisoformat(facts["edge_at"])
    source = row["source"] if told is None else told.sources[edge_at]
    said = (row["camera"], row["event_id"], row["source"], row["edge_us"] // 1_000_000)
    true = (facts["camera"], facts["event"], source, int(edge_at.timestamp()))
    if said != true or parse_name(name) != (true[0], true[3]):
        findings.add("misfiled", f"{name} is {true} and its row says {said}")
    elif (row["state"] == "skipped") != (source == "test") or (
        row["state"] not in (*_SENT, "skipped")
    ):
        findings.add("misfiled", f"{name}, a {source} picture, is {row['state']}")


def _look_at_list(folder: Path, findings: Findings) -> None:
    path = folder / "pending_uploads.json"
    if not path.exists():
        return
    try:
        entries = json.loads(path.read_bytes())
        assert isinstance(entries, list)
        assert all(entry["filename"] for entry in entries)
    except (ValueError, AssertionError, TypeError, KeyError) as error:
        findings.add("torn", f"{path.name}: {error}")


def look_at_uploads(
    uploads: Sequence[Mapping[str, Any]], workers: int, findings: Findings
) -> dict[str, int]:
    """Look for repeated uploads; return how many there were, and the most of one kill and worker.

    A worker has one connection; which run it was in is told by the address it sent to.
    """
    keys: dict[str, tuple[str, str]] = {}
    key_of: dict[str, str] = {}
    last: dict[str, tuple[int, int]] = {}
    repeats: Counter[tuple[int, int]] = Counter()
    for upload in uploads:
        name, key = upload["filename"], upload["headers"]["idempotency-key"]
        if keys.setdefault(key, (name, upload["sha256"])) != (name, upload["sha256"]):
            findings.add("confused", f"{key} for {name} and for {keys[key]}")
        if key_of.setdefault(name, key) != key:
            findings.add("confused", f"{name} under two keys")
        found = re.search(r"run=(\d+)", upload["path"])
        assert found is not None
        run = int(found[1])
        if name in last:
            repeats[last[name]] += 1
            if last[name][0] == run:
                findings.add("unprovoked", f"{name} twice in run {run}")
        last[name] = (run, upload["connection"])
    per_run = Counter(run for run, _ in repeats)
    for run, connections in per_run.items():
        if connections > workers:
            findings.add("unprovoked", f"run {run}: {connections} connections left repeats")
    return {"repeats": repeats.total(), "worst": max(repeats.values(), default=0)}
