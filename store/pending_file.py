"""`pending_uploads.json`: a readable copy of which images still have to be uploaded."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from runtime.durable_file import replace_file
from runtime.worker import Worker
from store.catalog import Catalog
from store.catalog_reader import CatalogReader
from store.errors import StorageError
from store.rows import Image, iso

_log = logging.getLogger(__name__)

_MIN_INTERVAL_S: Final = 2.0
_INTERVAL_PER_ENTRY_S: Final = 0.005
_CHUNK: Final = 1000
_NAME_KEYS: Final = ("filename", "filepath", "file_path", "path", "file", "image")


@dataclass(frozen=True)
class PendingList:
    """The file's content: names within the image folder, and when it was written."""

    names: Set[str]
    written_s: float


class PendingExporter(Worker):
    """Keep the file up to date with the catalog, seldom enough to spare the card.

    Nothing is written before `allow()`: until the catalog is reconciled, the file may know more
    than the catalog.
    """

    def __init__(self, catalog: Catalog, path: Path) -> None:
        super().__init__("pending-export")
        self._catalog = catalog
        self._path = path
        self._allowed = False
        self._written: tuple[int, int] | None = None
        """The catalog's version and number of pending images when the file was written."""
        self.write_error: str | None = None
        """Why the last attempt to write the file failed; `None` when it did not."""
        self._interval_s = _MIN_INTERVAL_S

    def allow(self) -> None:
        """Let the file be written from now on."""
        self._allowed = True
        self.wake()

    def step(self) -> float:
        """Write the file when something changed."""
        self.export()
        return self._interval_s

    def close(self) -> None:
        """Write the last state."""
        try:
            self.export()
        except StorageError as error:
            _log.error("%s not brought up to date: %s", self._path.name, error)

    def export(self) -> None:
        """Write the file if it is not up to date."""
        if not self._allowed:
            return
        version = self._catalog.pending_version
        # Another process changes the catalog without a new version here.
        entries = self._catalog.rows.totals().by_state["pending"]
        if (version, entries) == self._written:
            return
        self._interval_s = export_interval_s(entries)
        try:
            replace_file(self._path, _json_array(_entries(self._catalog.rows)))
        except OSError as error:
            failure = str(StorageError.of(error, f"cannot write {self._path.name}"))
            if self.write_error is None:
                _log.error("%s", failure)
            self.write_error = failure
            return
        self._written = (version, entries)
        if self.write_error is not None:
            _log.info("%s can be written again", self._path.name)
            self.write_error = None


def export_interval_s(entries: int) -> float:
    """Return the seconds between two exports of this many entries."""
    return max(_MIN_INTERVAL_S, entries * _INTERVAL_PER_ENTRY_S)


def read(
    path: Path,
    image_dir: Path,
    *,
    known: Callable[[Sequence[str]], Set[str]] = lambda _: frozenset(),
) -> PendingList | None:
    """Read the file, whichever release wrote it; set it aside when it is malformed.

    Accepts an array of objects with a file name, or of plain file names or paths. Names outside
    `image_dir` are logged and left out. Those that `known` returns are left out, too: usually all
    of them, and 100,000 names take 12 MB.
    """
    try:
        written_s = path.stat().st_mtime
        try:
            names = _names(_entries_by_line(path), path, image_dir, known)
        except ValueError:  # not as this program writes it
            entries = json.loads(path.read_bytes())
            if not isinstance(entries, list):
                raise ValueError("not an array") from None
            names = _names(entries, path, image_dir, known)
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.error("cannot read %s: %s", path, error.strerror)
        return None
    except (ValueError, RecursionError) as error:
        kept = path.with_name(f"{path.name}.malformed-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        path.rename(kept)
        _log.error("%s is malformed (%s); kept as %s", path.name, error, kept.name)
        return None
    return PendingList(names, written_s)


def _entries_by_line(path: Path) -> Iterator[object]:
    """Yield the entries of a list as this program writes it; all at once 100,000 take 60 MB."""
    with path.open("rb") as file:
        if file.readline() != b"[\n":
            raise ValueError("not an array of lines")
        more = True
        for line in file:
            if line == b"]\n":
                if more or file.read(1):
                    raise ValueError("an entry is missing, or there is more")
                return
            if not more:
                raise ValueError("no comma")
            more = line.endswith(b",\n")
            yield json.loads(line.removesuffix(b"\n").removesuffix(b","))
    raise ValueError("no end")


def _names(
    entries: Iterable[object],
    path: Path,
    image_dir: Path,
    known: Callable[[Sequence[str]], Set[str]],
) -> Set[str]:
    """Return the file names of entries; those outside the image folder are logged, left out."""
    names: set[str] = set()
    strangers: list[str] = []
    words = map(_entry_name, entries)
    while chunk := list(islice(words, _CHUNK)):
        inside = {word: _inside(word, image_dir) for word in chunk}
        strangers += [word for word, name in inside.items() if name is None]
        found = {name for name in inside.values() if name is not None}
        names |= found - known(list(found))
    for word in strangers:
        _log.warning("%s names %r, which is not in %s: left out", path.name, word, image_dir)
    return names


def _entry_name(entry: object) -> str:
    if isinstance(entry, dict):
        entry = next((entry[key] for key in _NAME_KEYS if key in entry), None)
    if not isinstance(entry, str) or not entry or "\0" in entry:
        raise ValueError("an entry without a file name")
    return entry


def _inside(word: str, image_dir: Path) -> str | None:
    if any("\ud800" <= character <= "\udfff" for character in word):  # no file can be named so
        return None
    if "/" not in word:  # a Path would take 200 bytes for each of 100,000 names
        return word if word not in (".", "..") else None
    path = Path(word)
    for base in (Path.cwd(), image_dir):
        if (base / path).parent.resolve() == image_dir.resolve():
            return path.name
    return None


def _entries(rows: CatalogReader) -> Iterator[Image]:
    last_id = -1
    while chunk := rows.oldest_pending(_CHUNK, after_id=last_id):
        yield from chunk
        last_id = chunk[-1].id


def _json_array(images: Iterator[Image]) -> Iterator[bytes]:
    separator = "[\n"
    for image in images:
        entry = {
            "filename": image.filename,
            "camera": image.camera,
            "captured_at": iso(image.captured_at),
            "attempts": image.attempts,
            "last_error": image.last_error,
            "next_attempt_at": iso(image.next_attempt_at),
        }
        yield (separator + json.dumps(entry)).encode()
        separator = ",\n"
    yield b"\n]\n" if separator == ",\n" else b"[]\n"
