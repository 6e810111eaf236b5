"""How soon a fault of a camera or its network is noticed and got over, and what many cost.

Three GStreamer cameras behind lines that can fail, the daemon as its own process.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

from bench.gates import Gate, rss_mb
from tests.rigs.clips import clip
from tests.rigs.daemon import DaemonProcess, free_port
from tests.rigs.line import Line
from tests.rigs.rtsp import RtspServer

KIND = "h264-720p25-gop25"
NAMES = ("r1", "r2", "r3")
PATIENCE_S = 90.0
WEB_THREADS = 6


class Site:
    """A daemon, its cameras and the lines between them."""

    def __init__(self, stack: ExitStack) -> None:
        self.server = stack.enter_context(RtspServer({f"/{name}": clip(KIND) for name in NAMES}))
        self.lines = {name: stack.enter_context(Line(self.server.port)) for name in NAMES}
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-recovery-")))
        settings = {f"CAMERA_{n}_ENABLED": "true" for n in (1, 2, 3)}
        settings |= {
            f"CAMERA_{n}_RTSP": line.url(f"/{name}")
            for n, (name, line) in enumerate(self.lines.items(), 1)
        }
        self.daemon = stack.enter_context(DaemonProcess(folder, settings))
        self.daemon.start()
        self.daemon.wait_for_streams(3)
        threading.Event().wait(3)

    def state(self, name: str) -> str:
        """Return what the API calls a camera's state."""
        cameras = self.daemon.get("/api/status")["cameras"]
        return str(next(camera["state"] for camera in cameras if camera["name"] == name))

    def until(self, name: str, *states: str) -> float:
        """Wait for one of the states and return the moment it was seen."""
        self.daemon.wait_until(f"{name} {states}", lambda: self.state(name) in states, PATIENCE_S)
        return time.monotonic()

    def stalled_after_s(self) -> float:
        """Freeze a camera and return when it was called stalled."""
        self.server.freeze("/r1")
        frozen_s = time.monotonic()
        seen_s = self.until("r1", "stalled") - frozen_s
        self.until("r1", "down")
        return seen_s

    def recovery_s(self, fail: Callable[[], None], mend: Callable[[], None]) -> float:
        """Return how long after the end of a fault the camera streams again."""
        fail()
        self.until("r1", "down", "stalled", "connecting")
        threading.Event().wait(5)  # until the waits between two attempts are at their longest
        mend()
        mended_s = time.monotonic()
        return self.until("r1", "streaming") - mended_s


def run(reconnects: int, say: Callable[[str], None]) -> list[Gate]:
    """Let everything fail once and return the figures."""
    with ExitStack() as stack:
        site = Site(stack)
        server, line = site.server, site.lines["r1"]
        say("faults ...")
        stalled_s = site.stalled_after_s()
        recovered = {"frozen": site.recovery_s(lambda: None, lambda: server.resume("/r1"))}
        recovered["switched off"] = site.recovery_s(line.unplug, line.mend)
        recovered["network cut"] = site.recovery_s(line.cut, line.mend)
        recovered["garbage"] = site.recovery_s(line.talk_noise, line.mend)
        recovered["trickle"] = site.recovery_s(lambda: line.trickle(2000), line.mend)
        recovered["killed"] = site.recovery_s(server.kill, server.restart)
        for name, seconds in recovered.items():
            say(f"  {name}: streaming again after {seconds:.2f} s")
        gates = [
            Gate("frozen camera is stalled after", stalled_s, 2, "s"),
            Gate("slowest recovery", max(recovered.values()), 4, "s"),
            *run_reconnects(site, reconnects, say),
        ]
    return [*gates, Gate("recovery from a refused password", after_refusal_s(say), 65, "s")]


def run_reconnects(site: Site, reconnects: int, say: Callable[[str], None]) -> list[Gate]:
    """Reset connections again and again and see what is left behind."""
    pid = site.daemon.pid
    each = reconnects // len(NAMES) + 1
    say(f"{each} reconnects on each of 3 cameras ...")
    reset_all(site, 3)  # what is allocated once is not a leak
    with ThreadPoolExecutor(WEB_THREADS * 2) as pool:  # as each thread's view of the catalog
        list(pool.map(site.daemon.get, ["/api/status"] * WEB_THREADS * 20))
    site.daemon.wait_until(
        "the first cleanup",
        lambda: site.daemon.get("/api/stats")["cleanup"]["last_run_at"] is not None,
        PATIENCE_S,
    )
    threading.Event().wait(2)
    before = (rss_mb(pid), *tasks_and_files(pid))
    reset_all(site, each)
    for name in NAMES:
        site.until(name, "streaming")
    threading.Event().wait(2)
    after = (rss_mb(pid), *tasks_and_files(pid))
    say(f"  memory {before[0]:.1f} MB, then {after[0]:.1f} MB")
    say(f"  descriptors {', '.join(sorted(after[2] - before[2])) or 'none'} came")
    return [
        Gate(f"memory after {each * len(NAMES)} reconnects, more", after[0] - before[0], 10, "MB"),
        Gate("threads more", after[1] - before[1], 0, ""),
        Gate("descriptors more", len(after[2]) - len(before[2]), 0, ""),
    ]


def reset_all(site: Site, times: int) -> None:
    """Reset every line so often, each time once its camera has streamed anew."""
    pause = threading.Event()
    for _ in range(times):
        made = {name: line.connections for name, line in site.lines.items()}
        for line in site.lines.values():
            line.reset()
        for name, line in site.lines.items():
            deadline_s = time.monotonic() + PATIENCE_S
            while line.connections == made[name] and time.monotonic() < deadline_s:
                pause.wait(0.01)
        pause.wait(0.3)


def tasks_and_files(pid: int) -> tuple[int, set[str]]:
    """Return how many threads a process has, and its descriptors with what they are open on."""
    root = Path(f"/proc/{pid}")
    files = set()
    for link in (root / "fd").iterdir():
        with suppress(FileNotFoundError):
            files.add(f"{link.name}:{link.readlink()}")
    return len(list((root / "task").iterdir())), files


def after_refusal_s(say: Callable[[str], None]) -> float:
    """Return how long after a camera takes the password again it streams."""
    say("a refused password ...")
    port = free_port()
    mounts = {"/r1": clip(KIND)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-recovery-")))
        with RtspServer(mounts, user="admin", password="other", port=port) as server:
            url = server.url("/r1", "admin", "right")
            settings = {"CAMERA_1_ENABLED": "true", "CAMERA_1_RTSP": url}
            daemon = stack.enter_context(DaemonProcess(folder, settings))
            daemon.start()

            def is_refused() -> bool:
                return "password" in (daemon.get("/api/status")["cameras"][0]["error"] or "")

            daemon.wait_until("the refusal", is_refused)
        stack.enter_context(RtspServer(mounts, user="admin", password="right", port=port))
        mended_s = time.monotonic()
        daemon.wait_for_streams(1, PATIENCE_S)
        return time.monotonic() - mended_s
