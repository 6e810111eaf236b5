"""The whole pretend site: three gates with camera, loop and pin, an upload server, and faults."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from simulator import clip
from simulator.page import create_page
from simulator.pins import InductionLoop, SimulatedPins
from simulator.receiver import UploadReceiver
from simulator.rtsp_camera import SimulatedCamera
from web_server import WebServer
from worker import stop_all

_HOST: Final = "127.0.0.1"
_CLIPS: Final = Path(__file__).parents[1] / "demo" / "clips"
_PASSWORD: Final = "gate"  # noqa: S105 - of cameras that exist on this computer only
_GATES: Final = (("r1", "entry", 18), ("r2", "exit", 19), ("r3", "aux", 20))
_PORTS_TO_TRY: Final = 50
_STOP_S: Final = 3.0


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


class Site:
    """A pretend site whose parts are started, broken and stopped together.

    Raises:
        OSError: a clip can't be read.
    """

    def __init__(self, folder: Path, *, page_port: int = 0) -> None:
        self.pins = SimulatedPins()
        self.cameras = {
            name: SimulatedCamera(
                clip.load(_CLIPS / f"{file}.h264"), user="demo", password=_PASSWORD
            )
            for name, file, _ in _GATES
        }
        self.loops = {
            name: InductionLoop(self.pins, pin, self.cameras[name]) for name, _, pin in _GATES
        }
        self.receiver = UploadReceiver(folder / "received", free_port())
        self.page_port = free_port(page_port)
        self.active: set[str] = set()
        self.faults = {fault.name: fault for fault in self._faults()}
        self._page = WebServer(create_page(self), _HOST, self.page_port, "pretend site")

    @property
    def page_url(self) -> str:
        """Return where its page is."""
        return f"http://{_HOST}:{self.page_port}"

    def start(self) -> None:
        """Start the cameras, the loops, the upload server and the page."""
        for camera in self.cameras.values():
            camera.start()
        self.receiver.start()
        for worker in (*self.loops.values(), self._page):
            worker.start()

    def stop(self) -> None:
        """End everything."""
        stop_all([self._page, *self.loops.values()], _STOP_S)
        self.receiver.stop()
        for camera in self.cameras.values():
            camera.stop()

    def settings(self) -> dict[str, str]:
        """Return the daemon's settings for this site, as of `.env`."""
        settings = {
            "GPIO_ENABLED": "true",
            "S3_API_URL": self.receiver.url,
            "SITE_ID": "demo-site",
            "STUCK_LOW_S": "10",
            "CONNECTIVITY_CHECK_INTERVAL": "3",
            "OFFLINE_RETRY_INTERVAL": "3",
            "MIN_FREE_DISK_MB": "50",
        }
        for number, (name, _, pin) in enumerate(_GATES, 1):
            settings[f"CAMERA_{number}_RTSP"] = self.cameras[name].url
            settings[f"GPIO_CAMERA_{number}_PIN"] = str(pin)
        return settings

    def clock_synchronized(self) -> bool:
        """Tell whether this site has a time server, whatever this computer has."""
        return "clock" not in self.active

    def set_fault(self, name: str, on: bool) -> None:
        """Break something, or mend it.

        Raises:
            KeyError: there is no such fault.
        """
        fault = self.faults[name]
        if not on:
            if name in self.active:
                self.active.remove(name)
                fault.end()
            return
        if name in self.active:
            return
        for other in [f for f in self.active if self.faults[f].group == fault.group]:
            self.set_fault(other, False)
        self.active.add(name)
        fault.begin()

    def _faults(self) -> Iterable[Fault]:
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
                lambda mode=mode: self.receiver.set_mode(mode),  # type: ignore[misc]
                lambda: self.receiver.set_mode("ok"),
            )
        for name, camera in self.cameras.items():
            yield from _camera_faults(name, camera)
        for name, loop in self.loops.items():
            yield Fault(
                f"jam-{name}",
                _gate(name),
                f"loop {name}",
                f"Jam the loop of {name}",
                "the pin stays LOW; reported after 10 s",
                loop.jam,
                loop.free,
            )
        yield Fault(
            "clock",
            "Clock",
            "clock",
            "Lose the time server",
            "photos are marked, their time may be wrong",
            lambda: None,
            lambda: None,
        )


def _camera_faults(name: str, camera: SimulatedCamera) -> Iterable[Fault]:
    group = f"camera {name}"
    yield Fault(
        f"freeze-{name}",
        _gate(name),
        group,
        f"Freeze camera {name}",
        "it hangs with its connection open: stalled within 2 s",
        camera.freeze,
        camera.thaw,
    )
    yield Fault(
        f"unplug-{name}",
        _gate(name),
        group,
        f"Unplug camera {name}",
        "it is down at once, and back by itself",
        camera.unplug,
        camera.plug,
    )
    yield Fault(
        f"password-{name}",
        _gate(name),
        group,
        f"Change the password of {name}",
        "wrong password (401); tried again once a minute",
        lambda: camera.change_password(f"not-{_PASSWORD}"),
        lambda: camera.change_password(_PASSWORD),
    )


def _gate(name: str) -> str:
    return f"Gate {name}"


def free_port(preferred: int = 0) -> int:
    """Return a free port of the loopback: `preferred` or the next one, 0 for any.

    Raises:
        OSError: all of them are taken.
    """
    if preferred == 0:
        with socket.socket() as probe:
            probe.bind((_HOST, 0))
            return int(probe.getsockname()[1])
    last = min(preferred + _PORTS_TO_TRY, 65535)
    for port in range(preferred, last + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
                probe.listen()
            except OSError:
                continue
            return port
    raise OSError(f"the ports from {preferred} to {last} are all in use")
