"""RTSP servers of other people, each serving a clip as an endless camera on 127.0.0.1.

They pack, pace and stamp in their own ways. None of them tells when it sends which picture.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from tests.rigs.clips import FFMPEG
from tests.rigs.daemon import PATIENCE_S, free_ports

VLC = "/usr/bin/vlc"
ESPP_CAMERA = Path(__file__).with_name("espp_camera.py")
NOBODY = 65534
_ATTEMPTS = 3
_POLL_S = 0.05
_END_S = 10.0

Launch = Callable[[ExitStack, IO[bytes], int], subprocess.Popen[bytes]]


@contextmanager
def vlc(clip: Path, folder: Path, *options: str) -> Iterator[str]:
    """Serve with VLC and yield the stream's URL; UDP only.

    It spreads a picture's packets over the time until the next picture, and answers with an error
    until it has its first picture.
    """

    def launch(stack: ExitStack, log: IO[bytes], port: int) -> subprocess.Popen[bytes]:
        # Its own repeating leaves out a second at every turn: it gets one stream without end.
        feed = [FFMPEG, "-nostdin", "-v", "error", "-stream_loop", "-1", "-i", str(clip)]
        feed += ["-c", "copy", "-f", "matroska", "pipe:1"]
        feeder = stack.enter_context(_process(feed, log, stdout=subprocess.PIPE))
        assert feeder.stdout is not None
        command = [VLC, "-I", "dummy", "--ignore-config", "fd://0", *options]
        command += ["--sout", f"#rtp{{sdp=rtsp://127.0.0.1:{port}/cam}}"]
        user = NOBODY if os.geteuid() == 0 else None  # VLC refuses to run as root
        with feeder.stdout as pipe:
            return stack.enter_context(_process(command, log, stdin=pipe, user=user))

    with _served(launch, folder) as port:
        yield f"rtsp://127.0.0.1:{port}/cam"


@contextmanager
def aio_rtsp(clip: Path, folder: Path) -> Iterator[str]:
    """Serve with aio-rtsp-toolkit and yield the stream's URL; TCP only.

    It spreads a picture's packets over the time until the next picture.
    """

    def launch(stack: ExitStack, log: IO[bytes], port: int) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("rtsp-server")), "--dir", str(clip.parent)]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        command += ["--control-port", str(free_ports(1)[0])]
        return stack.enter_context(_process(command, log))

    with _served(launch, folder) as port:
        yield f"rtsp://127.0.0.1:{port}/{clip.name}/play_count_0"


@contextmanager
def espp(clip: Path, folder: Path) -> Iterator[str]:
    """Serve with espp and yield the stream's URL; UDP only.

    It stamps pictures in milliseconds when it sends them, says no timeout and sends no reports.
    """

    def launch(stack: ExitStack, log: IO[bytes], port: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", str(ESPP_CAMERA), str(port), str(clip)]
        return stack.enter_context(_process(command, log))

    with _served(launch, folder) as port:
        yield f"rtsp://127.0.0.1:{port}/cam"


@contextmanager
def _served(launch: Launch, folder: Path) -> Iterator[int]:
    """Yield the port of a server that listens; somebody else may have taken the one before.

    Raises:
        RuntimeError: it does not start.
    """
    words = ""
    for attempt in range(_ATTEMPTS):
        log_path = folder / f"server-{attempt}.log"
        port = free_ports(1)[0]
        with ExitStack() as stack:
            log = stack.enter_context(log_path.open("wb"))
            if _listens(launch(stack, log, port), port):
                yield port
                return
        words = log_path.read_text(errors="replace")
    raise RuntimeError(f"the server does not start\n{words[-3000:]}")


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until somebody listens; `False` when the server ends or never does."""
    deadline_s = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            socket.create_connection(("127.0.0.1", port), 2).close()
        except OSError:
            threading.Event().wait(_POLL_S)
        else:
            return process.poll() is None
    return False


@contextmanager
def _process(
    command: Sequence[str],
    log: IO[bytes],
    *,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: IO[bytes] | int | None = None,
    user: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program while the context lasts, as another user if need be."""
    with subprocess.Popen(
        command,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        stdin=stdin,
        stdout=log if stdout is None else stdout,
        stderr=log,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
