"""Delete images: their files go durably before their rows, and nothing that is to be sent."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from store.catalog_reader import CatalogReader
from store.database import Database
from store.errors import StorageError
from store.image_files import ImageFolder
from store.late_writes import LateWrites
from store.rows import Image
from store.thumbnails import Thumbnails


class Deletions:
    """Delete images, and remember those of which only the file could be deleted."""

    def __init__(
        self,
        database: Database,
        writes: LateWrites,
        rows: CatalogReader,
        files: ImageFolder,
        thumbnails: Thumbnails,
    ) -> None:
        self._db = database
        self._writes = writes
        self._rows = rows
        self._files = files
        self._thumbnails = thumbnails
        self._unfinished: dict[int, Image] = {}
        self.lock = threading.RLock()
        """Held while files go, and when images that may be deleted become such as may not."""

    def delete(self, images: Iterable[Image]) -> list[Image]:
        """Delete files, then rows; what fails midway is ended by `finish`.

        Returns what was deleted. An image stays that has changed its state since it was looked at:
        it may be one to be sent now.

        Raises:
            StorageError: also when not one of the files could be removed.
        """
        with self.lock:
            images = [image for image in images if self._rows.state_of(image.id) == image.state]
            self._db.sync()  # else a picture could be gone whose upload is not known any more
            self._unfinished.update({image.id: image for image in images})
            names = self._files.delete([image.filename for image in images])
            gone = [image for image in images if image.filename in names]
            for image in images:
                if image.filename not in names:
                    del self._unfinished[image.id]
            if images and not gone:
                raise StorageError(self._files.write_error or "cannot delete images")
            for image in gone:
                self._thumbnails.delete(image.filename)
            with self._db.transaction() as sql:
                sql.executemany("DELETE FROM images WHERE id = ?", [(image.id,) for image in gone])
            for image in gone:
                self._unfinished.pop(image.id, None)
            self._writes.pending_changed()
            return gone

    def finish(self) -> None:
        """End deletions that failed midway: no row is to stay whose file has gone."""
        with self.lock:  # what another thread is at has not failed
            if self._unfinished:
                self.delete(list(self._unfinished.values()))
                self._unfinished.clear()  # what is left there has changed its state
