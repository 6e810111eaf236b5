"""GPIO pins: edges, debounce, and the levels for the dashboard.

The library is never given a `bouncetime`: in rpi-lgpio it delays every trigger and loses some.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from config import GpioConfig
from gpio.backend import GpioBackend, GpioError, in_words
from gpio.debounce import Debouncer, Trigger
from gpio.pins import Edge, GpioStatus, PinStatus
from runtime.clock import Clock
from runtime.worker import Worker

_log = logging.getLogger(__name__)

_LEVEL_CHECK_S: Final = 1.0
_POLL_S: Final = 0.01
_STUCK_POLL_S: Final = 0.1
_RETRY_S: Final = 30.0


@dataclass
class _Pin:
    number: int
    camera_key: str
    debouncer: Debouncer
    is_low: bool | None = None
    low_since_s: float | None = None
    last_edge_at: datetime | None = None
    triggers: int = 0


class GpioService(Worker):
    """Watch the pins and call `on_edge` for every trigger.

    `on_edge` is called on this worker's thread and must not block. `load` returns the library.
    """

    def __init__(
        self,
        config: GpioConfig,
        *,
        on_edge: Callable[[Edge], None],
        load: Callable[[], GpioBackend],
        clock: Clock,
    ) -> None:
        super().__init__("gpio")
        self._config = config
        self._on_edge = on_edge
        self._load = load
        self._clock = clock
        self._backend: GpioBackend | None = None
        self._error: GpioError | None = None
        self._edges: queue.SimpleQueue[tuple[int, float]] = queue.SimpleQueue()
        self._pins = {
            number: _Pin(number, camera_key, Debouncer(config))
            for number, camera_key in config.pins.items()
        }

    def step(self) -> float | None:
        """Take edges off the queue, look at levels, and return when to look again."""
        if not self._config.enabled:
            return None
        if self._backend is None:
            try:
                self._claim_pins()
            except GpioError as error:
                self._note_error(error)
                self._take_edges()  # of the pins that were claimed before one failed
                return _RETRY_S
        self._take_edges()
        now_s = self._clock.monotonic_s()
        return min((self._look(pin, now_s) for pin in self._pins.values()), default=None)

    def close(self) -> None:
        """Take the edges that came before the stop, and give the pins back."""
        backend, self._backend = self._backend, None
        try:
            self._take_edges()
        finally:
            if backend is not None:
                backend.cleanup()

    def status(self) -> GpioStatus:
        """Return the state of the pins. For any thread."""
        error = self._error
        return GpioStatus(
            enabled=self._config.enabled,
            available=self._backend is not None,
            error=error.reason if error else None,
            hint=error.hint if error else None,
            pins=tuple(self._pin_status(pin) for pin in self._pins.values()),
        )

    def _pin_status(self, pin: _Pin) -> PinStatus:
        low_since_s = pin.low_since_s
        return PinStatus(
            camera_key=pin.camera_key,
            pin=pin.number,
            state=None if pin.is_low is None else "LOW" if pin.is_low else "HIGH",
            last_edge_at=pin.last_edge_at,
            triggers=pin.triggers,
            suppressed=pin.debouncer.suppressed,
            stuck_low=low_since_s is not None
            and self._clock.monotonic_s() - low_since_s >= self._config.stuck_low_s,
        )

    def _claim_pins(self) -> None:
        backend = self._load()
        with in_words():
            backend.setmode(backend.BCM)
        try:
            for pin in self._pins.values():
                with in_words(pin.number):
                    backend.setup(pin.number, backend.IN, pull_up_down=backend.PUD_UP)
                    was_low = backend.input(pin.number) == backend.LOW
                    backend.add_event_detect(
                        pin.number, backend.FALLING, callback=self._called_back
                    )
                    is_low = backend.input(pin.number) == backend.LOW
                # What fell in between has its edge in the queue.
                self._start_pin(pin, was_low and is_low)
        except GpioError:
            backend.cleanup()
            raise
        self._backend = backend
        if self._error is not None:
            _log.info("GPIO recovered")
        self._error = None
        _log.info("GPIO watches pins %s", ", ".join(map(str, self._pins)))

    def _start_pin(self, pin: _Pin, is_low: bool) -> None:
        now_s = self._clock.monotonic_s()
        self._note_level(pin, is_low, now_s)
        if not is_low:
            return
        _log.warning("pin %d is LOW at start", pin.number)
        if self._config.trigger_on_start:
            self._fire(pin, pin.debouncer.edge(now_s))
        else:
            pin.debouncer.hold(now_s)

    def _called_back(self, channel: int) -> None:
        """Take the time of an edge, on the library's thread; must not raise."""
        try:
            self._edges.put((channel, self._clock.monotonic_s()))
            self.wake()
        except BaseException:  # noqa: BLE001, S110 - it would silently end the thread of all pins
            pass

    def _take_edges(self) -> None:
        while True:
            try:
                number, edge_s = self._edges.get_nowait()
            except queue.Empty:
                return
            pin = self._pins[number]
            pin.last_edge_at = self._clock.at(edge_s).at
            self._fire(pin, pin.debouncer.edge(edge_s))

    def _look(self, pin: _Pin, now_s: float) -> float:
        """Read a pin's level and return the seconds until it must be read again."""
        assert self._backend is not None  # noqa: S101 - step() has claimed the pins
        is_low = self._backend.input(pin.number) == self._backend.LOW
        if not self._edges.empty():
            return 0.0  # the level may be newer than an edge still in the queue
        self._note_level(pin, is_low, now_s)
        self._fire(pin, pin.debouncer.level(now_s, is_low))
        if not pin.debouncer.watching:
            return _LEVEL_CHECK_S
        return _STUCK_POLL_S if self._pin_status(pin).stuck_low else _POLL_S

    def _note_level(self, pin: _Pin, is_low: bool, now_s: float) -> None:
        if is_low and pin.low_since_s is None:
            pin.low_since_s = now_s
        elif not is_low:
            if self._pin_status(pin).stuck_low:
                _log.info("pin %d is HIGH again", pin.number)
            pin.low_since_s = None
        pin.is_low = is_low

    def _fire(self, pin: _Pin, trigger: Trigger | None) -> None:
        if trigger is None:
            return
        pin.triggers += 1
        pin.last_edge_at = at = self._clock.at(trigger.edge_s).at
        _log.info("pin %d LOW: trigger for %s", pin.number, pin.camera_key)
        if self._config.trigger_enabled:
            self._on_edge(Edge(pin.camera_key, trigger.edge_s, at, trigger.late))

    def _note_error(self, error: GpioError) -> None:
        if self._error is None or self._error.reason != error.reason:
            _log.error("GPIO unavailable: %s. %s", error.reason, error.hint)
        self._error = error
