"""The whole interface in a real browser, on the pretend site, as its users go through it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.rigs import browser as rig
from tests.rigs.browser import DESK, PHONE, Watch, overflows
from tests.rigs.daemon import free_port
from tests.rigs.demo import Demo, demo

PASSWORD = "gate-7 opens!"
PAGES = ("/", "/photos", "/uploads", "/system", "/cleanup", "/password")
SIZES = pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
expect.set_options(timeout=60_000)


@dataclass
class Visitor:
    """A browser window on the demo."""

    page: Page
    watch: Watch
    url: str

    def open(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    reason = rig.missing()
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(f"no browser: {reason}")
        pytest.skip(f"NOT TESTED, no browser: {reason}")
    with rig.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Demo]:
    """Run the demo with a login, and choose a password as an installer has to."""
    with demo(
        tmp_path_factory.mktemp("demo"),
        BIND_PORT=str(free_port()),
        WEB_AUTH_ENABLED="true",
        TZ="UTC",
    ) as found:
        with browser.new_context(viewport=PHONE) as context:  # type: ignore[arg-type]
            watch = Watch(context, found.url.removeprefix("http://"))
            page = context.new_page()
            found.wait_until("the login page", lambda: found.read("/login"))
            page.goto(found.url)
            expect(page).to_have_url(f"{found.url}/login")
            page.get_by_label("Password").fill("admin123")
            page.get_by_role("button", name="Log in").click()
            expect(page.get_by_role("heading", name="Choose a password")).to_be_visible()
            page.goto(f"{found.url}/photos")
            expect(page).to_have_url(f"{found.url}/password")
            page.get_by_label("Current password").fill("admin123")
            page.get_by_label("New password", exact=True).fill(PASSWORD)
            page.get_by_label("New password, once more").fill(PASSWORD)
            page.get_by_role("button", name="Change Password").click()
            expect(page.get_by_text("The password is changed.")).to_be_visible()
            expect(page.get_by_role("heading", level=1)).to_contain_text("Working.")
            assert watch.complaints == []
        yield found


@pytest.fixture(scope="module")
def cookies(site: Demo, browser: Browser) -> Any:
    """Log in once for all windows."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{site.url}/login")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(f"{site.url}/")
        return context.storage_state()


def visit(
    browser: Browser,
    site: Demo,
    cookies: Any,
    size: dict[str, int] = DESK,
    scheme: Literal["light", "dark"] = "light",
    scripts: bool = True,
) -> Iterator[Visitor]:
    with browser.new_context(
        viewport=size,  # type: ignore[arg-type]
        color_scheme=scheme,
        storage_state=cookies,
        java_script_enabled=scripts,
    ) as context:
        context.set_default_timeout(60_000)
        watch = Watch(context, site.url.removeprefix("http://"))
        yield Visitor(context.new_page(), watch, site.url)


def wait_until_opened(page: Page) -> None:
    """Wait until the photo viewer's opening animation has ended."""
    page.wait_for_function(
        "() => { const opener = window.pswp?.opener; return opener?.isOpen && !opener.isOpening; }"
    )


@pytest.fixture
def visitor(browser: Browser, site: Demo, cookies: Any, size: dict[str, int]) -> Iterator[Visitor]:
    """Open a window of a size; nothing may go wrong in it."""
    for found in visit(browser, site, cookies, size):
        yield found
        assert found.watch.complaints == []


@SIZES
def test_the_first_screen_says_at_once_whether_the_site_works(
    visitor: Visitor, size: dict[str, int]
) -> None:
    page = visitor.open("/")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Working.")
    stills = page.locator(".still img")
    expect(stills).to_have_count(3)
    for item in (page.get_by_role("heading", level=1), stills.first):
        box = item.bounding_box()
        assert box
        assert box["y"] + box["height"] <= size["height"]
    button = page.get_by_role("button", name="Take a test photo").first.bounding_box()
    assert button
    assert button["height"] >= 48
    assert button["y"] + button["height"] <= size["height"]
    for light in ("Cameras", "Trigger", "Uploads", "Disk", "Clock"):
        expect(page.locator("summary", has_text=light)).to_contain_text("OK")
    page.locator("summary", has_text="Trigger").click()
    expect(page.get_by_text("r1, pin 18:")).to_be_visible()


@SIZES
def test_the_first_screen_is_small(visitor: Visitor) -> None:
    visitor.open("/")
    visitor.page.wait_for_load_state("load")
    served = [r for r in visitor.watch.responses if "/api/" not in r.url]
    assert len(served) <= 10
    total = sum(int(r.headers.get("content-length", "0")) for r in served)
    assert 0 < total <= 40_000


