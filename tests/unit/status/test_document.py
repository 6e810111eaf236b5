"""The documents of the API, put together from a real catalog and pretended services."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import config
from camera.frame import StreamStatus
from gpio.pins import GpioStatus
from runtime.clock import Clock
from runtime.stats import Stats
from runtime.worker import Worker
from status.document import SystemStatus
from store.catalog import Catalog
from store.errors import StorageError
from tests.rigs.status import DOWN, GPIO, LONG_GOP, PIN, STREAMING, STUCK_GPIO, TOO_MUCH, UPLOAD
from tests.rigs.stores import NOON, save, storage_config

SETTINGS = config.parse(
    {
        "SITE_ID": "gate-1",
        "CAMERA_1_ENABLED": "true",
        "CAMERA_1_RTSP": "rtsp://10.0.0.1/",
        "CAMERA_2_ENABLED": "true",
        "CAMERA_2_RTSP": "rtsp://10.0.0.2/",
        "CAMERA_3_ENABLED": "false",
        "MIN_FREE_DISK_MB": "0",
    }
)


class Living(Worker):
    alive = True

    def __init__(self) -> None:
        super().__init__("living")

    def is_alive(self) -> bool:
        return self.alive


@dataclass
class Site:
    """What the services say, as a test sets it, and the documents made from it."""

    catalog: Catalog
    now_s: float = 100.0
    synchronized: bool | None = True
    cameras: dict[str, StreamStatus] = field(
        default_factory=lambda: {"camera_1": STREAMING, "camera_2": STREAMING}
    )
    gpio: GpioStatus = GPIO
    nothing_left_to_delete: bool = False
    worker: Living = field(default_factory=Living)
    documents: SystemStatus = field(init=False)

    def __post_init__(self) -> None:
        self.documents = SystemStatus(
            SETTINGS,
            catalog=self.catalog,
            stats=Stats(),
            clock=Clock(
                synchronized=lambda: self.synchronized,
                wall_s=lambda: NOON.timestamp() + self.now_s,
                monotonic_s=lambda: self.now_s,
            ),
            cameras={key: lambda key=key: self.cameras[key] for key in self.cameras},  # type: ignore[misc]
            gpio=lambda: self.gpio,
            uploads=lambda: UPLOAD,
            retention=self,
            workers=lambda: [self.worker],
        )

    def days_left(self) -> int | None:
        return 200

    def since(self) -> dict[tuple[str, str], datetime]:
        """Return since when each alert stands, by its code and subject."""
        return {
            (alert["code"], alert["subject"]): datetime.fromisoformat(alert["since"])
            for alert in self.documents.status()["alerts"]
        }

    def at(self) -> datetime:
        return NOON + timedelta(seconds=self.now_s)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    catalog = Catalog.open_owner(storage_config(tmp_path))
    yield Site(catalog)
    catalog.close()


def shape(document: dict[str, Any]) -> dict[str, Any]:
    return {key: set(value) for key, value in document.items() if isinstance(value, dict)}


def test_the_status_of_a_site_that_works(site: Site) -> None:
    save(site.catalog, NOON + timedelta(seconds=95))
    site.now_s += 3600
    found = site.documents.status()
    assert found["verdict"] == {"level": "ok", "message": "Working. Last photo 60 min ago."}
    assert found["site"] == "gate-1"
    assert found["started_at"] == "2026-12-01T12:01:40.000Z"
    assert (found["uptime_s"], found["time"]) == (3600, "2026-12-01T13:01:40.000Z")
    assert found["clock_synchronized"] is True
    assert found["alerts"] == []
    assert [(c["key"], c["name"], c["state"]) for c in found["cameras"]] == [
        ("camera_1", "r1", "streaming"),
        ("camera_2", "r2", "streaming"),
        ("camera_3", "r3", "disabled"),
    ]
    assert found["cameras"][0] | {"label": ""} == {
        "key": "camera_1",
        "name": "r1",
        "label": "",
        "enabled": True,
        "state": "streaming",
        "error": None,
        "hint": None,
        "last_frame_age_ms": 40,
        "fps": 25.0,
        "width": 1920,
        "height": 1080,
        "codec": "h264",
        "clock_ppm": 40,
    }
    assert found["upload"] == {
        "enabled": True,
        "online": True,
        "paused": None,
        "queue_size": 0,
        "pending": 1,
        "rejected": 0,
        "oldest_pending_at": "2026-12-01T12:01:35.000Z",
        "target": "https://example.org",
        "drain": None,
    }
    storage = found["storage"]
    assert (storage["images"], storage["days_left"]) == (1, 200)
    assert storage["disk_total_bytes"] > storage["disk_free_bytes"] > 0


def test_the_pins_are_named_by_their_cameras(site: Site) -> None:
    seen = replace(PIN, last_edge_at=NOON, triggers=3, suppressed=1)
    site.gpio = replace(GPIO, pins=(seen,))
    pins = site.documents.gpio_status()
    assert pins == site.documents.status()["gpio"]
    assert pins == {
        "enabled": True,
        "available": True,
        "error": None,
        "hint": None,
        "pins": [
            {
                "camera": "r1",
                "pin": 18,
                "state": "HIGH",
                "last_edge_at": "2026-12-01T12:00:00.000Z",
                "triggers": 3,
                "suppressed": 1,
                "stuck_low": False,
            }
        ],
    }


def test_counters_have_every_camera(site: Site) -> None:
    save(site.catalog)
    found = site.documents.stats()
    nothing_yet = {"r1": 0, "r2": 0, "r3": 0}
    assert found["captures"]["by_camera"] == found["triggers"]["by_camera"] == nothing_yet
    assert (found["uploads"]["pending"], found["storage"]["images"]) == (1, 1)
    assert shape(found) == {
        "captures": {"total", "succeeded", "failed", "by_camera", "latency_ms", "offset_ms"},
        "uploads": {
            "uploaded",
            "failed_attempts",
            "queued",
            "pending",
            "rejected",
            "bytes",
            "last_success_at",
        },
        "storage": {"images", "bytes", "disk_free_bytes", "disk_total_bytes", "days_left"},
        "cleanup": {"last_run_at", "deleted", "freed_bytes"},
        "triggers": {"by_camera"},
    }


def test_an_alert_says_since_when_it_stands(site: Site) -> None:
    site.cameras["camera_1"] = DOWN
    [alert] = site.documents.status()["alerts"]
    assert set(alert) == {"code", "level", "message", "hint", "since", "subject"}
    began_at = site.at()
    site.now_s += 60
    assert site.since() == {("camera_down", "r1"): began_at}
    site.cameras["camera_1"] = replace(DOWN, error="no answer")
    assert site.since() == {("camera_down", "r1"): began_at}, "it is down as it was"
    site.cameras["camera_1"] = STREAMING
    assert site.since() == {}
    site.cameras["camera_1"] = DOWN
    assert site.since() == {("camera_down", "r1"): site.at()}, "that is another time"


def test_alerts_of_two_cameras_are_two(site: Site) -> None:
    site.cameras["camera_1"] = LONG_GOP
    first_at = site.at()
    assert site.since() == {("gop_too_long", "r1"): first_at}
    site.now_s += 60
    site.cameras["camera_2"] = TOO_MUCH
    second_at = site.at()
    assert site.since() == {
        ("gop_too_long", "r1"): first_at,
        ("gop_too_long", "r2"): second_at,
    }
    site.cameras["camera_1"] = STREAMING
    assert site.since() == {("gop_too_long", "r2"): second_at}


def test_an_alert_of_a_pin_is_about_its_camera(site: Site) -> None:
    site.gpio = STUCK_GPIO
    assert set(site.since()) == {("stuck_low", "r2")}


def test_an_alert_of_the_whole_site_has_no_subject(site: Site) -> None:
    site.synchronized = False
    site.nothing_left_to_delete = True
    assert set(site.since()) == {("storage_full", ""), ("clock_unsynchronized", "")}


def test_health(site: Site) -> None:
    assert site.documents.health() == "ok"
    site.cameras["camera_1"] = replace(STREAMING, state="connecting")
    assert site.documents.health() == "starting"
    site.cameras["camera_1"] = DOWN
    assert site.documents.health() == "degraded"
    site.worker.alive = False
    assert site.documents.health() == "failing"


def test_health_without_a_catalog_is_degraded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise StorageError("the disk is gone")

    monkeypatch.setattr(site.catalog.rows, "totals", fail)
    assert site.documents.health() == "degraded"
