"""Serve encoded clips as endless RTSP cameras and log the moment of every shot.

A stand-alone program for the system's Python (`/usr/bin/python3` with gi and GstRtspServer). Each
mount is a free-running camera: it shoots whether somebody watches or not, so a client joins in the
middle of a GOP. Nothing is decoded or encoded while serving.

Log lines: `mount frame_number loop_index monotonic_s`, the last on CLOCK_MONOTONIC, which all
processes of a host share. The RTP timestamps carry the same moments. A clip with B-frames is sent
in decode order after the encoder's delay; its shots are logged when sent, with their own moment.

Commands on stdin, each answered by `OK command` or `ERROR reason`: `freeze MOUNT` (shoot no more,
keep the sessions), `resume MOUNT`, `switch MOUNT` (go on with the mount's other clip, as when the
resolution is changed in the camera's settings), `quit`. The end of stdin quits too.
"""

from __future__ import annotations

import argparse
import functools
import gc
import math
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstApp, GstRtsp, GstRtspServer  # noqa: E402

PARAMETER_SETS = {"video/x-h264": {7, 8}, "video/x-h265": {32, 33, 34}}
LATE_S = 0.2  # a schedule missed by more than this is moved, not caught up with
STAGGER_S = 0.0137  # real cameras do not shoot at the same instant
REALM = "camera"
ROLE = "viewer"

# Length-prefixed NAL units, not a byte stream: their caps carry the parameter sets, so that
# DESCRIBE can be answered without waiting for a keyframe. The clips carry the sets in band too.
FORMATS = {
    "video/x-h264": (
        "h264parse ! video/x-h264,stream-format=avc,alignment=au",
        "rtph264pay config-interval={sets} aggregate-mode=none",
    ),
    "video/x-h265": (
        "h265parse ! video/x-h265,stream-format=hvc1,alignment=au",
        "rtph265pay config-interval={sets} aggregate-mode=none",
    ),
    "image/jpeg": ("jpegparse ! image/jpeg", "rtpjpegpay"),
}


@dataclass(frozen=True)
class Unit:
    """Hold one access unit and the number of the frame it shows."""

    payload: GLib.Bytes
    number: int
    keyframe: bool


@dataclass
class Clip:
    """Hold a clip in memory, its units in decode order."""

    caps: Gst.Caps
    payloader: str
    period_s: float
    units: list[Unit] = field(default_factory=list)

    @functools.cached_property
    def reorder_frames(self) -> int:
        """Return how many frames the encoder waits before it can send (0 without B-frames)."""
        return max(unit.number - place for place, unit in enumerate(self.units))


def without_sets(payload: bytes, media_type: str) -> bytes:
    """Return an access unit of length-prefixed NAL units without parameter sets."""
    kept, at = [], 0
    while at < len(payload):
        end = at + 4 + int.from_bytes(payload[at : at + 4], "big")
        header = payload[at + 4]
        kind = header & 0x1F if media_type == "video/x-h264" else header >> 1 & 0x3F
        if kind not in PARAMETER_SETS[media_type]:
            kept.append(payload[at:end])
        at = end
    return b"".join(kept)


def load_clip(path: Path, *, sets: str) -> Clip:
    """Read all access units of a Matroska file with one video track."""
    if not path.is_file():
        raise SystemExit(f"cannot read {path}: no such file")
    media_type = _media_type(path)
    parser, payloader = FORMATS[media_type]
    pipeline, sink = _demux(path, f"{parser} ! appsink name=sink sync=false")
    units: list[tuple[int, bytes, bool]] = []
    caps = None
    pipeline.set_state(Gst.State.PLAYING)
    try:
        while (sample := sink.try_pull_sample(10 * Gst.SECOND)) is not None:
            buffer = sample.get_buffer()
            caps = caps or sample.get_caps()
            key = not buffer.has_flags(Gst.BufferFlags.DELTA_UNIT)
            payload = buffer.extract_dup(0, buffer.get_size())
            if sets == "described":
                payload = without_sets(payload, media_type)
            units.append((buffer.pts, payload, key))
        if not sink.is_eos() or caps is None:
            raise SystemExit(f"cannot read {path}")
    finally:
        pipeline.set_state(Gst.State.NULL)
    _, numerator, denominator = caps.get_structure(0).get_fraction("framerate")
    payloader = payloader.format(sets=-1 if sets == "per-slice" else 0)
    clip = Clip(caps, payloader, denominator / numerator)
    first = min(pts for pts, _, _ in units)
    for pts, payload, key in units:
        number = round((pts - first) / Gst.SECOND / clip.period_s)
        clip.units.append(Unit(GLib.Bytes.new(payload), number, key))
    if sorted(unit.number for unit in clip.units) != list(range(len(units))):
        raise SystemExit(f"{path}: frame times are not regular")
    return clip


