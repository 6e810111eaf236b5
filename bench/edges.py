"""Edges to durable, uploaded pictures of the right moment, beside opening the stream per edge.

Three GStreamer cameras (1080p25 H.264, I-frame every 2 s, encoded beforehand), the daemon as its
own process, random edges. Prints a table; exits 1 when a gate is missed.
Run: make bench-edges
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from bench.gates import Gate, cpu_s, percentile, report, rss_mb
from tests.rigs.clips import clip, read_frame_number
from tests.rigs.daemon import DaemonProcess
from tests.rigs.receiver import Receiver
from tests.rigs.rtsp import RtspServer

PINS = {"r1": 18, "r2": 19, "r3": 20}
KIND = "h264-1080p25-gop50"
IDLE_S = 15.0
PAUSE_S = (0.6, 5.0)  # between two edges of one camera
SAVED = re.compile(r"camera \S+ saved (\S+): .* durable after (\d+) ms")


@dataclass(frozen=True)
class Edge:
    """A pulled pin: when, and the camera it belongs to."""

    camera: str
    moment_s: float


def pull_at_random(daemon: DaemonProcess, edges_each: int, seed: int) -> list[Edge]:
    """Pull each pin at its own random times, as independent gates do."""

    def one(camera: str) -> list[Edge]:
        chance = random.Random(f"{seed} {camera}")
        pause = threading.Event()
        edges = []
        for _ in range(edges_each):
            pause.wait(chance.uniform(*PAUSE_S))
            edges.append(Edge(camera, daemon.pull(PINS[camera])))
            pause.wait(0.15)
            daemon.let_go(PINS[camera])
        return edges

    with ThreadPoolExecutor(len(PINS)) as pool:
        return [edge for edges in pool.map(one, PINS) for edge in edges]


def open_per_edge(server: RtspServer, edges_each: int, seed: int, folder: Path) -> list[float]:
    """Return the seconds from edge to durable file of the design that opens at the trigger.

    Same cameras, same random times.
    """
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "rtsp_transport;tcp"
    os.environ["OPENCV_FFMPEG_IS_THREAD_SAFE"] = "1"  # else the cameras would wait for each other

    def one(camera: str) -> list[float]:
        chance = random.Random(f"{seed} {camera}")
        pause = threading.Event()
        url = server.url(f"/{camera}")
        durations = []
        for n in range(edges_each):
            pause.wait(chance.uniform(*PAUSE_S))
            durations.append(_open_once(url, folder / f"cold_{camera}_{n}.jpg"))
        return durations

    with ThreadPoolExecutor(len(PINS)) as pool:
        return [duration_s for durations in pool.map(one, PINS) for duration_s in durations]


def _open_once(url: str, path: Path) -> float:
    started_s = time.monotonic()
    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG)
    found, bgr = capture.read()
    capture.release()
    if not found:
        raise RuntimeError("the cold design got no picture")
    done, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])
    with path.open("wb") as file:
        file.write(jpeg.tobytes() if done else b"")
        file.flush()
        os.fsync(file.fileno())
    return time.monotonic() - started_s


def offsets_ms(
    daemon: DaemonProcess, server: RtspServer, edges: list[Edge]
) -> tuple[list[float], int]:
    """Read the frame numbers off the newest pictures: return the offsets and the nearest hits.

    `edges` are the last ones, those of each camera in their order.
    """
    offsets = []
    nearest = 0
    for name in PINS:
        moments = [edge.moment_s for edge in edges if edge.camera == name]
        images = daemon.images_of(camera=name)[: len(moments)][::-1]
        for image, moment_s in zip(images, moments, strict=True):
            jpeg = np.frombuffer((daemon.images / image["filename"]).read_bytes(), np.uint8)
            bgr = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
            number = read_frame_number(np.asarray(bgr, np.uint8))
            if number is None:
                raise RuntimeError(f"{image['filename']} is smeared")
            offsets.append(server.offset_of(f"/{name}", number, moment_s) * 1000)
            nearest += server.nearest_shot(f"/{name}", moment_s).frame_number == number
    return offsets, nearest


def idle(daemon: DaemonProcess) -> tuple[float, float]:
    """Return the percentage of one core and the memory of the daemon left alone."""
    before = cpu_s(daemon.pid)
    threading.Event().wait(IDLE_S)
    return (cpu_s(daemon.pid) - before) / IDLE_S * 100, rss_mb(daemon.pid)


def run(edges_each: int, seed: int, say: Callable[[str], None]) -> list[Gate]:
    """Run everything once and return the figures."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-edges-") as folder,
        RtspServer({f"/{name}": clip(KIND) for name in PINS}) as server,
        Receiver(keep_bodies=True) as receiver,
    ):
        settings = {f"CAMERA_{n}_RTSP": server.url(f"/r{n}") for n in (1, 2, 3)}
        settings |= {f"CAMERA_{n}_ENABLED": "true" for n in (1, 2, 3)}
        settings |= {"GPIO_ENABLED": "true", "UPLOAD_ENABLED": "true", "S3_API_URL": receiver.url}
        with DaemonProcess(Path(folder), settings) as daemon:
            daemon.start()
            daemon.wait_for_streams(3)
            threading.Event().wait(5)
            cpu, memory = idle(daemon)
            say(f"pulling {edges_each} edges on each of 3 pins ...")
            edges = pull_at_random(daemon, edges_each, seed)
            total = len(edges)
            receiver.wait_for(total, 60)
            daemon.wait_until(
                "all marked", lambda: len(daemon.images_of(state="uploaded")) == total
            )
            identical = sum(
                hashlib.sha256((daemon.images / name).read_bytes()).digest()
                == hashlib.sha256(body).digest()
                for name, body in receiver.bodies.items()
            )
            offsets, nearest = offsets_ms(daemon, server, edges)
            warm = [int(ms) / 1000 for _, ms in SAVED.findall(daemon.log())]
            memory_after = rss_mb(daemon.pid)
            daemon.stop()
        say("opening the stream per edge ...")
        cold = open_per_edge(server, edges_each, seed, Path(folder))
        uploads = [upload.filename for upload in receiver.accepted]
        absolute = [abs(offset) for offset in offsets]
        warm_p95, cold_p95 = percentile(warm, 0.95), percentile(cold, 0.95)
        say(
            f"offset: median {statistics.median(offsets):+.1f} ms; edge to durable p50 "
            f"{statistics.median(warm):.3f} s, p95 {warm_p95:.3f} s; opening per edge p50 "
            f"{statistics.median(cold):.3f} s, p95 {cold_p95:.3f} s"
        )
        return [
            Gate("pictures saved", len(warm), total, "", at_least=True),
            Gate("uploaded exactly once", len(set(uploads)), total, "", at_least=True),
            Gate("uploads more than once", len(uploads) - len(set(uploads)), 0, ""),
            Gate("byte-identical at the receiver", identical, total, "", at_least=True),
            Gate("|offset| p95", percentile(absolute, 0.95), 25, "ms"),
            Gate("nearest frame", nearest / total * 100, 95, "%", at_least=True),
            Gate("edge to durable p95 / cold p95", warm_p95 / cold_p95, 0.1, ""),
            Gate("idle CPU, 3 cameras", cpu, 6, "% of a core"),
            Gate("idle memory, 3 cameras", memory, 150, "MB"),
            Gate("memory after the captures", memory_after, 150, "MB"),
        ]


def main() -> int:
    """Run the bench and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edges", type=int, default=8, help="edges on each camera")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    gates = run(options.edges, options.seed, lambda text: print(text, flush=True))
    return report(gates)


if __name__ == "__main__":
    sys.exit(main())
