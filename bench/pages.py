"""How soon pages are there in a real browser with a quarter of this processor's speed.

Chromium at 390 x 844, empty cache, the demo on loopback, five loads each. Prints a table; exits 1
when a gate is missed. Run: make bench-pages
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser

from bench.gates import Gate, report
from tests.rigs.browser import PHONE, chromium
from tests.rigs.demo import demo

LOADS = 5
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
READY = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"


def load_ms(browser: Browser, url: str) -> tuple[float, float]:
    """Return the medians of first paint and of being usable: scripts have run."""
    paints, readies = [], []
    for _ in range(LOADS):
        with browser.new_context(viewport=PHONE) as context:  # type: ignore[arg-type]
            page = context.new_page()
            session = context.new_cdp_session(page)
            session.send("Emulation.setCPUThrottlingRate", {"rate": 4})
            page.goto(url, wait_until="load")
            page.wait_for_function(f"{PAINT} > 0")
            paints.append(float(page.evaluate(PAINT)))
            readies.append(float(page.evaluate(READY)))
    return statistics.median(paints), statistics.median(readies)


def main() -> int:
    """Measure the first screen and the gallery and return the exit code."""
    with (
        tempfile.TemporaryDirectory() as folder,
        demo(Path(folder)) as site,
        chromium() as browser,
    ):
        site.wait_until("twelve photos", lambda: site.get("/api/images")["total"] >= 12, 90)
        paint_ms, ready_ms = load_ms(browser, site.url + "/")
        _, gallery_ms = load_ms(browser, site.url + "/photos")
    gates = [
        Gate("first screen, first paint", paint_ms, 500, "ms"),
        Gate("first screen, interactive", ready_ms, 800, "ms"),
        Gate("gallery, usable", gallery_ms, 1500, "ms"),
    ]
    return report(gates)


if __name__ == "__main__":
    sys.exit(main())
