"""Delete images: first their files, durably, then their rows."""

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
    """Delete images, and remember those whose rows still have to be deleted."""

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
        """Held while files are deleted and while images become pending."""

    def delete(self, images: Iterable[Image]) -> list[Image]:
        """Delete files, then rows, and return the images deleted; `finish` does what fails midway.

        An image stays when its state has changed since it was read: it may have to be sent now.

        Raises:
            StorageError: also when none of the files could be removed.
        """
        with self.lock:
            images = [image for image in images if self._rows.state_of(image.id) == image.state]
            self._db.sync()  # else a power cut could take the mark `uploaded` and leave no file
            self._unfinished.update({image.id: image for image in images})
            names = self._files.delete([image.filename for image in images])
            gone = [image for image in images if image.filename in names]
            for image in images:
                if image.filename in names:
                    self._thumbnails.delete(image.filename)
                else:
                    del self._unfinished[image.id]
            if images and not gone:
                raise StorageError(self._files.write_error or "cannot delete images")
            with self._db.transaction() as sql:
                sql.executemany("DELETE FROM images WHERE id = ?", [(image.id,) for image in gone])
            for image in gone:
                self._unfinished.pop(image.id, None)
            self._writes.pending_changed()
            return gone

    def finish(self) -> None:
        """Finish deletions that failed midway, so that no row stays without its file."""
        with self.lock:  # a deletion under way on another thread has not failed
            if self._unfinished:
                self.delete(list(self._unfinished.values()))
                self._unfinished.clear()  # what is left has changed its state, and stays
