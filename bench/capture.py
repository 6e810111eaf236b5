"""The capture engine beside three other ways to get a picture of an edge, in one run.

Three GStreamer cameras at 1080p25, I-frame every 2 s, encoded beforehand; once H.264, once H.265;
the daemon as its own process; random edges on three pins, then edges of gates that were quiet for a
minute. The frame number is read off every picture, ours and theirs, and compared with the camera's
log. Then bursts, faults and reconnects (bench/recovery.py). Prints tables; exits 1 when a gate is
missed. Run: make bench-capture
"""

from __future__ import annotations

import argparse
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
from av.bitstream import BitStreamFilterContext

from bench import recovery
from bench.edges import PAUSE_S, PINS, SAVED, Edge, idle, offsets_ms, pull_at_random
from bench.gates import Gate, cpu_s, percentile, report, rss_mb
from camera.decoder import GopDecoder
from tests.rigs.clips import FFMPEG, clip, read_frame_number
from tests.rigs.daemon import DaemonProcess
from tests.rigs.rtsp import RtspServer

KINDS = {"H.264": "h264-1080p25-gop50", "H.265": "h265-1080p25-gop50"}
DECODERS = {"H.264": "h264", "H.265": "h265"}
DURABLE_OF_COLD = {"H.264": 1 / 12, "H.265": 1 / 8}
GOP = 50
DECODE_S = 15.0
BURST_PAUSE_S = 0.42  # the hold-off is 0.3 s
QUIET_S = 60.0  # of each gate; the gates take turns, so that the box is quiet for a third of it
SETTLED_S = 50.0

Say = Callable[[str], None]
TakeCold = Callable[[str, Path], None]


@dataclass(frozen=True)
class Taken:
    """What one way of taking pictures came to: offsets in ms, edge to durable in s."""

    name: str
    offsets_ms: list[float]
    durable_s: list[float]
    nearest: int = 0

    @property
    def offset_p95_ms(self) -> float:
        """Return the distance from the edge that one picture in twenty exceeds."""
        return percentile([abs(offset) for offset in self.offsets_ms], 0.95)

    def row(self) -> str:
        """Return a line of the table."""
        if not self.offsets_ms:
            return (
                f"{self.name:<28} {len(self.durable_s):4d} edges, no picture whose number is whole"
            )
        return (
            f"{self.name:<28} {len(self.offsets_ms):4d} of {len(self.durable_s)} whole  offset p50"
            f" {statistics.median(self.offsets_ms):+8.1f} ms  |offset| p95"
            f" {self.offset_p95_ms:7.1f} ms  edge to durable p50"
            f" {statistics.median(self.durable_s):.3f} s  p95"
            f" {percentile(self.durable_s, 0.95):.3f} s"
        )


def open_by_opencv(url: str, path: Path) -> None:
    """Open the stream, take the first frame, save it."""
    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG)
    found, bgr = capture.read()
    capture.release()
    if not found:
        raise RuntimeError("OpenCV got no picture")
    path.write_bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())


def open_by_ffmpeg(url: str, path: Path) -> None:
    """Let ffmpeg save one frame."""
    command = [FFMPEG, "-nostdin", "-v", "error", "-y", "-rtsp_transport", "tcp", "-i", url]
    subprocess.run([*command, "-frames:v", "1", "-q:v", "3", str(path)], check=True, timeout=30)


def take_cold(
    name: str, take: TakeCold, server: RtspServer, edges_each: int, seed: int, folder: Path
) -> Taken:
    """Take a picture at random times on three cameras by opening the stream each time."""

    def one(camera: str) -> list[tuple[str, float, float, Path]]:
        chance = random.Random(f"{seed} {camera}")
        pause = threading.Event()
        found = []
        for number in range(edges_each):
            pause.wait(chance.uniform(*PAUSE_S))
            path = folder / f"{camera}_{number}.jpg"
            edge_s = time.monotonic()
            take(server.url(f"/{camera}"), path)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            found.append((camera, edge_s, time.monotonic() - edge_s, path))
        return found

    with ThreadPoolExecutor(len(PINS)) as pool:
        shots = [shot for found in pool.map(one, PINS) for shot in found]
    offsets = []
    for camera, edge_s, duration_s, path in shots:
        number = read_frame_number(np.asarray(cv2.imread(str(path)), np.uint8))
        if number is not None:  # the first frame after joining a stream may be smeared
            # The same number comes again after 8 s: it is the one shot before the file was there.
            offset_s = server.offset_of(f"/{camera}", number, edge_s + duration_s)
            offsets.append((offset_s + duration_s) * 1000)
    return Taken(name, offsets, [duration_s for _, _, duration_s, _ in shots])


