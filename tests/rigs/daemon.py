"""Run the real daemon as its own process, with pins a test can pull."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
FAKE_RPI = Path(__file__).with_name("fake_rpi")
_POLL_S = 0.02
PATIENCE_S = 90.0
"""How long is waited for what comes at once, but on a busy machine."""


def free_port() -> int:
    """Return a port that is free right now."""
    return free_ports(1)[0]


def free_ports(number: int) -> list[int]:
    """Return so many different ports that are free right now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


class DaemonProcess:
    """Own a working directory with a `.env` and the daemon that runs in it.

    Ends the process, whatever happens, when the context is left.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        self.directory = directory
        self.port = free_port()
        self.images = directory / "images"
        self._wire_path = directory / "gpio.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.with_fake_pins = True
        self.more_environment: dict[str, str] = {}
        self.settings = {
            "BIND_IP": "127.0.0.1",
            "BIND_PORT": str(self.port),
            "WEB_AUTH_ENABLED": "false",
            "CAMERA_1_ENABLED": "false",
            "CAMERA_2_ENABLED": "false",
            "CAMERA_3_ENABLED": "false",
            "SITE_ID": "gate-1",
            "SITE_TIMEZONE": "UTC",
            "MIN_FREE_DISK_MB": "0",
            "UPLOAD_ENABLED": "false",
            **settings,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def environment(self) -> dict[str, str]:
        """Return the environment of the process: nothing of ours, and the fake pins."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        if self.with_fake_pins:
            kept |= {"PYTHONPATH": str(FAKE_RPI), "FAKE_GPIO_SOCKET": str(self._wire_path)}
        return kept | self.more_environment

    def write_env(self) -> None:
        """Write the settings to `.env`."""
        lines = [f"{name}='{value}'\n" for name, value in self.settings.items()]
        env_file = self.directory / ".env"
        env_file.write_text("".join(lines), encoding="utf-8")
        env_file.chmod(0o600)

    def start(self) -> None:
        """Start the daemon without waiting for anything."""
        self.write_env()
        self._wire_path.unlink(missing_ok=True)
        with (self.directory / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "main.py")],
                cwd=self.directory,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )

    def command(
        self, *arguments: str, timeout_s: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        """Run main.py with arguments in the same directory and return what it printed."""
        self.write_env()
        environment = {**self.environment(), "FAKE_GPIO_SOCKET": f"{self._wire_path}2"}
        return subprocess.run(
            [sys.executable, str(ROOT / "main.py"), *arguments],
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    @property
    def pid(self) -> int:
        """Return the id of the running daemon."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill the daemon as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send the daemon a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = PATIENCE_S) -> int:
        """Ask the daemon to end and return its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(timeout_s)

    def wait(self, timeout_s: float) -> int:
        """Wait for the daemon to end by itself and return its exit code."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def log(self) -> str:
        """Return what the daemon wrote to its console so far."""
        return (self.directory / "console.log").read_text(encoding="utf-8")

    def pull(self, pin: int) -> float:
        """Pull a pin LOW and return the moment on the monotonic clock."""
        moment_s = time.monotonic()
        self._drive(pin, 0)
        return moment_s

    def let_go(self, pin: int) -> None:
        """Let a pin go HIGH."""
        self._drive(pin, 1)

    def _drive(self, pin: int, level: int) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
            wire.sendto(f"{pin} {level}".encode(), str(self._wire_path))

    def request(
        self, path: str, body: Any = None, method: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Ask the daemon's web interface; return the status and the JSON."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON of a GET."""
        return self.request(path)[1]

    def wait_until(
        self, what: str, condition: Callable[[], bool], timeout_s: float = PATIENCE_S
    ) -> None:
        """Wait for a condition; one that can't be asked yet is not met yet."""
        deadline_s = time.monotonic() + timeout_s
        pause = threading.Event()
        while True:
            try:
                if bool(condition()):
                    return
            except (OSError, KeyError, IndexError):
                pass
            if time.monotonic() > deadline_s:
                raise AssertionError(f"{what} did not happen in {timeout_s:g} s\n{self.log()}")
            pause.wait(_POLL_S)

    def wait_for_streams(self, n: int, timeout_s: float = PATIENCE_S) -> None:
        """Wait until so many cameras stream."""

        def streaming() -> bool:
            cameras = self.get("/api/status")["cameras"]
            return bool(sum(camera["state"] == "streaming" for camera in cameras) >= n)

        self.wait_until(f"{n} cameras streaming", streaming, timeout_s)

    def images_of(self, **query: str) -> list[dict[str, Any]]:
        """Return all images, newest first."""
        words = "&".join(f"{name}={value}" for name, value in query.items())
        found: list[dict[str, Any]] = []
        before = ""
        while before is not None:
            page = self.get(f"/api/images?per_page=200&{words}{before and f'&before={before}'}")
            found += page["images"]
            before = page["next"]
        return found
