"""The plainest loop that uploads files with `requests`, to measure others against.

`python -m tests.torture.bare URL FOLDER`; each line on its input, a number of seconds, makes it
upload for so long, newest file first, and say `UPLOADS SECONDS`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import requests

from tests.rigs.daemon import ROOT


def main() -> None:
    """Upload on command."""
    url, folder = sys.argv[1], Path(sys.argv[2])
    newest_first = sorted(
        folder.glob("*.jpg"), key=lambda path: path.stem.partition("_")[2], reverse=True
    )
    files = cycle(newest_first)
    session = requests.Session()
    print("ready", flush=True)
    for line in sys.stdin:
        uploads = 0
        started_s = time.perf_counter()
        until_s = started_s + float(line)
        while time.perf_counter() < until_s:
            path = next(files)
            part = (path.name, path.read_bytes(), "image/jpeg")
            session.post(url, files={"singleFile": part}, timeout=30).raise_for_status()
            uploads += 1
        print(uploads, time.perf_counter() - started_s, flush=True)


@contextmanager
def bare_loop(url: str, folder: Path) -> Iterator[Callable[[float], tuple[int, float]]]:
    """Run one as its own process; what is given uploads for so many seconds."""
    command = [sys.executable, "-m", "tests.torture.bare", url, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        commands, answers = process.stdin, process.stdout

        def upload(seconds: float) -> tuple[int, float]:
            commands.write(f"{seconds}\n")
            commands.flush()
            uploads, took_s = answers.readline().split()
            return int(uploads), float(took_s)

        try:
            if answers.readline() != "ready\n":
                raise RuntimeError("the bare loop did not start")
            yield upload
        finally:
            process.kill()


if __name__ == "__main__":
    main()
