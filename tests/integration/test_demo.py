"""`main.py --demo` as a user runs it: pictures of standing cars, faults, and a clean end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.rigs.daemon import PATIENCE_S, ROOT, free_port
from tests.rigs.demo import FILES, demo, frames_after_the_stop, visits_of
from tests.rigs.gates import number_in

LATE_FRAMES = 5
"""So much later than the car stops a busy machine may close the contact or hear of it."""


def test_every_picture_shows_the_car_standing_at_the_line_and_nothing_is_left(
    tmp_path: Path,
) -> None:
    with demo(tmp_path) as site:
        site.wait_until("seven photos", lambda: site.get("/api/images")["total"] >= 7)
        images = site.get("/api/images")["images"]
        assert {image["camera"] for image in images} == set(FILES)
        for image in images:
            assert -1 <= frames_after_the_stop(image, site.read(image["url"])) <= LATE_FRAMES
            assert image["flags"] == []
        site.wait_until(
            "all uploaded", lambda: site.get("/api/images?state=uploaded")["total"] >= 7
        )
        assert site.get("/api/status")["verdict"]["level"] == "ok"
        with urllib.request.urlopen(site.site, timeout=PATIENCE_S) as page:  # noqa: S310
            received = page.read().decode()
        assert images[0]["filename"] in received
        site.process.send_signal(signal.SIGINT)
        assert site.process.wait(PATIENCE_S) == 0
        assert "did not end" not in "".join(site.lines)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]


def test_a_burst_shows_the_car_before_at_and_after_the_line(tmp_path: Path) -> None:
    with demo(tmp_path, BIND_PORT=str(free_port()), CAPTURE_BURST_MS="-400,0,400") as site:
        site.wait_until(
            "a burst", lambda: site.get("/api/images?state=uploaded&camera=r1")["total"] >= 3
        )
        images = site.get("/api/images?camera=r1")["images"][-3:]
        stem = min((image["filename"] for image in images), key=len).removesuffix(".jpg")
        numbers = {image["filename"]: number_in(site.read(image["url"])) for image in images}
        at_stop = numbers[f"{stem}.jpg"]
        assert any(0 <= at_stop - v.stops_at_frame <= LATE_FRAMES for v in visits_of("r1"))
        assert abs(numbers[f"{stem}_b1.jpg"] - (at_stop - 10)) <= 1
        assert abs(numbers[f"{stem}_b2.jpg"] - (at_stop + 10)) <= 1
        event = site.get("/api/events?state=saved")["events"][-1]
        assert len(event["images"]) == 3


def test_the_best_frame_is_near_the_stop_and_tells_how_near(tmp_path: Path) -> None:
    with demo(tmp_path, BIND_PORT=str(free_port()), CAPTURE_BEST_WITHIN_MS="120") as site:
        site.wait_until("pictures", lambda: site.get("/api/images")["total"] >= 3)
        for image in site.get("/api/images")["images"]:
            frames = frames_after_the_stop(image, site.read(image["url"]))
            assert abs(image["offset_ms"]) <= 120
            assert -4 <= frames <= 4 + LATE_FRAMES
            assert -1 <= frames - image["offset_ms"] / 40 <= LATE_FRAMES


def test_what_cameras_do_wrong_is_said_in_words(tmp_path: Path) -> None:
    faults = ("slow-clock-r1", "still-clock-r2", "no-keyframes-r3")
    words = [word for fault in faults for word in ("--demo-fault", fault)]
    with demo(tmp_path, *words, BIND_PORT=str(free_port())) as site:
        site.wait_until("a hint", lambda: "too slow" in str(site.camera("r1")["hint"]))
        assert -45_000 < site.camera("r1")["clock_ppm"] < -35_000
        site.wait_until("a hint", lambda: "do not move" in str(site.camera("r2")["hint"]))
        site.wait_until("the reason", lambda: "no keyframe" in str(site.camera("r3")["error"]))
        assert site.camera("r3")["state"] == "connecting"
        for fault in faults:
            site.fault(fault, False)
        for name in ("r1", "r2", "r3"):
            site.wait_for_state(name, "streaming")
        site.fault("lossy-r1", True)

        def marks() -> set[str]:
            found = site.get("/api/images?camera=r1&per_page=50")["images"]
            return {flag for image in found for flag in image["flags"]}

        site.wait_until("a mark", lambda: bool(marks() & {"stale", "damaged"}))


def test_every_fault_is_said_and_passes_when_it_is_mended(tmp_path: Path) -> None:
    with demo(tmp_path, "--demo-fault", "password-r3", BIND_PORT=str(free_port())) as site:
        site.wait_until("wrong password", lambda: "401" in str(site.camera("r3")["error"]))
        site.fault("password-r3", False)
        for name in ("r1", "r2"):
            site.wait_for_state(name, "streaming")

        site.fault("offline", True)
        site.wait_for_alert("upload_offline")
        site.wait_until("pending", lambda: site.get("/api/status")["upload"]["pending"] > 0)
        assert site.get("/api/status")["upload"]["online"] is False
        site.fault("offline", False)
        site.wait_until("all sent", lambda: site.get("/api/status")["upload"]["pending"] == 0)
        assert "upload_offline" not in site.alerts()

        site.fault("freeze-r2", True)
        site.wait_for_state("r2", "stalled")
        assert "camera_stalled" in site.alerts()
        site.fault("unplug-r1", True)
        site.wait_for_state("r1", "down")
        assert "camera_down" in site.alerts()
        site.fault("freeze-r2", False)
        site.fault("unplug-r1", False)
        for name in ("r1", "r2"):
            site.wait_for_state(name, "streaming")

        site.fault("jam-r1", True)
        site.fault("clock", True)
        site.wait_for_alert("clock_unsynchronized")
        for mode, alert in (
            ("error-503", None),
            ("unauthorized", "upload_paused"),
            ("captive-portal", "captive_portal"),
            ("slow", None),
        ):
            site.fault(mode, True)
            site.post(f"{site.url}/api/capture/r2")
            if alert is not None:
                site.wait_for_alert(alert)
            pending = site.get("/api/images?state=pending")["images"]
            assert pending, mode
            if mode == "error-503":
                site.wait_until(
                    "the error",
                    lambda: "503" in str(site.get("/api/images?state=pending")["images"]),
                )
            site.fault(mode, False)
            site.post(f"{site.url}/api/uploads/retry")
            site.wait_until("sent", lambda: site.get("/api/status")["upload"]["pending"] == 0)
        site.wait_for_alert("stuck_low")
        site.fault("jam-r1", False)
        site.fault("clock", False)
        # A refused password is tried again once a minute only.
        site.wait_for_state("r3", "streaming", 60 + PATIENCE_S)
        site.wait_until("all well", lambda: site.alerts() == set())


def test_a_port_in_use_gives_the_next_one_and_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with demo(tmp_path, "--data", "kept", BIND_PORT=str(port)) as site:
            assert int(site.url.rpartition(":")[2]) > port
            assert f"port {port} is in use" in "".join(site.lines)
            site.wait_until("an answer", lambda: site.get("/api/status")["site"])
            site.process.send_signal(signal.SIGINT)
            assert site.process.wait(PATIENCE_S) == 0
    assert (tmp_path / "kept" / "images" / ".state" / "catalog.sqlite3").exists()
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--demo-fault", "nonsense"), 78, "--demo-fault nonsense: must be one of offline"),
        (("--data", "/proc/nowhere"), 74, "cannot write to /proc/nowhere"),
    ],
)
def test_what_cannot_be_run_is_said(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), "--demo", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == code
    assert words in done.stdout + done.stderr


def test_only_the_page_itself_presses_the_buttons(tmp_path: Path) -> None:
    with demo(tmp_path, BIND_PORT=str(free_port())) as site:
        for origin in ("http://evil.example", None):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                site.post(f"{site.site}/faults/offline", b"on=1", origin)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            site.post(f"{site.site}/faults/nonsense", b"on=1", site.site)
