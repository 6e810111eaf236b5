"""What can go wrong at the pretend site, and the switches for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from simulator.pins import InductionLoop
from simulator.receiver import UploadReceiver
from simulator.rtsp_camera import SimulatedCamera

CAMERA_PASSWORD: Final = "gate"  # noqa: S105 - of cameras that exist on this computer only


@dataclass(frozen=True)
class Fault:
    """Something that can go wrong at a place; of one `group` only one thing at a time."""

    name: str
    place: str
    group: str
    label: str
    effect: str
    begin: Callable[[], None]
    end: Callable[[], None]


class Faults:
    """All faults of a site by their names, and which of them are on."""

    def __init__(
        self,
        cameras: Mapping[str, SimulatedCamera],
        loops: Mapping[str, InductionLoop],
        receiver: UploadReceiver,
    ) -> None:
        self.active: set[str] = set()
        found = (*_upload_faults(receiver), *_gate_faults(cameras, loops), _CLOCK)
        self.by_name = {fault.name: fault for fault in found}

    def switch(self, name: str, on: bool) -> None:
        """Break something, or mend it.

        Raises:
            KeyError: there is no such fault.
        """
        fault = self.by_name[name]
        if not on:
            if name in self.active:
                self.active.remove(name)
                fault.end()
            return
        if name in self.active:
            return
        for other in [f for f in self.active if self.by_name[f].group == fault.group]:
            self.switch(other, False)
        self.active.add(name)
        fault.begin()


def _nothing() -> None:
    """Who asks for the state of the clock looks at what is active."""


_CLOCK: Final = Fault(
    "clock",
    "Clock",
    "clock",
    "Lose the time server",
    "photos are marked, their time may be wrong",
    _nothing,
    _nothing,
)


def _upload_faults(receiver: UploadReceiver) -> Iterable[Fault]:
    for mode, label, effect in (
        ("offline", "Stop the internet", "pictures wait as pending, then go up by themselves"),
        ("error-503", "Server error 503", "uploads are tried again, with growing pauses"),
        ("unauthorized", "Refuse the token (401)", "the queue pauses and says what is wrong"),
        ("slow", "Slow server", "every upload takes 6 s; captures don't care"),
        ("captive-portal", "Captive portal", "a login page answers; nothing counts as sent"),
    ):
        yield Fault(
            mode,
            "Internet and upload server",
            "internet",
            label,
            effect,
            lambda mode=mode: receiver.set_mode(mode),  # type: ignore[misc]
            lambda: receiver.set_mode("ok"),
        )


def _gate_faults(
    cameras: Mapping[str, SimulatedCamera], loops: Mapping[str, InductionLoop]
) -> Iterable[Fault]:
    for name, camera in cameras.items():
        yield from _camera_faults(name, camera)
    for name, loop in loops.items():
        yield Fault(
            f"jam-{name}",
            _gate(name),
            f"loop {name}",
            f"Jam the loop of {name}",
            "the pin stays LOW; reported after 10 s",
            loop.jam,
            loop.free,
        )


def _camera_faults(name: str, camera: SimulatedCamera) -> Iterable[Fault]:
    for kind, label, effect, begin, end in (
        (
            *("freeze", f"Freeze camera {name}"),
            "it hangs with its connection open: stalled within 2 s",
            *(camera.freeze, camera.thaw),
        ),
        (
            *("unplug", f"Unplug camera {name}"),
            "it is down at once, and back by itself",
            *(camera.unplug, camera.plug),
        ),
        (
            *("password", f"Change the password of {name}"),
            "wrong password (401); tried again once a minute",
            lambda: camera.change_password(f"not-{CAMERA_PASSWORD}"),
            lambda: camera.change_password(CAMERA_PASSWORD),
        ),
        (
            *("slow-clock", f"Let the clock of {name} run slow"),
            "its stamps are 4 % too slow: the moments stay right, a hint says what to set",
            lambda: camera.run_clock_at(0.96),
            lambda: camera.run_clock_at(1),
        ),
        (
            *("still-clock", f"Stop the clock of {name}"),
            "its stamps stand still: photos are marked, their moment is unsure",
            lambda: camera.run_clock_at(0),
            lambda: camera.run_clock_at(1),
        ),
        (
            *("lossy", f"Lose packets of {name}"),
            "one in fifty is lost: photos show the nearest whole picture, and say so",
            lambda: camera.lose(0.02),
            lambda: camera.lose(0),
        ),
        (
            *("no-keyframes", f"Send no keyframes from {name}"),
            "no picture can be shown: it says that, and what to set",
            lambda: camera.send_keyframes(False),
            lambda: camera.send_keyframes(True),
        ),
    ):
        yield Fault(f"{kind}-{name}", _gate(name), f"camera {name}", label, effect, begin, end)


def _gate(name: str) -> str:
    return f"Gate {name}"
