"""What cameras, pins and uploads may say of themselves."""

from __future__ import annotations

from dataclasses import replace

from camera.frame import StreamStatus
from gpio.pins import GpioStatus, PinStatus
from upload.progress import UploadStatus

STREAMING = StreamStatus(
    state="streaming",
    error=None,
    hint=None,
    last_frame_age_s=0.04,
    fps=25.0,
    width=1920,
    height=1080,
    codec="h264",
    gop_s=1.0,
    gop_too_long=False,
    ring_too_short=False,
    clock_ppm=40,
    advice=None,
)
DOWN = replace(STREAMING, state="down", error="wrong password (401)", hint="Check the password.")
STALLED = replace(STREAMING, state="stalled", error="no new picture for 3 s", hint="Restart it.")
LONG_GOP = replace(STREAMING, gop_s=12.0, gop_too_long=True, advice="Set it to 1 s.")
TOO_MUCH = replace(STREAMING, ring_too_short=True)
CONNECTING = replace(STREAMING, state="connecting")
PIN = PinStatus("camera_1", 18, "HIGH", None, 0, 0, stuck_low=False)
GPIO = GpioStatus(enabled=True, available=True, error=None, hint=None, pins=(PIN,))
BROKEN_GPIO = replace(GPIO, available=False, error="pin 18 can't be used", hint="End it.")
STUCK_GPIO = replace(GPIO, pins=(PIN, replace(PIN, camera_key="camera_2", pin=19, stuck_low=True)))
UPLOAD = UploadStatus(
    enabled=True,
    online=True,
    paused=None,
    hint=None,
    captive_portal=False,
    queue_size=0,
    target="https://example.org",
    drain=None,
)
