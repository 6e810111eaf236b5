"""A pretend RPi.GPIO, as true to the real one as the daemon can tell.

One thread calls back for all pins; an edge calls back only when `add_event_detect` came before it,
so a pin that is LOW from the start never does. What must not be done to the real library fails
here: a `bouncetime`, a second `setup` of a pin.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

_SETTLE_TIMEOUT_S = 5.0


class FakeGpio:
    """Stand in for the module `RPi.GPIO`; tests move the pins.

    The verbs return at once, as a relay does; `settle()` waits until every callback has run.
    """

    def __init__(self, low: Iterable[int] = ()) -> None:
        self.BCM = 11
        self.IN = 1
        self.PUD_UP = 22
        self.FALLING = 32
        self.LOW = 0
        self.HIGH = 1
        self.claimed: set[int] = set()
        self.cleanups = 0
        self._mode: int | None = None
        self._low = set(low)
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._lost: set[int] = set()
        self._setup_errors: dict[int | None, BaseException] = {}
        self._mode_error: BaseException | None = None
        self._input_error: BaseException | None = None
        self._before_detect: Callable[[int], None] | None = None
        self._changed = threading.Condition()
        self._edges: deque[int] = deque()
        self._calling = False
        self._held_back = False
        self._ending = False
        self._thread: threading.Thread | None = None

    # What the daemon calls.

    def setmode(self, mode: int) -> None:
        """Choose the numbering of the pins."""
        if self._mode_error is not None:
            raise self._mode_error
        if mode != self.BCM:
            raise AssertionError("pins are BCM numbers")
        self._mode = mode

    def setup(self, channel: int, direction: int, *, pull_up_down: int) -> None:
        """Claim a pin, once."""
        if self._mode is None:
            raise RuntimeError("Please set pin numbering mode using GPIO.setmode(GPIO.BCM)")
        error = self._setup_errors.get(channel) or self._setup_errors.get(None)
        if error is not None:
            raise error
        if (direction, pull_up_down) != (self.IN, self.PUD_UP):
            raise AssertionError("pins are inputs with a pull-up")
        if channel in self.claimed:
            raise AssertionError(f"pin {channel} was set up twice: its callbacks would stop")
        self.claimed.add(channel)

    def add_event_detect(
        self,
        channel: int,
        edge: int,
        callback: Callable[[int], None],
        bouncetime: int | None = None,
    ) -> None:
        """Call back for the edges to come."""
        if bouncetime is not None:
            raise AssertionError("bouncetime delays triggers and loses some")
        if edge != self.FALLING:
            raise AssertionError("only falling edges are triggers")
        self._need(channel)
        if channel in self._callbacks:
            raise RuntimeError("Conflicting edge detection already enabled for this GPIO channel")
        if self._before_detect is not None:
            self._before_detect(channel)
        with self._changed:
            self._callbacks[channel] = callback
        if self._thread is None:
            self._ending = False
            self._thread = threading.Thread(target=self._call_back, name="fake-gpio")
            self._thread.start()

    def input(self, channel: int) -> int:
        """Read a level."""
        if self._input_error is not None:
            raise self._input_error
        self._need(channel)
        with self._changed:
            return self.LOW if channel in self._low else self.HIGH

    def cleanup(self) -> None:
        """Give all pins back and end the callbacks."""
        self.cleanups += 1
        with self._changed:
            self.claimed.clear()
            self._callbacks.clear()
            self._edges.clear()
            self._mode = None
            self._ending = True
            self._changed.notify_all()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    # What tests do to the pins.

    def drive_low(self, pin: int) -> None:
        """Pull a pin LOW: an edge, unless it is LOW already."""
        with self._changed:
            if pin in self._low:
                return
            self._low.add(pin)
            if pin in self._lost:
                self._lost.remove(pin)
            elif pin in self._callbacks:
                self._edges.append(pin)
                self._changed.notify_all()

    def drive_high(self, pin: int) -> None:
        """Let go of a pin: no edge that anybody is told of."""
        with self._changed:
            self._low.discard(pin)

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

    def _need(self, channel: int) -> None:
        if channel not in self.claimed:
            raise RuntimeError("You must setup() the GPIO channel first")

    def _call_back(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._ending or (self._edges and not self._held_back)
                )
                if self._ending:
                    return
                pin = self._edges.popleft()
                callback = self._callbacks[pin]
                self._calling = True
            try:
                callback(pin)
            except BaseException:  # noqa: BLE001 - the real thread ends as silently
                return
            finally:
                with self._changed:
                    self._calling = False
                    self._changed.notify_all()
