"""Run `main.py --demo` as a user does, and press the pretend site's buttons."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simulator import clip
from tests.rigs.daemon import PATIENCE_S, ROOT
from tests.rigs.gates import CLIPS, NAMES, number_in

FILES = dict(zip(("r1", "r2", "r3"), NAMES, strict=True))


class Demo:
    """A running demo: its dashboard's API and the pretend site's buttons."""

    def __init__(self, process: subprocess.Popen[str], lines: list[str]) -> None:
        self.process = process
        self.lines = lines
        self.url = self.address("Dashboard")
        self.site = self.address("Pretend site")

    def address(self, name: str) -> str:
        """Wait for an address that is printed and return it."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            found = re.search(rf"{name}\s+(http://\S+)", "".join(self.lines))
            if found:
                return found[1]
            threading.Event().wait(0.05)
        raise AssertionError("".join(self.lines))

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON of a GET."""
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE_S) as reply:  # noqa: S310
            document: dict[str, Any] = json.loads(reply.read())
            return document

    def read(self, path: str) -> bytes:
        """Return the body of a GET."""
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE_S) as reply:  # noqa: S310
            body: bytes = reply.read()
            return body

    def post(self, url: str, body: bytes = b"", origin: str | None = None) -> int:
        """Post to an address and return the status."""
        headers = {"Origin": origin} if origin else {}
        request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:  # noqa: S310
            return int(reply.status)

    def fault(self, name: str, on: bool) -> None:
        """Break something, or mend it."""
        body = f"on={int(on)}".encode()
        assert self.post(f"{self.site}/faults/{name}", body, self.site) == 200

    def wait_until(
        self, what: str, condition: Callable[[], object], timeout_s: float = PATIENCE_S
    ) -> None:
        """Wait for a condition; one that can't be asked yet is not met yet."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            try:
                if condition():
                    return
            except OSError:
                pass
            threading.Event().wait(0.05)
        raise AssertionError(f"{what} did not happen in {timeout_s:g} s\n{''.join(self.lines)}")

    def wait_for_state(self, name: str, state: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until a camera is in a state."""
        self.wait_until(f"{name} {state}", lambda: self.camera(name)["state"] == state, timeout_s)

    def wait_for_alert(self, code: str) -> None:
        """Wait until an alert stands."""
        self.wait_until(code, lambda: code in self.alerts())

    def alerts(self) -> set[str]:
        """Return the codes of the standing alerts."""
        return {alert["code"] for alert in self.get("/api/status")["alerts"]}

    def camera(self, name: str) -> dict[str, Any]:
        """Return what is known of a camera."""
        cameras = self.get("/api/status")["cameras"]
        return next(camera for camera in cameras if camera["name"] == name)


@contextmanager
def demo(tmp_path: Path, *arguments: str, **environment: str) -> Iterator[Demo]:
    """Run the demo in a folder, and end it whatever happens."""
    (tmp_path / "tmp").mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), "--demo", *arguments],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path / "tmp"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    assert process.stdout is not None
    reading = threading.Thread(target=lines.extend, args=(process.stdout,))
    reading.start()
    try:
        yield Demo(process, lines)
    finally:
        process.kill()
        process.wait()
        reading.join()
        process.stdout.close()


def visits_of(camera: str) -> tuple[clip.Visit, ...]:
    """Return the cars of a camera's clip."""
    return clip.load(CLIPS / f"{FILES[camera]}.h264").visits


def frames_after_the_stop(image: dict[str, Any], jpeg: bytes) -> int:
    """Return how many frames after (negative: before) its car came to stand a picture is."""
    number = number_in(jpeg)
    return min((number - visit.stops_at_frame for visit in visits_of(image["camera"])), key=abs)
