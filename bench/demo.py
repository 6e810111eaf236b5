"""What the demo costs and how soon it shows a picture, in a fresh folder.

Prints a table; exits 1 when a gate is missed. Run: make bench-demo
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

from bench.gates import Gate, cpu_s, report
from tests.rigs.demo import demo, frames_after_the_stop

WATCH_S = 60.0


def main() -> int:
    """Run the demo for a minute and return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        began_s = time.monotonic()
        with demo(Path(folder)) as site:
            site.wait_until("a picture", lambda: site.get("/api/images")["total"], 60)
            first_s = time.monotonic() - began_s
            busy_s, at_s = cpu_s(site.process.pid), time.monotonic()
            threading.Event().wait(WATCH_S)
            share = (cpu_s(site.process.pid) - busy_s) / (time.monotonic() - at_s)
            images = site.get("/api/images?per_page=200")["images"]
            frames = [
                abs(frames_after_the_stop(image, site.read(image["url"]))) for image in images
            ]
    gates = [
        Gate("first picture after the start", first_s, 60, "s"),
        Gate("processor, daemon and site", share * 100, 40, "% of a core"),
        Gate("frames from the car's stop, at most", max(frames), 1, "frames"),
    ]
    print(f"{len(images)} pictures")
    return report(gates)


if __name__ == "__main__":
    sys.exit(main())
