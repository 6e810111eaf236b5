"""Make files, rows and `pending_uploads.json` agree after a crash, an upgrade, or a loss.

Runs once after every start, beside the working daemon, in the process that owns the folder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from config import StorageConfig
from runtime.worker import Worker
from store.catalog import Catalog
from store.exif import event_in_file
from store.image_files import FoundFile
from store.pending_file import PendingList, export_interval_s
from store.pending_file import read as read_pending
from store.rows import AdoptedFile, parse_name, to_us

_log = logging.getLogger(__name__)

_CHUNK: Final = 500
_CAPTURE_S: Final = 30.0
"""A picture may come into the catalog, and so into the list, this long after its edge."""


class Reconciler(Worker):
    """Do the reconciliation on a thread of its own, then call `on_done`."""

    def __init__(
        self,
        catalog: Catalog,
        storage: StorageConfig,
        *,
        uploads_enabled: bool,
        on_done: Callable[[], None],
        watch: Callable[[list[FoundFile]], Iterable[FoundFile]] = iter,
    ) -> None:
        """Prepare; `watch` passes the files on and may show the progress."""
        super().__init__("reconcile")
        self._watch = watch
        self._catalog = catalog
        self._storage = storage
        self._state_of_orphans = "pending" if uploads_enabled else "skipped"
        self._on_done = on_done
        self.done = False

    def step(self) -> None:
        """Reconcile, once; a failure is tried again by the worker's loop."""
        if self.done:
            return
        stray = self._catalog.sweep()
        if stray:
            _log.info("%d unfinished files of the last run removed", stray)
        rebuilding = self._catalog.rows.rebuilding
        listed = self._read_list(rebuilding)
        missing = self._note_missing()
        orphans = sorted(
            (*self._catalog.orphans(), *self._files_of_older_install(listed)),
            key=lambda file: (file.epoch, file.name),
        )
        adopted = self._adopt(
            self._adoption(file, listed, rebuilding=rebuilding) for file in self._watch(orphans)
        )
        interrupted = self._catalog.events.fail_interrupted()
        if rebuilding:
            self._catalog.end_rebuilding()
        if adopted or missing or interrupted:
            _log.warning(
                "reconciled: %d files without a row taken in, %d rows without a file,"
                " %d captures interrupted",
                adopted,
                missing,
                interrupted,
            )
        self.done = True
        self._on_done()

    def _read_list(self, rebuilding: bool) -> PendingList | None:
        """Read the list: names without a row, or during a rebuild all names."""
        path, folder = self._storage.pending_file, self._storage.image_dir
        if rebuilding:
            return read_pending(path, folder)
        return read_pending(path, folder, known=self._catalog.rows.known_names)

    def _note_missing(self) -> int:
        """Mark the rows whose file has gone or is back; return how many have gone."""
        missing = 0
        last_id = -1
        while rows := self._catalog.rows.filenames(last_id, _CHUNK):
            for image_id, filename, state in rows:
                exists = self._catalog.rows.path_of(filename).exists()
                if exists and state == "missing":
                    self._catalog.states.mark_found(image_id)
                if exists or state == "missing":
                    continue
                state_now = self._catalog.rows.state_of(image_id)
                if state_now is None:  # a cleanup has deleted it meanwhile
                    continue
                self._catalog.states.mark_missing(image_id)
                missing += 1
                if state_now == "pending":
                    _log.error("%s was pending and its file has gone", filename)
            last_id = rows[-1][0]
        return missing

    def _files_of_older_install(self, listed: PendingList | None) -> Iterator[FoundFile]:
        """Yield files of an older install, whose names this program would not give."""
        for name in listed.names if listed else ():
            if parse_name(name) is None and Path(name).suffix.lower() in (".jpg", ".jpeg"):
                path = self._catalog.rows.path_of(name)
                if not self._catalog.rows.has_row(name) and path.is_file():
                    status = path.stat()
                    epoch = int(status.st_mtime)
                    yield FoundFile(name, "unknown", epoch, status.st_size, status.st_mtime)

    def _adoption(
        self, file: FoundFile, listed: PendingList | None, *, rebuilding: bool
    ) -> AdoptedFile:
        # A new database gives ids anew: a file of the former one must not be taken for an event's.
        event = None if rebuilding else event_in_file(self._catalog.rows.path_of(file.name))
        return AdoptedFile(
            name=file.name,
            camera=file.camera,
            epoch=file.epoch,
            size_bytes=file.size_bytes,
            state=self._fate(file, listed, rebuilding=rebuilding),
            event_id=event[0] if event else None,
            edge_us=to_us(event[1]) if event else None,
        )

    def _fate(self, file: FoundFile, listed: PendingList | None, *, rebuilding: bool) -> str:
        """Return the state for a file without a row.

        After a loss of the database only images that the list names, or that are newer than the
        list, are known to be unsent.
        """
        if listed is not None and file.name in listed.names:
            return "pending"
        if not rebuilding:
            return self._state_of_orphans
        if listed is None:
            return "unknown"
        # If this is too early, some pictures are sent twice, which their key makes harmless; if it
        # is too late, pictures stay unsent until somebody looks.
        known_until_s = listed.written_s - export_interval_s(len(listed.names)) - _CAPTURE_S
        return self._state_of_orphans if file.epoch > known_until_s else "unknown"

    def _adopt(self, files: Iterable[AdoptedFile]) -> int:
        files = iter(files)
        adopted = 0
        while chunk := list(islice(files, _CHUNK)):
            adopted += self._catalog.adopt(chunk)
        return adopted
