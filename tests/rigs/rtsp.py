"""Run the GStreamer RTSP server as a child and look up the moments of its shots.

The server is a program for the system's Python; see `gst_rtsp_server.py`. Its shots are stamped
with CLOCK_MONOTONIC, the clock of `time.monotonic()` in every process of this host.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import quote

from rtsp.dialogue import describe
from rtsp.errors import Diagnosis, RtspError

SYSTEM_PYTHON = "/usr/bin/python3"
PROGRAM = Path(__file__).with_name("gst_rtsp_server.py")
START_TIMEOUT_S = 90.0
REPLY_TIMEOUT_S = 60.0


class Shot(NamedTuple):
    """Name a frame by its number within the clip and tell when it was shot."""

    frame_number: int
    moment_s: float


@functools.cache
def missing() -> str | None:
    """Say why the server or its clips cannot be had on this host, or None when they can."""
    if shutil.which("ffmpeg") is None:
        return "install ffmpeg"
    check = (
        "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0')"
    )
    try:
        done = subprocess.run([SYSTEM_PYTHON, "-c", check], capture_output=True, check=False)
    except OSError as error:
        return f"{SYSTEM_PYTHON}: {error.strerror}"
    if done.returncode == 0:
        return None
    return "install gir1.2-gst-rtsp-server-1.0, python3-gi and gstreamer1.0-plugins-{base,good,bad}"


class RtspServer:
    """Serve clips as cameras on 127.0.0.1 while the context lasts.

    mounts: path, such as `/cam1`, to clip file, or to two of them. With a user the server asks for
    digest authentication. `sets` tells where parameter sets come: before every keyframe
    (per-keyframe), before every slice of one (per-slice), as from encoders behind GStreamer's
    payloader: FFmpeg then takes each slice of a multi-slice keyframe for a picture of its own, and
    a plain decode shows damage; or in the answer to DESCRIBE alone (described). With `audio` a
    sound track comes before the video. Not for use by several threads at once.
    """

    def __init__(
        self,
        mounts: Mapping[str, Path | tuple[Path, ...]],
        *,
        user: str | None = None,
        password: str = "",
        port: int = 0,
        sets: str = "per-keyframe",
        audio: bool = False,
    ) -> None:
        self._mounts = {
            mount: clips if isinstance(clips, tuple) else (clips,)
            for mount, clips in mounts.items()
        }
        self._user = user
        self._password = password
        self._sets = sets
        self._audio = audio
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._output = b""
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._log_offset = 0
        self._shots: dict[str, list[Shot]] = defaultdict(list)

    def __enter__(self) -> Self:
        """Start the server and wait until it listens."""
        self._directory = tempfile.TemporaryDirectory(prefix="rtsp-rig-")
        try:
            self.start()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the server, whatever happened."""
        self._clean_up()

    @property
    def pid(self) -> int:
        """Return the id of the running server."""
        return self._running().pid

    def start(self) -> None:
        """Start the program and wait for its READY.

        Raises:
            RuntimeError: it ended, or was not ready in time.
        """
        if self._process is not None:
            raise RuntimeError("the RTSP server runs already")
        command = [SYSTEM_PYTHON, "-I", str(PROGRAM), "--port", str(self.port)]
        command += ["--log", str(self._file("shots.log"))]
        command += ["--sets", self._sets, *(["--audio"] if self._audio else [])]
        for mount, clips in self._mounts.items():
            command += ["--mount", f"{mount}={','.join(map(str, clips))}"]
        if self._user is not None:
            command += ["--user", self._user, "--password", self._password]
        self._output = b""
        with self._file("stderr").open("ab") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        try:
            words = self._reply(START_TIMEOUT_S).split()
            if words[:1] != ["READY"]:
                raise RuntimeError(f"unexpected answer of the RTSP server: {words}")
            self.port = int(words[1])
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Let the server quit; kill it when it does not."""
        self._end(kill=False)

    def kill(self) -> None:
        """End the server by SIGKILL, as when a camera loses power."""
        self._end(kill=True)

    def restart(self) -> None:
        """Start the server anew on the same port; its clips begin at frame 0."""
        self.stop()
        self.start()

    def freeze(self, mount: str) -> None:
        """Send no more frames but keep the sessions open; none leaves after the return."""
        self._command(f"freeze {mount}")

    def resume(self, mount: str) -> None:
        """Go on sending, from the next frame and the present time."""
        self._command(f"resume {mount}")

    def switch(self, mount: str) -> None:
        """Go on with the mount's other clip, from its beginning."""
        self._command(f"switch {mount}")

    def url(self, mount: str, user: str | None = None, password: str | None = None) -> str:
        """Return the mount's URL, with credentials only when given here."""
        credentials = ""
        if user is not None:
            credentials = f"{quote(user, safe='')}:{quote(password or '', safe='')}@"
        return f"rtsp://{credentials}127.0.0.1:{self.port}{mount}"

    def shots(self, mount: str) -> list[Shot]:
        """Return all shots so far, over restarts, in the order of their moments."""
        self._read_log()
        return list(self._shots[mount])

    def nearest_shot(self, mount: str, moment_s: float) -> Shot:
        """Return the shot closest in time to a moment.

        Raises:
            LookupError: nothing was shot yet.
        """
        self._read_log()
        shots = self._shots[mount]
        if not shots:
            raise LookupError(f"{mount} has shot nothing yet")
        place = bisect.bisect(shots, moment_s, key=lambda shot: shot.moment_s)
        around = shots[max(0, place - 1) : place + 1]
        return min(around, key=lambda shot: abs(shot.moment_s - moment_s))

    def offset_of(self, mount: str, frame_number: int, moment_s: float) -> float:
        """Return by how many seconds a frame was shot after (negative: before) a moment.

        A number comes back with every loop of the clip: the nearest such shot counts.

        Raises:
            LookupError: no frame with this number was shot yet.
        """
        self._read_log()
        offsets = [
            shot.moment_s - moment_s
            for shot in self._shots[mount]
            if shot.frame_number == frame_number
        ]
        if not offsets:
            raise LookupError(f"{mount} has not shot frame {frame_number} yet")
        return min(offsets, key=abs)

    def _file(self, name: str) -> Path:
        if self._directory is None:
            raise RuntimeError("enter the RTSP server's context first")
        return Path(self._directory.name) / name

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the RTSP server does not run")
        return self._process

    def _command(self, line: str) -> None:
        process = self._running()
        assert process.stdin is not None
        process.stdin.write(f"{line}\n".encode())
        process.stdin.flush()
        if (answer := self._reply(REPLY_TIMEOUT_S)) != f"OK {line}":
            raise RuntimeError(f"the RTSP server answered {answer!r} to {line!r}")

    def _reply(self, timeout_s: float) -> str:
        """Return the next line of the child's output."""
        stdout = self._running().stdout
        assert stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._output:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([stdout], [], [], left_s)[0]:
                raise RuntimeError(f"the RTSP server did not answer within {timeout_s:g} s")
            chunk = os.read(stdout.fileno(), 4096)
            if not chunk:
                raise RuntimeError(f"the RTSP server ended: {self._file('stderr').read_text()}")
            self._output += chunk
        line, _, self._output = self._output.partition(b"\n")
        return line.decode()

    def _end(self, *, kill: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if not kill:
                with contextlib.suppress(OSError):
                    process.stdin.close()  # the end of stdin tells it to quit
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.stdout.close()

    def _clean_up(self) -> None:
        try:
            self.stop()
        finally:
            if self._directory is not None:
                self._directory.cleanup()
                self._directory = None

    def _read_log(self) -> None:
        """Take in what the log has gained, whole lines only."""
        if self._directory is None:
            return  # the context ended: what was read stays
        with contextlib.suppress(FileNotFoundError), self._file("shots.log").open("rb") as log:
            log.seek(self._log_offset)
            lines = log.read()
            lines = lines[: lines.rfind(b"\n") + 1]
            self._log_offset += len(lines)
            for line in lines.decode().splitlines():
                mount, number, _loop, moment_s = line.rsplit(" ", 3)
                shot = Shot(int(number), float(moment_s))
                # B-frames are logged in decode order: almost sorted, so insert near the end.
                bisect.insort(self._shots[mount], shot, key=lambda other: other.moment_s)


def diagnose(url: str, timeout_s: float = 4.0) -> Diagnosis:
    """Return what a camera's description comes to, `ok` when there is video to be had."""
    try:
        dialogue, _ = describe(url, timeout_s)
    except RtspError as error:
        return error.diagnosis
    dialogue.close()
    return Diagnosis("ok", "answers properly", "")