@SIZES
def test_a_live_picture_is_refreshed(visitor: Visitor) -> None:
    page = visitor.open("/")
    still = page.locator("#camera-r1 .still img")
    first = still.evaluate("image => image.currentSrc")
    page.wait_for_function(
        "first => document.querySelector('#camera-r1 .still img')?.currentSrc !== first",
        arg=first,
    )
    assert still.evaluate("image => image.naturalWidth") > 0


@SIZES
def test_a_photo_is_one_tap_and_is_said_step_by_step(visitor: Visitor) -> None:
    page = visitor.open("/")
    page.evaluate("""() => {
        window.said = [];
        const result = document.getElementById("result-r2");
        new MutationObserver(() => window.said.push(result.textContent))
            .observe(result, { childList: true, subtree: true, characterData: true });
    }""")
    page.get_by_role("button", name="Take a test photo, Exit").click()
    result = page.locator("#result-r2")
    expect(result).to_contain_text(re.compile(r"Taken \d\d:\d\d:\d\d, \d+ ms, saved, uploaded"))
    assert page.evaluate("window.said")[0] == "Taking a photo…"
    assert result.locator("img").evaluate("image => image.naturalWidth") == 320
    newest = page.locator("#last-photos a").first
    expect(newest).to_contain_text("Exit")


@SIZES
def test_the_photo_of_an_edge_appears_without_reload(visitor: Visitor) -> None:
    page = visitor.open("/")
    before = page.locator("#last-photos a").first.get_attribute("href")
    page.evaluate("window.notReloaded = true")
    page.wait_for_function(
        "before => document.querySelector('#last-photos a').getAttribute('href') !== before",
        arg=before,
        timeout=60_000,
    )
    assert page.evaluate("window.notReloaded")


@SIZES
def test_the_gallery_filters_and_opens_photos(visitor: Visitor) -> None:
    page = visitor.open("/")
    for _ in range(2):
        page.get_by_role("button", name="Take a test photo, Entry").click()
        expect(page.locator("#result-r1")).to_contain_text("Taken")
    visitor.open("/photos")
    expect(page.get_by_role("heading", level=2).first).to_contain_text("photo")
    page.get_by_label("Camera").select_option("r1")
    expect(page).to_have_url(re.compile(r"camera=r1"))
    photos = page.locator("#gallery a.photo")
    expect(photos.first).to_contain_text("Entry")
    assert page.locator("#gallery a.photo", has_text="Exit").count() == 0
    name = str(photos.first.get_attribute("data-src")).rpartition("/")[2]
    photos.first.click()
    viewer = page.get_by_role("dialog", name="Photo viewer")
    expect(viewer).to_be_visible()
    expect(viewer).to_contain_text("Entry")
    wait_until_opened(page)  # keys count only then
    download = viewer.get_by_role("link", name="Download")
    assert name in str(download.get_attribute("href"))
    with page.expect_download() as found:
        download.click()
    assert found.value.suggested_filename == name
    page.keyboard.press("ArrowRight")
    expect(download).not_to_have_attribute("href", re.compile(re.escape(name)))
    page.keyboard.press("Escape")
    expect(viewer).to_have_count(0)
    expect(photos.nth(1)).to_be_focused()
    page.get_by_label("State").select_option("rejected")
    expect(page.get_by_text("No photos match.")).to_be_visible()


@SIZES
def test_offline_is_said_and_passes(visitor: Visitor, site: Demo) -> None:
    page = visitor.open("/")
    site.fault("offline", True)
    light = page.locator("#light-uploads summary")
    expect(light).to_contain_text("OFFLINE")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Needs attention: offline")
    page.get_by_role("button", name="Take a test photo, Entry").click()
    expect(page.locator("#result-r1")).to_contain_text("saved, waiting for upload")
    expect(light).to_contain_text("waiting")
    visitor.open("/uploads")
    assert page.get_by_role("button", name="Retry").count() >= 1
    site.fault("offline", False)
    visitor.open("/")
    expect(light).to_contain_text("online, all sent")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Working.")


@pytest.mark.parametrize("size", [PHONE], ids=["phone"])
def test_a_dead_camera_is_told_in_words(visitor: Visitor, site: Demo) -> None:
    page = visitor.open("/")
    site.fault("freeze-r3", True)
    try:
        expect(page.locator("#caption-r3")).to_contain_text("stalled")
        expect(page.get_by_role("heading", level=1)).to_contain_text(
            re.compile(r"Needs attention: camera r3 .*, since \d\d:\d\d:\d\d")
        )
        expect(page.locator("#camera-r3 .still img")).to_have_count(0)
    finally:
        site.fault("freeze-r3", False)
    expect(page.locator("#caption-r3")).to_contain_text("live")
    expect(page.locator("#camera-r3 .still img")).to_have_count(1)


