"""What is called wrong, in which words, and the verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from camera.frame import StreamStatus
from status.alarms import Alert, CameraView, Situation, alerts, verdict
from tests.rigs.status import (
    BROKEN_GPIO,
    CONNECTING,
    DOWN,
    GPIO,
    LONG_GOP,
    STALLED,
    STREAMING,
    STUCK_GPIO,
    TOO_MUCH,
    UPLOAD,
)

FINE = Situation(
    uptime_s=3600.0,
    cameras=[
        CameraView("camera_1", "r1", "Entry", STREAMING),
        CameraView("camera_2", "r2", "Exit", STREAMING),
    ],
    gpio=GPIO,
    upload=UPLOAD,
    pending=0,
    rejected=0,
    unknown=0,
    disk_low=False,
    nothing_left_to_delete=False,
    write_error=None,
    slow_save_s=None,
    clock_synchronized=True,
    env_file_exposed=False,
)


def with_camera(status: StreamStatus) -> Situation:
    return replace(FINE, cameras=[FINE.cameras[0], CameraView("camera_2", "r2", "Exit", status)])


def with_upload(**changes: object) -> Situation:
    return replace(FINE, upload=replace(UPLOAD, **changes), pending=7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("now", "code", "level", "words"),
    [
        (with_camera(DOWN), "camera_down", "error", "camera r2 (Exit) is down: wrong password"),
        (with_camera(STALLED), "camera_stalled", "error", "no new picture for 3 s"),
        (with_camera(LONG_GOP), "gop_too_long", "warning", "I-frame interval of 12 s"),
        (with_camera(TOO_MUCH), "gop_too_long", "warning", "don't fit in memory"),
        (replace(FINE, gpio=BROKEN_GPIO), "gpio_unavailable", "error", "pin 18 can't be used"),
        (replace(FINE, gpio=STUCK_GPIO), "stuck_low", "warning", "pin 19 has been LOW"),
        (
            with_upload(paused="refused (401)", hint="Check the token."),
            "upload_paused",
            "error",
            "refused (401)",
        ),
        (with_upload(captive_portal=True), "captive_portal", "warning", "captive portal"),
        (with_upload(online=False), "upload_offline", "warning", "offline: 7 images wait"),
        (replace(FINE, rejected=2), "rejected_images", "warning", "2 images were refused"),
        (replace(FINE, unknown=3), "unknown_uploads", "warning", "of 3 images"),
        (
            replace(FINE, write_error="the disk is full"),
            "storage_error",
            "error",
            "the disk is full",
        ),
        (replace(FINE, slow_save_s=6.2), "storage_error", "warning", "took 6 s to save"),
        (replace(FINE, disk_low=True), "disk_low", "warning", "disk is nearly full"),
        (
            replace(FINE, disk_low=True, nothing_left_to_delete=True),
            "storage_full",
            "error",
            "not uploaded yet",
        ),
        (
            replace(FINE, clock_synchronized=False),
            "clock_unsynchronized",
            "warning",
            "not synchronised",
        ),
        (replace(FINE, env_file_exposed=True), "env_permissions", "warning", ".env"),
        (with_camera(CONNECTING), "camera_down", "error", "no picture yet"),
        (
            with_camera(
                replace(CONNECTING, error="sends pictures but no keyframe", hint="Set it.")
            ),
            *("camera_down", "error", "camera r2 (Exit) sends pictures but no keyframe"),
        ),
    ],
)
def test_each_rule_alone(now: Situation, code: str, level: str, words: str) -> None:
    [alert] = alerts(now)
    assert (alert.code, alert.level) == (code, level)
    assert words in alert.message
    assert alert.hint


@pytest.mark.parametrize(
    "now",
    [
        FINE,
        replace(FINE, gpio=replace(BROKEN_GPIO, enabled=False)),
        replace(FINE, gpio=replace(GPIO, available=False)),  # not tried yet
        with_upload(online=None),
        with_upload(enabled=False, online=False),
        replace(FINE, clock_synchronized=None),
        replace(FINE, pending=1000),
        replace(with_camera(CONNECTING), uptime_s=5),
        replace(FINE, cameras=[]),
    ],
)
def test_nothing_is_wrong(now: Situation) -> None:
    assert alerts(now) == []


def test_a_captive_portal_is_not_called_offline_too() -> None:
    assert [a.code for a in alerts(with_upload(captive_portal=True, online=False))] == [
        "captive_portal"
    ]


def test_every_camera_has_its_own_alert() -> None:
    views = [CameraView(f"camera_{n}", f"r{n}", f"Gate {n}", DOWN) for n in (1, 2)]
    found = alerts(replace(FINE, cameras=views))
    assert [a.message.split(" is ")[0] for a in found] == [
        "camera r1 (Gate 1)",
        "camera r2 (Gate 2)",
    ]
    assert [a.subject for a in found] == ["r1", "r2"]


def test_errors_come_first_otherwise_the_order_stays() -> None:
    now = replace(with_camera(LONG_GOP), gpio=BROKEN_GPIO, disk_low=True, write_error="full")
    assert [(a.code, a.level) for a in alerts(now)] == [
        ("gpio_unavailable", "error"),
        ("storage_error", "error"),
        ("gop_too_long", "warning"),
        ("disk_low", "warning"),
    ]


@pytest.mark.parametrize(
    ("now", "last", "expected"),
    [
        (FINE, "12:30:05", ("ok", "Working. Last photo 12:30:05.")),
        (FINE, None, ("ok", "Working.")),
        (
            replace(with_camera(CONNECTING), uptime_s=3.0),
            None,
            ("starting", "Starting: connecting to the cameras."),
        ),
        (replace(FINE, uptime_s=3.0), None, ("ok", "Working.")),
        (
            with_camera(DOWN),
            "12:30:05",
            (
                "error",
                "Needs attention: camera r2 (Exit) is down: wrong password (401)."
                " Check the password.",
            ),
        ),
        (
            with_camera(replace(DOWN, hint=None)),
            None,
            ("error", "Needs attention: camera r2 (Exit) is down: wrong password (401)."),
        ),
        (
            replace(FINE, disk_low=True, env_file_exposed=True),
            None,
            (
                "warning",
                "Needs attention: the disk is nearly full. Use a larger card or a shorter"
                " IMAGE_RETENTION_DAYS. And 1 more.",
            ),
        ),
        (
            replace(with_camera(replace(DOWN, hint=None)), disk_low=True),
            None,
            (
                "error",
                "Needs attention: camera r2 (Exit) is down: wrong password (401). And 1 more.",
            ),
        ),
    ],
)
def test_the_verdict(now: Situation, last: str | None, expected: tuple[str, str]) -> None:
    assert verdict(now, alerts(now), last) == expected


def test_the_verdict_has_the_level_of_the_worst() -> None:
    found = [Alert("a", "error", "bad", "Do."), Alert("b", "warning", "odd", "Do.")]
    assert verdict(FINE, found, None)[0] == "error"
