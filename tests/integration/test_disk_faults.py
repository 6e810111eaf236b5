"""The daemon on disks that are full, read-only, broken or slow: what it says and gets over."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.rigs import small_disk
from tests.rigs.daemon import PATIENCE_S, DaemonProcess
from tests.rigs.faulty_disk import Fault, FaultyDisk
from tests.rigs.gates import Gates, gates
from tests.rigs.receiver import Receiver
from tests.rigs.small_disk import SmallDisk

PIN = 18


@pytest.fixture(scope="module")
def site() -> Iterator[Gates]:
    with gates("admin", "secret") as found:
        yield found


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    reason = small_disk.missing()
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(f"no file system of our own: {reason}")
        pytest.skip(f"NOT TESTED, a real disk that fails: {reason}")
    with SmallDisk(tmp_path) as mounted:
        yield mounted


@contextmanager
def daemon_on(
    folder: Path, images: Path, site: Gates, receiver: Receiver, **more: str
) -> Iterator[DaemonProcess]:
    settings = {
        "CAMERA_1_ENABLED": "true",
        "CAMERA_1_RTSP": site.url(1),
        "GPIO_ENABLED": "true",
        "GPIO_BOUNCE_TIME": "100",
        "GPIO_REARM_MS": "20",
        "UPLOAD_ENABLED": "true",
        "S3_API_URL": receiver.url,
        "OFFLINE_RETRY_INTERVAL": "0.5",
        "CONNECTIVITY_CHECK_INTERVAL": "0.5",
        "IMAGE_STORAGE_PATH": str(images),
        "PENDING_UPLOADS_FILE": str(images.parent / "pending_uploads.json"),
        "LOG_FILE": str(images.parent / "camera.log"),
        **more,
    }
    with DaemonProcess(folder, settings) as daemon:
        daemon.images = images
        yield daemon


def capture(daemon: DaemonProcess) -> tuple[int, dict[str, Any]]:
    return daemon.request("/api/capture/camera_1", body={}, method="POST")


def saved(daemon: DaemonProcess, number: int) -> set[str]:
    """Take so many photos and return their names."""
    answers = [capture(daemon) for _ in range(number)]
    assert [status for status, _ in answers] == [201] * number, answers
    return {body["image"]["filename"] for _, body in answers}


def alert(daemon: DaemonProcess, code: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = daemon.get("/api/status")["alerts"]
    return next((each for each in found if each["code"] == code), {})


def saved_without_alert(daemon: DaemonProcess) -> set[str]:
    """Take photos until nothing is wrong with the storage any more, and return their names.

    One ends an error of saving; the list of pending ones is written seconds later, and a busy
    machine may be slow to save, which is an alert too.
    """
    names = saved(daemon, 1)
    deadline_s = time.monotonic() + PATIENCE_S
    while alert(daemon, "storage_error"):
        assert time.monotonic() < deadline_s, daemon.log()
        names |= saved(daemon, 1)
    return names


def pull(daemon: DaemonProcess, triggers: int) -> float:
    """Pull the pin, let it go, and wait until it may be pulled again."""
    moment_s = daemon.pull(PIN)
    daemon.let_go(PIN)
    daemon.wait_until(
        f"trigger {triggers}",
        lambda: daemon.get("/api/gpio/status")["pins"][0]["triggers"] == triggers,
    )
    threading.Event().wait(0.4)  # the hold-off, and what a busy machine adds
    return moment_s


def pull_in_vain(daemon: DaemonProcess, triggers: int, failures: int) -> None:
    """Pull the pin and wait until its capture has failed, with all before it."""
    pull(daemon, triggers)
    daemon.wait_until(
        f"{failures} failures", lambda: daemon.get("/api/stats")["captures"]["failed"] == failures
    )


def events(daemon: DaemonProcess, state: str) -> int:
    return int(daemon.get(f"/api/events?state={state}")["total"])


def check_health(daemon: DaemonProcess) -> None:
    """Check that every thread lives and the log is no flood."""
    assert daemon.get("/healthz") == {"status": "degraded"}
    assert "died" not in daemon.log()
    assert "Logging error" not in daemon.log()
    assert len(daemon.log().splitlines()) < 300, daemon.log()


def test_a_full_disk_is_told_and_got_over(tmp_path: Path, site: Gates, disk: SmallDisk) -> None:
    with (
        Receiver() as receiver,
        daemon_on(tmp_path, disk.path / "images", site, receiver) as daemon,
    ):
        receiver.stop_listening()
        daemon.start()
        daemon.wait_for_streams(1)
        names = saved(daemon, 3)
        disk.fill(left_bytes=2_000_000)
        status, body = capture(daemon)
        assert (status, "the disk is full" in body["error"]) == (503, True)
        pull_in_vain(daemon, 1, 2)
        daemon.wait_until("two failed events", lambda: events(daemon, "failed") == 2)
        assert alert(daemon, "storage_error")["level"] == "error"
        assert "the disk is full" in alert(daemon, "storage_error")["message"]
        receiver.listen_again()  # what is there goes out meanwhile
        receiver.wait_for(3, PATIENCE_S)
        daemon.wait_until("all marked", lambda: len(daemon.images_of(state="uploaded")) == 3)
        check_health(daemon)
        disk.make_room()
        names |= saved_without_alert(daemon)
        assert {upload.filename for upload in receiver.wait_for(len(names), PATIENCE_S)} == names
        assert receiver.repeats == []
        assert (events(daemon, "saved"), events(daemon, "failed")) == (len(names), 2)
        pending = disk.path / "pending_uploads.json"
        daemon.wait_until("an empty list", lambda: json.loads(pending.read_bytes()) == [])
        assert daemon.stop() == 0, daemon.log()
        assert list(disk.path.rglob("*.tmp")) == []


def test_a_disk_filled_to_the_brim_by_others(tmp_path: Path, site: Gates, disk: SmallDisk) -> None:
    with (
        Receiver() as receiver,
        daemon_on(tmp_path, disk.path / "images", site, receiver) as daemon,
    ):
        receiver.stop_listening()
        daemon.start()
        daemon.wait_for_streams(1)
        names = saved(daemon, 3)
        disk.fill(left_bytes=0)
        for number in range(1, 4):
            assert capture(daemon)[0] == 503
            pull_in_vain(daemon, number, 2 * number)
        receiver.listen_again()
        receiver.wait_for(3, PATIENCE_S)
        assert alert(daemon, "storage_error")["level"] == "error"
        check_health(daemon)
        disk.make_room()
        names |= saved(daemon, 1)
        assert {upload.filename for upload in receiver.wait_for(4, PATIENCE_S)} == names
        daemon.wait_until("all marked", lambda: len(daemon.images_of(state="uploaded")) == 4)
        assert receiver.repeats == []
        daemon.wait_until("six failed events", lambda: events(daemon, "failed") == 6)
        assert events(daemon, "saved") == 4
        assert daemon.stop() == 0, daemon.log()
        assert list(disk.path.rglob("*.tmp")) == []


def test_a_read_only_image_folder_beside_a_catalog_that_works(
    tmp_path: Path, site: Gates, disk: SmallDisk
) -> None:
    more = {
        "STATE_DIR": str(tmp_path / "state"),
        "LOG_FILE": str(tmp_path / "camera.log"),
        "PENDING_UPLOADS_FILE": str(tmp_path / "pending.json"),
    }
    with (
        Receiver() as receiver,
        daemon_on(tmp_path, disk.path / "images", site, receiver, **more) as daemon,
    ):
        daemon.start()
        daemon.wait_for_streams(1)
        saved(daemon, 1)
        disk.remount("ro")
        status, body = capture(daemon)
        assert (status, "read-only" in body["error"]) == (503, True)
        assert "read-only" in alert(daemon, "storage_error")["message"]
        pull_in_vain(daemon, 1, 2)
        daemon.wait_until("two failed events", lambda: events(daemon, "failed") == 2)
        check_health(daemon)
        disk.remount("rw")
        saved_without_alert(daemon)
        receiver.wait_for(2, PATIENCE_S)
        assert daemon.stop() == 0, daemon.log()


def test_a_file_system_that_the_kernel_gave_up(
    tmp_path: Path, site: Gates, disk: SmallDisk
) -> None:
    with (
        Receiver() as receiver,
        daemon_on(tmp_path, disk.path / "images", site, receiver) as daemon,
    ):
        receiver.stop_listening()
        daemon.start()
        daemon.wait_for_streams(1)
        names = saved(daemon, 3)
        pending = disk.path / "pending_uploads.json"
        daemon.wait_until("a list of three", lambda: len(json.loads(pending.read_bytes())) == 3)
        disk.abort()
        assert capture(daemon)[0] == 503
        pull_in_vain(daemon, 1, 2)
        assert alert(daemon, "storage_error")["level"] == "error"
        receiver.listen_again()  # the pictures are rescued
        assert {upload.filename for upload in receiver.wait_for(3, PATIENCE_S)} == names
        threading.Event().wait(2)  # several looks for more to send
        assert len(receiver.accepted) == 3
        check_health(daemon)
        assert len(json.loads(pending.read_bytes())) == 3
        daemon.stop()
        disk.repair()
        daemon.start()
        daemon.wait_for_streams(1)
        names |= saved(daemon, 1)
        daemon.wait_until("all marked", lambda: len(daemon.images_of(state="uploaded")) == 4)
        assert {upload.filename for upload in receiver.accepted} == names
        assert len(receiver.repeats) <= 3  # with the same key, since it could not be noted
        assert alert(daemon, "storage_error") == {}
        assert daemon.stop() == 0, daemon.log()
        assert list(disk.path.rglob("*.tmp")) == []


def test_a_start_that_can_t_write_says_why_and_is_tried_again(
    tmp_path: Path, site: Gates, disk: SmallDisk
) -> None:
    with (
        Receiver() as receiver,
        daemon_on(tmp_path, disk.path / "images", site, receiver) as daemon,
    ):
        disk.fill(left_bytes=0)
        full = daemon.command()
        assert (full.returncode, "the disk is full" in full.stderr) == (74, True), full.stderr
        disk.make_room()
        disk.remount("ro")
        read_only = daemon.command()
        assert (read_only.returncode, "read-only" in read_only.stderr) == (74, True)
        assert "Traceback" not in full.stderr + read_only.stderr
        disk.remount("rw")
        daemon.start()
        daemon.wait_for_streams(1)
        saved(daemon, 1)
        assert daemon.stop() == 0, daemon.log()


def test_a_start_on_a_full_disk_gives_up_thumbnails(
    tmp_path: Path, site: Gates, disk: SmallDisk
) -> None:
    """Else a box that restarts on a full disk stays down although sent photos could go."""
    with (
        Receiver() as receiver,
        daemon_on(tmp_path, disk.path / "images", site, receiver) as daemon,
    ):
        daemon.start()
        daemon.wait_for_streams(1)
        names = saved(daemon, 1)
        assert daemon.stop() == 0, daemon.log()
        (disk.path / "images" / ".state" / "thumbnails" / "r9_1.jpg").write_bytes(bytes(9_000_000))
        disk.fill(left_bytes=0)
        daemon.start()
        daemon.wait_for_streams(1)
        assert "thumbnails deleted" in daemon.log()
        names |= saved(daemon, 1)
        assert {image["filename"] for image in daemon.images_of()} == names
        assert daemon.stop() == 0, daemon.log()


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultyDisk]:
    (tmp_path / "faulty").mkdir()
    found = FaultyDisk(tmp_path / "table", tmp_path / "faulty")
    yield found
    found.close()


def test_io_errors_are_told_and_got_over(tmp_path: Path, site: Gates, faulty: FaultyDisk) -> None:
    with (
        Receiver() as receiver,
        daemon_on(tmp_path, tmp_path / "faulty" / "images", site, receiver) as daemon,
    ):
        daemon.more_environment = faulty.environment()
        daemon.start()
        daemon.wait_for_streams(1)
        names = saved(daemon, 1)
        faulty.fail(Fault("sync", 1, 1, "EIO"))
        for number in range(1, 4):
            status, body = capture(daemon)
            assert (status, "I/O error" in body["error"]) == (503, True)
            pull_in_vain(daemon, number, 2 * number)
        assert "I/O error" in alert(daemon, "storage_error")["message"]
        check_health(daemon)
        faulty.work_again()
        names |= saved_without_alert(daemon)
        assert (events(daemon, "saved"), events(daemon, "failed")) == (len(names), 6)
        assert daemon.stop() == 0, daemon.log()


def test_a_slow_disk_delays_pictures_and_not_edges(
    tmp_path: Path, site: Gates, faulty: FaultyDisk
) -> None:
    with (
        Receiver() as receiver,
        daemon_on(tmp_path, tmp_path / "faulty" / "images", site, receiver) as daemon,
    ):
        daemon.more_environment = faulty.environment()
        daemon.start()
        daemon.wait_for_streams(1)
        threading.Event().wait(1.5)  # until the stream's timing is sure
        faulty.delay("sync", 0.8)  # four for each picture
        edges = [pull(daemon, number) for number in range(1, 5)]
        daemon.wait_until("four pictures", lambda: len(daemon.images_of()) == 4)
        assert alert(daemon, "storage_error")["level"] == "warning"
        assert "the disk is slow" in daemon.log()
        faulty.heal()
        for image, moment_s in zip(reversed(daemon.images_of()), edges, strict=True):
            jpeg = (daemon.images / image["filename"]).read_bytes()
            site.check_picture(image, jpeg, moment_s)  # no edge has waited for the disk
        saved_without_alert(daemon)
        assert daemon.stop() == 0, daemon.log()