def decode_continuously(server: RtspServer) -> float:
    """Return the percentage of one core that decoding three cameras all the time takes."""
    program = (
        "import cv2, sys\ncv2.setNumThreads(1)\ncap = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG)"
        "\nwhile cap.grab(): cap.retrieve()"
    )
    environment = {**os.environ, "OPENCV_LOG_LEVEL": "SILENT"}
    readers = [
        subprocess.Popen([sys.executable, "-c", program, server.url(f"/{name}")], env=environment)
        for name in PINS
    ]
    try:
        threading.Event().wait(6)
        before = sum(cpu_s(reader.pid) for reader in readers)
        threading.Event().wait(DECODE_S)
        return (sum(cpu_s(reader.pid) for reader in readers) - before) / DECODE_S * 100
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()


def decoding_ms(codec: str) -> float:
    """Return the median time of decoding a GOP's first 48 pictures, with nothing else to do.

    The slowest captures consist of it for the most part; it tells how fast this machine is now.
    """
    with av.open(str(clip(KINDS[codec]))) as file:
        video = file.streams.video[0]
        to_annex_b = BitStreamFilterContext(f"{video.name}_mp4toannexb", video)
        coded = [bytes(one) for packet in file.demux(video) for one in to_annex_b.filter(packet)]
    durations_s = []
    for _ in range(15):
        started_s = time.monotonic()
        for _ in GopDecoder(DECODERS[codec]).decode(coded[GOP : GOP + 48]):
            pass  # a list would keep them all: 150 MB of fresh memory, 40 ms more
        durations_s.append(time.monotonic() - started_s)
    return statistics.median(durations_s) * 1000


