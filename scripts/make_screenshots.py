"""Make the README's screenshots from the demo: `python -m scripts.make_screenshots`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page

from tests.rigs.browser import DESK, PHONE, chromium
from tests.rigs.demo import Demo, demo

FOLDER = Path(__file__).parents[1] / "docs" / "screenshots"


def shoot(
    browser: Browser,
    site: Demo,
    path: str,
    name: str,
    size: dict[str, int],
    scheme: Literal["light", "dark"] = "light",
    click: str = "",
) -> None:
    """Write one picture of a page."""
    with browser.new_context(
        viewport=size,  # type: ignore[arg-type]
        color_scheme=scheme,
        device_scale_factor=2 if size is PHONE else 1,
    ) as context:
        page: Page = context.new_page()
        page.goto(site.url + path, wait_until="networkidle")
        if click:
            page.locator(click).first.click()
        page.wait_for_timeout(1500)
        page.screenshot(path=FOLDER / f"{name}.jpg", type="jpeg", quality=78)


def main() -> None:
    """Make all pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        demo(Path(folder)) as site,
        chromium() as browser,
    ):
        site.wait_until("twelve photos", lambda: site.get("/api/images")["total"] >= 12, 90)
        shoot(browser, site, "/", "now-phone", PHONE)
        shoot(browser, site, "/", "now-desk", DESK, "dark")
        shoot(browser, site, "/photos", "photos-desk", DESK)
        shoot(browser, site, "/photos", "viewer-phone", PHONE, "dark", click="#gallery a.photo")
        site.fault("offline", True)
        site.wait_for_alert("upload_offline")
        site.wait_until("pending", lambda: site.get("/api/status")["upload"]["pending"] >= 2, 40)
        shoot(browser, site, "/", "offline-phone", PHONE, click="#light-uploads summary")


if __name__ == "__main__":
    main()
