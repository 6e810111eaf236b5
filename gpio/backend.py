"""The library that reads the pins, and what its errors mean."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, cast

_DEVICES: Final = Path("/dev")
_PACKAGE_HINT: Final = (
    "Install it with: sudo apt install python3-rpi-lgpio, and use a venv made with "
    "--system-site-packages. Set GPIO_ENABLED=false where there are no pins."
)


class GpioError(Exception):
    """The pins can't be used. `hint` says what to do."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


class GpioBackend(Protocol):
    """The part of the RPi.GPIO module that is used here."""

    BCM: Any
    IN: Any
    PUD_UP: Any
    FALLING: Any
    LOW: Any

    def setmode(self, mode: Any, /) -> None:
        """Choose the numbering of the pins."""

    def setup(self, channel: int, direction: Any, /, *, pull_up_down: Any) -> None:
        """Claim a pin."""

    def add_event_detect(
        self, channel: int, edge: Any, /, *, callback: Callable[[int], None]
    ) -> None:
        """Call back on one thread for all pins."""

    def input(self, channel: int, /) -> Any:
        """Read a level."""

    def cleanup(self) -> None:
        """Give all pins back."""


def load_rpi_gpio(work_dir: Path) -> GpioBackend:
    """Import RPi.GPIO, which rpi-lgpio provides on today's systems.

    The import leaves a FIFO in `work_dir`. The working directory, which it may change, is restored.

    Raises:
        GpioError: the package is not installed, or there are no pins.
    """
    os.environ.setdefault("LG_WD", str(work_dir))
    before = Path.cwd()
    try:
        return cast(GpioBackend, importlib.import_module("RPi.GPIO"))
    except ImportError as error:
        raise GpioError("the RPi.GPIO package is not installed", _PACKAGE_HINT) from error
    except Exception as error:
        raise _gpio_error(error, None) from error
    finally:
        os.chdir(before)


@contextmanager
def in_words(pin: int | None = None) -> Iterator[None]:
    """Turn whatever the library raises into a `GpioError`."""
    try:
        yield
    except Exception as error:
        raise _gpio_error(error, pin) from error


def _gpio_error(error: Exception, pin: int | None) -> GpioError:
    chips = sorted(_DEVICES.glob("gpiochip*"))
    text = str(error) or type(error).__name__
    if not chips:
        return GpioError(
            f"this computer has no GPIO chip ({text})",
            "Run it on a Raspberry Pi, or set GPIO_ENABLED=false.",
        )
    if not any(os.access(chip, os.R_OK | os.W_OK) for chip in chips):
        return GpioError(
            f"no permission to use {chips[0]}",
            "Add the user to the group gpio: sudo usermod -aG gpio $USER, then log in again.",
        )
    if pin is not None:
        return GpioError(
            f"pin {pin} can't be used ({text})",
            "Another program may hold it (see: sudo gpioinfo); end that program.",
        )
    return GpioError(f"GPIO does not work ({text})", _PACKAGE_HINT)
