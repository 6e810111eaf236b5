"""Which images are being sent, so that no two workers send the same one."""

from __future__ import annotations

import threading


class Claims:
    """The images that workers have claimed. Every method is for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: set[int] = set()

    def take(self, image_id: int) -> bool:
        """Claim an image; tell whether it was free."""
        with self._lock:
            if image_id in self._ids:
                return False
            self._ids.add(image_id)
            return True

    def has(self, image_id: int) -> bool:
        """Tell whether an image is claimed."""
        with self._lock:
            return image_id in self._ids

    def release(self, image_id: int) -> None:
        """Give up a claim, if there is one."""
        with self._lock:
            self._ids.discard(image_id)

    def count(self) -> int:
        """Return how many images are claimed."""
        with self._lock:
            return len(self._ids)