def _demux(path: Path, rest: str) -> tuple[Gst.Pipeline, GstApp.AppSink]:
    pipeline = Gst.parse_launch(f"filesrc name=file ! matroskademux ! {rest}")
    pipeline.get_by_name("file").set_property("location", str(path))
    return pipeline, pipeline.get_by_name("sink")


def _media_type(path: Path) -> str:
    pipeline, sink = _demux(path, "appsink name=sink sync=false max-buffers=1")
    pipeline.set_state(Gst.State.PAUSED)
    try:
        sample = sink.try_pull_preroll(10 * Gst.SECOND)
        if sample is None:
            raise SystemExit(f"cannot read {path}")
        return sample.get_caps().get_structure(0).get_name()
    finally:
        pipeline.set_state(Gst.State.NULL)


class ShotLog:
    """Append one whole line per shot, visible to other processes at once."""

    def __init__(self, path: Path | None) -> None:
        self._handle = None
        if path is not None:
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, mount: str, number: int, loop: int, moment_s: float) -> None:
        """Write one shot. Callable from any thread."""
        if self._handle is not None:
            os.write(self._handle, f"{mount} {number} {loop} {moment_s:.6f}\n".encode())


class Camera(threading.Thread):
    """Shoot a clip's frames for ever and push them into every media that plays."""

    def __init__(self, mount: str, clips: list[Clip], log: ShotLog, start_s: float) -> None:
        super().__init__(name=f"camera {mount}", daemon=True)
        self.mount = mount
        self._clips = clips
        self._clip = clips[0]
        self._log = log
        self._deadline_s = start_s
        self._running = threading.Event()
        self._running.set()
        self._pushing = threading.Lock()  # held while a frame goes out: freeze() waits for it
        self._sources: list[GstApp.AppSrc] = []

    def add_source(self, source: GstApp.AppSrc) -> None:
        """Feed one more media."""
        self._sources = [*self._sources, source]

    def remove_source(self, source: GstApp.AppSrc) -> None:
        """Stop feeding a media."""
        self._sources = [other for other in self._sources if other is not source]

    def freeze(self) -> None:
        """Shoot no more; no frame leaves after the return."""
        with self._pushing:
            self._running.clear()

    def resume(self) -> None:
        """Shoot again from now on, with the frame that was due when frozen."""
        self._running.set()

    def switch(self) -> None:
        """Go on with the other clip, from its beginning."""
        with self._pushing:
            self._clips = self._clips[1:] + self._clips[:1]

    def run(self) -> None:
        """Shoot on absolute deadlines."""
        place, loop = 0, 0
        while True:
            delay_s = self._deadline_s - time.monotonic()
            if delay_s > 0:
                time.sleep(delay_s)
            self._running.wait()
            with self._pushing:
                if not self._running.is_set():
                    continue
                if self._clip is not self._clips[0]:
                    self._clip, place = self._clips[0], 0
                    for source in self._sources:
                        source.set_property("caps", self._clip.caps)
                now = time.monotonic()
                if now - self._deadline_s > LATE_S:
                    self._deadline_s = now
                self._shoot(self._clip.units[place], place, loop)
            self._deadline_s += self._clip.period_s
            place += 1
            if place == len(self._clip.units):
                place, loop = 0, loop + 1

    def _shoot(self, unit: Unit, place: int, loop: int) -> None:
        reorder = self._clip.reorder_frames
        if reorder:
            # Sent `reorder` periods after its turn; its own turn may lie before or after `place`.
            turns = unit.number - place - reorder
            moment_s = self._deadline_s + turns * self._clip.period_s
        else:
            moment_s = time.monotonic()
        for source in self._sources:
            _push(source, unit, moment_s)
        self._log.write(self.mount, unit.number, loop, moment_s)


def _push(source: GstApp.AppSrc, unit: Unit, moment_s: float) -> None:
    if source.current_state != Gst.State.PLAYING:
        return  # not yet: without a base time a frame cannot be stamped
    pts = int(moment_s * Gst.SECOND) - source.get_base_time()
    if pts < 0:
        return
    buffer = Gst.Buffer.new_wrapped_bytes(unit.payload)
    buffer.pts = pts
    if not unit.keyframe:
        buffer.set_flags(Gst.BufferFlags.DELTA_UNIT)
    source.push_buffer(buffer)


