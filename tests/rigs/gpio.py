"""The simulator's pins with faults: the errors and lost edges of the real library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from simulator.pins import SimulatedPins

_SETTLE_TIMEOUT_S = 5.0


class FakeGpio(SimulatedPins):
    """Stand in for the module `RPi.GPIO`; `settle()` waits until every callback has run."""

    def __init__(self, low: Iterable[int] = ()) -> None:
        super().__init__(low)
        self.cleanups = 0
        self._lost: set[int] = set()
        self._setup_errors: dict[int | None, BaseException] = {}
        self._mode_error: BaseException | None = None
        self._input_error: BaseException | None = None
        self._before_detect: Callable[[int], None] | None = None

    def setmode(self, mode: int, /) -> None:
        """Choose the numbering of the pins, unless it is to fail."""
        if self._mode_error is not None:
            raise self._mode_error
        super().setmode(mode)

    def setup(self, channel: int, direction: int, /, *, pull_up_down: int) -> None:
        """Claim a pin, unless it is to fail."""
        error = self._setup_errors.get(channel) or self._setup_errors.get(None)
        if error is not None:
            raise error
        super().setup(channel, direction, pull_up_down=pull_up_down)

    def add_event_detect(
        self,
        channel: int,
        edge: int,
        /,
        callback: Callable[[int], None],
        bouncetime: int | None = None,
    ) -> None:
        """Call back for the edges to come, after what is to happen before."""
        if self._before_detect is not None:
            self._before_detect(channel)
        super().add_event_detect(channel, edge, callback, bouncetime)

    def input(self, channel: int, /) -> int:
        """Read a level, unless it is to fail."""
        if self._input_error is not None:
            raise self._input_error
        return super().input(channel)

    def cleanup(self) -> None:
        """Give all pins back and count it."""
        self.cleanups += 1
        super().cleanup()

    def drive_low(self, pin: int) -> None:
        """Pull a pin LOW; tell nobody when its next edge is to be lost."""
        if pin not in self._lost:
            super().drive_low(pin)
            return
        self._lost.remove(pin)
        with self._changed:
            self._low.add(pin)

    def bounce(self, pin: int, times: int = 5, *, ends_low: bool = True) -> None:
        """Let a contact chatter: so many falling edges, then rest."""
        for _ in range(times):
            self.drive_high(pin)
            self.drive_low(pin)
        if not ends_low:
            self.drive_high(pin)

    def lose_next_edge(self, pin: int) -> None:
        """Change the level at the next edge, and tell nobody."""
        self._lost.add(pin)

    def fail_setup(self, error: BaseException | None, pin: int | None = None) -> None:
        """Let `setup` of one pin, or of any, raise from now on; `None` ends it."""
        if error is None:
            self._setup_errors.pop(pin, None)
        else:
            self._setup_errors[pin] = error

    def fail_setmode(self, error: BaseException | None) -> None:
        """Let `setmode` raise from now on; `None` ends it."""
        self._mode_error = error

    def fail_input(self, error: BaseException | None) -> None:
        """Let `input` raise from now on; `None` ends it."""
        self._input_error = error

    def before_detect(self, act: Callable[[int], None]) -> None:
        """Do something to a pin between its `setup` and its first possible edge."""
        self._before_detect = act

    @contextmanager
    def callbacks_held_back(self) -> Iterator[None]:
        """Delay the callbacks of edges until the block ends."""
        with self._changed:
            self._held_back = True
        try:
            yield
        finally:
            with self._changed:
                self._held_back = False
                self._changed.notify_all()

    def settle(self) -> None:
        """Wait until all callbacks of past edges have returned."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: not self._calls_back or not (self._edges or self._calling),
                _SETTLE_TIMEOUT_S,
            )
        if not done:
            raise AssertionError("a callback does not return: all pins are blind meanwhile")

    @property
    def calls_back(self) -> bool:
        """Tell whether the callback thread lives; it dies of what escapes from a callback."""
        with self._changed:
            return self._calls_back

    @property
    def _calls_back(self) -> bool:
        return self._thread is not None and self._thread.is_alive()