def pull_in_bursts(daemon: DaemonProcess, edges: int) -> list[Edge]:
    """Pull all pins together, again and again at the limit of the hold-off."""
    found = []
    pause = threading.Event()
    for _ in range(edges // len(PINS) + 1):
        found += [Edge(name, daemon.pull(pin)) for name, pin in PINS.items()]
        pause.wait(BURST_PAUSE_S / 3)
        for pin in PINS.values():
            daemon.let_go(pin)
        pause.wait(BURST_PAUSE_S * 2 / 3)
    return found


def pull_after_quiet(daemon: DaemonProcess, edges_each: int) -> list[Edge]:
    """Pull one pin after the other, each not before its gate was quiet for a minute."""
    found = []
    pause = threading.Event()
    pause.wait(QUIET_S)
    for _ in range(edges_each):
        for name, pin in PINS.items():
            pause.wait(QUIET_S / len(PINS))
            found.append(Edge(name, daemon.pull(pin)))
            pause.wait(0.15)
            daemon.let_go(pin)
    return found


def answers(daemon: DaemonProcess) -> int:
    """Return how many events have ended."""
    return sum(int(daemon.get(f"/api/events?state={s}&per_page=1")["total"]) for s in STATES)


STATES = ("saved", "failed")


def settings_for(server: RtspServer) -> dict[str, str]:
    """Return a daemon's settings for three cameras and their pins."""
    settings = {f"CAMERA_{n}_RTSP": server.url(f"/r{n}") for n in (1, 2, 3)}
    settings |= {f"CAMERA_{n}_ENABLED": "true" for n in (1, 2, 3)}
    return settings | {"GPIO_ENABLED": "true"}


def durable_s(daemon: DaemonProcess) -> list[float]:
    """Return the seconds from edge to durable file, as the daemon's log tells them."""
    return [int(ms) / 1000 for _, ms in SAVED.findall(daemon.log())]


def moment_gates(codec: str, warm: Taken, quiet: Taken, cold: Taken) -> list[Gate]:
    """Return the figures of the right moment, and how soon it is on disk."""
    cold_p95 = percentile(cold.durable_s, 0.95)
    gates = []
    for what, taken in ((codec, warm), (f"{codec} after a quiet minute:", quiet)):
        nearest = taken.nearest / len(taken.offsets_ms) * 100
        durable_of_cold = percentile(taken.durable_s, 0.95) / cold_p95
        offset_of_cold = taken.offset_p95_ms / cold.offset_p95_ms
        gates += [
            Gate(f"{what} nearest frame", nearest, 95, "%", at_least=True),
            Gate(f"{what} |offset| p95", taken.offset_p95_ms, 25, "ms"),
            Gate(f"{what} |offset| p95 / cold", offset_of_cold, 1 / 60, ""),
            Gate(f"{what} edge to durable p95 / cold", durable_of_cold, DURABLE_OF_COLD[codec], ""),
        ]
    return gates


def take_warm(
    name: str, daemon: DaemonProcess, server: RtspServer, pull: Callable[[], list[Edge]]
) -> Taken:
    """Pull pins and return what the daemon made of it."""
    before = len(durable_s(daemon))
    edges = pull()
    daemon.wait_until("all saved", lambda: len(durable_s(daemon)) >= before + len(edges), 60)
    offsets, nearest = offsets_ms(daemon, server, edges)
    return Taken(name, offsets, durable_s(daemon)[before:], nearest)


def run_kind(options: argparse.Namespace, codec: str, say: Say) -> list[Gate]:
    """Compare all ways on one codec; the limits are of opening by OpenCV, at as many edges."""
    edges_each, seed = options.edges, options.seed
    with (
        tempfile.TemporaryDirectory(prefix="bench-capture-") as name,
        RtspServer({f"/{camera}": clip(KINDS[codec]) for camera in PINS}) as server,
    ):
        folder = Path(name)
        before_ms = decoding_ms(codec)
        with DaemonProcess(folder, settings_for(server)) as daemon:
            daemon.start()
            daemon.wait_for_streams(3)
            threading.Event().wait(5)
            cpu, idle_mb = idle(daemon)
            say(f"{codec}: {edges_each} edges on each of 3 pins ...")
            warm = take_warm(
                "packet ring", daemon, server, lambda: pull_at_random(daemon, edges_each, seed)
            )
            captured_mb = rss_mb(daemon.pid)
            threading.Event().wait(SETTLED_S)
            settled_mb = rss_mb(daemon.pid)
            say(f"{codec}: {options.quiet} edges on each of 3 pins, a quiet minute before each ...")
            quiet = take_warm(
                "packet ring, quiet",
                daemon,
                server,
                lambda: pull_after_quiet(daemon, options.quiet),
            )
            daemon.stop()
        after_ms = decoding_ms(codec)
        say(f"{codec}: opening by OpenCV, {edges_each} edges on each of 3 cameras ...")
        opencv = take_cold("opening by OpenCV", open_by_opencv, server, edges_each, seed, folder)
        say(f"{codec}: opening by ffmpeg, {options.ffmpeg} edges on each of 3 cameras ...")
        ffmpeg = take_cold(
            "opening by ffmpeg", open_by_ffmpeg, server, options.ffmpeg, seed, folder
        )
        decoding_cpu = decode_continuously(server)
    for taken in (warm, quiet, opencv, ffmpeg):
        say(f"  {taken.row()}")
    limit_ms = percentile(opencv.durable_s, 0.95) * DURABLE_OF_COLD[codec] * 1000
    say(f"  idle: {cpu:.2f} % of a core for the daemon, {decoding_cpu:.1f} % for three decoders")
    say(f"  48 pictures decoded alone: {before_ms:.0f} ms before, {after_ms:.0f} ms after")
    say(f"  the limit: {limit_ms:.0f} ms; {captured_mb:.0f} MB right after the captures")
    return [
        *moment_gates(codec, warm, quiet, opencv),
        Gate(f"{codec} idle CPU / continuous decode", cpu / decoding_cpu, 1 / 12, ""),
        Gate(f"{codec} idle CPU, 3 cameras", cpu, 4, "% of a core"),
        Gate(f"{codec} idle memory, 3 cameras", idle_mb, 130, "MB"),
        Gate(f"{codec} memory 50 s after the captures, above idle", settled_mb - idle_mb, 25, "MB"),
    ]


def run_bursts(edges: int, say: Say) -> list[Gate]:
    """Pull all pins at the hold-off's limit and count the answers."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-capture-") as folder,
        RtspServer({f"/{camera}": clip(KINDS["H.264"]) for camera in PINS}) as server,
        DaemonProcess(Path(folder), settings_for(server)) as daemon,
    ):
        daemon.start()
        daemon.wait_for_streams(3)
        threading.Event().wait(5)
        say(f"bursts of 3 edges, {edges} in all ...")
        pulled = pull_in_bursts(daemon, edges)
        daemon.wait_until("all answered", lambda: answers(daemon) >= len(pulled), 300)
        offsets, nearest = offsets_ms(daemon, server, pulled)
        say(f"  slowest answer {max(durable_s(daemon)):.1f} s after its edge")
    return [
        Gate("bursts: edges without an answer", len(pulled) - len(offsets), 0, ""),
        Gate("bursts: nearest frame", nearest / len(offsets) * 100, 95, "%", at_least=True),
    ]


def main() -> int:
    """Run the bench and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edges", type=int, default=68, help="edges on each camera")
    parser.add_argument("--quiet", type=int, default=10, help="the same, each after a minute")
    parser.add_argument("--ffmpeg", type=int, default=12, help="the same, opening by ffmpeg")
    parser.add_argument("--bursts", type=int, default=200, help="edges in bursts")
    parser.add_argument("--reconnects", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="a part of H.264, H.265, bursts, recovery")
    options = parser.parse_args()
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "rtsp_transport;tcp"
    os.environ["OPENCV_FFMPEG_IS_THREAD_SAFE"] = "1"  # else the cameras would wait for each other
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

    def say(text: str) -> None:
        print(text, flush=True)

    parts: dict[str, Callable[[], list[Gate]]] = {
        codec: partial(run_kind, options, codec, say) for codec in KINDS
    }
    parts["bursts"] = lambda: run_bursts(options.bursts, say)
    parts["recovery"] = lambda: recovery.run(options.reconnects, say)
    gates = [gate for name, run in parts.items() if re.search(options.only, name) for gate in run()]
    return report(gates)


if __name__ == "__main__":
    sys.exit(main())