def add_mount(
    server: GstRtspServer.RTSPServer,
    camera: Camera,
    clip: Clip,
    permissions: GstRtspServer.RTSPPermissions | None,
    *,
    audio: bool,
) -> None:
    """Offer a camera's pictures under its path, one media shared by all clients."""
    video = (
        "appsrc name=source is-live=true format=time block=false max-bytes=0 "
        f"min-latency=0 ! {clip.payloader} name=pay{int(audio)} pt=96 mtu=1400"
    )
    sound = "audiotestsrc is-live=true ! alawenc ! rtppcmapay name=pay0 pt=8 " if audio else ""

    def configure(_factory: object, media: GstRtspServer.RTSPMedia) -> None:
        source = media.get_element().get_by_name("source")
        source.set_property("caps", clip.caps)
        # Sinks would hold every frame for their processing deadline of 20 ms.
        media.get_element().get_parent().set_latency(0)
        media.connect("unprepared", lambda _media: camera.remove_source(source))
        camera.add_source(source)

    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( {sound}{video} )")
    factory.set_shared(True)
    factory.set_latency(0)
    factory.set_eos_shutdown(False)
    factory.connect("media-configure", configure)
    if permissions is not None:
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory(camera.mount, factory)


def require_digest(
    server: GstRtspServer.RTSPServer, user: str, password: str
) -> GstRtspServer.RTSPPermissions:
    """Let only this user in and return the permissions that every factory needs."""
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", ROLE)
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    auth.set_realm(REALM)
    auth.add_digest(user, password, token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    for permission in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role(ROLE, permission, True)
    return permissions


def say(line: str) -> None:
    """Write one line for the parent."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def obey(cameras: dict[str, Camera], loop: GLib.MainLoop) -> None:
    """Carry out the commands on stdin until `quit` or its end."""
    for line in sys.stdin:
        verb, _, mount = line.strip().partition(" ")
        if verb == "quit":
            break
        if verb in ("freeze", "resume", "switch") and mount in cameras:
            getattr(cameras[mount], verb)()
            say(f"OK {line.strip()}")
        else:
            say(f"ERROR unknown command or mount: {line.strip()}")
    GLib.idle_add(loop.quit)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Serve clips as endless RTSP cameras.")
    parser.add_argument("--mount", action="append", required=True, metavar="/PATH=CLIP.mkv,...")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--user", help="ask for digest authentication")
    parser.add_argument("--password", default="")
    parser.add_argument(
        "--sets",
        choices=("per-keyframe", "per-slice", "described"),
        default="per-keyframe",
        help="where the parameter sets come: before every keyframe, before every slice of one as "
        "with some cameras, or in the answer to DESCRIBE only",
    )
    parser.add_argument("--audio", action="store_true", help="a sound track before the video")
    parser.add_argument("--log", type=Path, help="append every shot to this file")
    return parser.parse_args()


def main() -> None:
    """Load, listen, shoot until told to quit."""
    arguments = parse_arguments()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(arguments.port))
    permissions = None
    if arguments.user is not None:
        permissions = require_digest(server, arguments.user, arguments.password)
    log = ShotLog(arguments.log)
    clips: dict[str, Clip] = {}
    cameras: dict[str, Camera] = {}
    mounts = [mount.partition("=")[::2] for mount in arguments.mount]
    for file in {file for _, files in mounts for file in files.split(",")}:
        clips[file] = load_clip(Path(file), sets=arguments.sets)
    start_s = math.ceil(time.monotonic() * 10) / 10
    for place, (mount, files) in enumerate(mounts):
        own = [clips[file] for file in files.split(",")]
        cameras[mount] = Camera(mount, own, log, start_s + place * STAGGER_S)
        add_mount(server, cameras[mount], own[0], permissions, audio=arguments.audio)
    loop = GLib.MainLoop()
    if server.attach(None) == 0:
        raise SystemExit(f"cannot listen on port {arguments.port}")
    gc.collect()
    gc.freeze()  # the units never go: a collection must not look at them
    for camera in cameras.values():
        camera.start()
    threading.Thread(target=obey, args=(cameras, loop), name="commands", daemon=True).start()
    GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGTERM, loop.quit)
    say(f"READY {server.get_bound_port()}")
    loop.run()
    # Daemon threads still push: leave without tearing GStreamer down under them.
    os._exit(0)


if __name__ == "__main__":
    main()
