"""Correct the times of what was captured with a wrong clock, once the right time is known."""

from __future__ import annotations

import logging
from typing import Final

from runtime.clock import Clock
from runtime.worker import Worker
from store.catalog import Catalog

_log = logging.getLogger(__name__)

_LOOK_S: Final = 5.0
_CHUNK: Final = 200  # edges per transaction, so that captures hardly wait for it


class ClockService(Worker):
    """Watch the clock; the only caller of `Clock.settled_offset_s`."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        super().__init__("clock")
        self._catalog = catalog
        self._clock = clock
        self._was_synchronized: bool | None = None
        self._corrected = 0

    def step(self) -> float:
        """Correct some edges of this boot once the clock is right."""
        self._note_transition()
        offset_s = self._clock.settled_offset_s()
        corrected = 0 if offset_s is None else self._catalog.events.correct_times(offset_s, _CHUNK)
        self._corrected += corrected
        if corrected == _CHUNK:
            return 0.0
        if self._corrected:
            _log.info("the clock is right: the times of %d edges corrected", self._corrected)
            self._corrected = 0
        return _LOOK_S

    def _note_transition(self) -> None:
        synchronized = self._clock.synchronized()
        if synchronized is False and self._was_synchronized is not False:
            _log.warning("the clock is not synchronised: times of photos are marked as unsure")
        elif synchronized and self._was_synchronized is False:
            _log.info("the clock is synchronised")
        self._was_synchronized = synchronized