@pytest.mark.parametrize("size", [PHONE], ids=["phone"])
def test_a_capture_that_fails_says_why_where_one_looks(visitor: Visitor, site: Demo) -> None:
    page = visitor.open("/")
    site.fault("unplug-r3", True)
    try:
        expect(page.locator("#caption-r3")).to_contain_text("down")
        page.get_by_role("button", name="Take a test photo, Auxiliary").click()
        result = page.locator("#result-r3")
        expect(result).to_contain_text(re.compile("No photo: .*refused"))
        expect(result).to_contain_text("Check")
    finally:
        site.fault("unplug-r3", False)
        visitor.watch.complaints = [c for c in visitor.watch.complaints if "503" not in c]
    expect(page.locator("#caption-r3")).to_contain_text("live")


@pytest.mark.parametrize("size", [PHONE], ids=["phone"])
def test_a_lost_box_is_said_and_comes_back(visitor: Visitor) -> None:
    page = visitor.open("/")
    lost = page.locator("#lost")
    page.context.set_offline(True)
    expect(lost).to_contain_text(re.compile(r"Lost contact with the box \d+ s ago"))
    page.context.set_offline(False)
    expect(lost).to_be_hidden()
    visitor.watch.complaints = [
        c for c in visitor.watch.complaints if "ERR_INTERNET_DISCONNECTED" not in c
    ]


@pytest.mark.parametrize("size", [PHONE], ids=["phone"])
def test_a_session_that_ends_in_the_middle_leads_to_the_login(visitor: Visitor) -> None:
    page = visitor.open("/")
    page.context.clear_cookies()
    page.get_by_role("button", name="Take a test photo, Entry").click()
    expect(page).to_have_url(re.compile("/login"))
    visitor.watch.complaints = [c for c in visitor.watch.complaints if "401" not in c]


@SIZES
def test_manual_cleanup_shows_what_it_would_do(visitor: Visitor) -> None:
    page = visitor.open("/")
    page.get_by_role("link", name="Delete old photos…").click()
    expect(page.get_by_text("there is nothing to delete")).to_be_visible()


@SIZES
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible_and_fit(
    browser: Browser,
    site: Demo,
    cookies: Any,
    size: dict[str, int],
    scheme: Literal["light", "dark"],
) -> None:
    for visitor in visit(browser, site, cookies, size, scheme):
        for path in (*PAGES, "/photos/nowhere.jpg"):
            page = visitor.open(path)
            found = Axe().run(page)
            assert found.violations_count == 0, f"{path}\n{found.generate_report()}"
            assert not overflows(page), path
            page.set_viewport_size({"width": 320, "height": 700})
            assert not overflows(page), f"{path} at 320"
            page.set_viewport_size(size)  # type: ignore[arg-type]
        page = visitor.open("/photos")
        page.locator("#gallery a.photo").first.click()
        expect(page.get_by_role("dialog")).to_be_visible()
        wait_until_opened(page)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        page.context.clear_cookies()
        found = Axe().run(visitor.open("/login"))
        assert found.violations_count == 0, found.generate_report()
        complaints = [c for c in visitor.watch.complaints if "404" not in c]
        assert complaints == []


def test_everything_works_without_scripts(browser: Browser, site: Demo, cookies: Any) -> None:
    for visitor in visit(browser, site, cookies, PHONE, scripts=False):
        page = visitor.open("/")
        expect(page.locator(".still img")).to_have_count(3)
        page.get_by_role("button", name="Take a test photo, Entry").click()
        expect(page.get_by_text(re.compile(r"Taken .* ms, saved"))).to_be_visible()
        visitor.open("/photos")
        page.get_by_label("Camera").select_option("r1")
        page.get_by_role("button", name="Show").click()
        page.locator("#gallery a.photo").first.click()
        expect(page.get_by_role("link", name="Download")).to_be_visible()
        visitor.open("/system")
        page.get_by_role("link", name="Change Password").click()
        expect(page.get_by_label("Current password")).to_be_visible()
        assert visitor.watch.complaints == []


def test_logging_out_ends_the_session(browser: Browser, site: Demo) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{site.url}/system")
        page.get_by_label("Password").fill("nonsense")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_have_text("The password is wrong.")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("link", name="System").click()
        page.get_by_role("button", name="Log out").click()
        expect(page).to_have_url(f"{site.url}/login")
        page.goto(f"{site.url}/photos")
        expect(page).to_have_url(re.compile("/login"))


def test_the_settings_file_holds_only_a_hash(site: Demo) -> None:
    text = Path(f"/proc/{site.process.pid}/cwd/.env").read_text()
    assert "ADMIN_PASSWORD_HASH='scrypt:" in text
    assert PASSWORD not in text
