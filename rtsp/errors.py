"""Why a camera does not deliver its video, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_HINTS: Final = {
    "unknown_host": "Check the camera's host name, or enter its IP address instead.",
    "refused": "Check the port, and that RTSP is switched on in the camera's network settings.",
    "unreachable": "Check power, cable and switch, and that this computer is in the same network.",
    "timeout": "Check power, cable and IP address; restart the camera if it answers a ping.",
    "not_rtsp": "Check address and port; the camera's RTSP port is usually 554.",
    "wrong_password": "Correct the camera's user name and password in .env; after several wrong "
    "attempts many cameras refuse even the right one for some minutes.",
    "wrong_path": "Correct the stream path: the camera's manual or web page names its RTSP URL.",
    "no_video": "Switch the video stream on in the camera, or choose the path of another stream.",
    "unsupported_codec": "Set the camera's video encoding to H.264, H.265 or MJPEG.",
    "unsupported_transport": "Set RTSP_TRANSPORT to the other one of tcp and udp.",
    "closed": "Check the camera's power and network cable.",
    "server_error": "Restart the camera; if that doesn't help, close other viewers of its stream.",
}


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a camera, why, and what to do about it."""

    code: str
    """A key of `_HINTS`, or of a diagnosis of its own."""
    reason: str
    hint: str


SILENT: Final = Diagnosis(
    "silent",
    "answers but sends no picture",
    "Restart the camera; check that its stream is enabled and its network is not overloaded.",
)


class RtspError(Exception):
    """The camera does not deliver its video, or has stopped to; `diagnosis` says why."""

    def __init__(self, code: str, reason: str, hint: str = "", *, status: int = 0) -> None:
        super().__init__(reason)
        self.diagnosis = Diagnosis(code, reason, hint or _HINTS[code])
        self.status = status
        """Of the reply that refused a request; 0 when there was none."""
