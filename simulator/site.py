"""The whole pretend site: three gates with camera, loop and pin, an upload server, and faults."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

from runtime.worker import stop_all
from simulator import clip
from simulator.faults import CAMERA_PASSWORD, Faults
from simulator.page import create_page
from simulator.pins import InductionLoop, SimulatedPins
from simulator.receiver import UploadReceiver
from simulator.rtsp_camera import SimulatedCamera
from web.server import WebServer

_HOST: Final = "127.0.0.1"
_CLIPS: Final = Path(__file__).parents[1] / "demo" / "clips"
_GATES: Final = (("r1", "entry", 18), ("r2", "exit", 19), ("r3", "aux", 20))
_PORTS_TO_TRY: Final = 50
_STOP_S: Final = 3.0


class Site:
    """A pretend site whose parts are started, broken and stopped together.

    Raises:
        OSError: a clip can't be read.
    """

    def __init__(self, folder: Path, *, page_port: int = 0) -> None:
        self.pins = SimulatedPins()
        self.cameras = {
            name: SimulatedCamera(
                clip.load(_CLIPS / f"{file}.h264"), user="demo", password=CAMERA_PASSWORD
            )
            for name, file, _ in _GATES
        }
        self.loops = {
            name: InductionLoop(self.pins, pin, self.cameras[name]) for name, _, pin in _GATES
        }
        self.receiver = UploadReceiver(folder / "received", free_port())
        self.page_port = free_port(page_port)
        self.faults = Faults(self.cameras, self.loops, self.receiver)
        page = create_page(self.faults, self.receiver)
        self._page = WebServer(page, _HOST, self.page_port, "pretend site")

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
        return "clock" not in self.faults.active


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
