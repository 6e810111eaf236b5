"""The whole daemon as its own process: real cameras, pulled pins, a real upload receiver."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.daemon import PATIENCE_S, DaemonProcess
from tests.rigs.gates import Gates, gates
from tests.rigs.receiver import Answer, Receiver

PINS = {"camera_1": 18, "camera_2": 19, "camera_3": 20}
PINS_SETTINGS = {"GPIO_ENABLED": "true", "GPIO_BOUNCE_TIME": "100", "GPIO_REARM_MS": "20"}
REARM_S = 0.4  # much longer than the above: a busy machine looks at its pins late
PASSWORD = "p@ss w/rd%"


@pytest.fixture(scope="module")
def site() -> Iterator[Gates]:
    """Serve three cameras behind a password."""
    with gates("admin", PASSWORD) as found:
        yield found


def camera_settings(site: Gates, *numbers: int) -> dict[str, str]:
    settings = {}
    for n in numbers:
        settings[f"CAMERA_{n}_ENABLED"] = "true"
        settings[f"CAMERA_{n}_RTSP"] = site.url(n)
    return settings


@contextmanager
def uploading_daemon(
    tmp_path: Path, site: Gates, receiver: Receiver, *numbers: int, **more: str
) -> Iterator[DaemonProcess]:
    settings = {
        **camera_settings(site, *numbers),
        **PINS_SETTINGS,
        "UPLOAD_ENABLED": "true",
        "S3_API_URL": receiver.url,
        "OFFLINE_RETRY_INTERVAL": "0.5",
        "CONNECTIVITY_CHECK_INTERVAL": "0.5",
        **more,
    }
    with DaemonProcess(tmp_path, settings) as daemon:
        yield daemon


def pull_and_let_go(daemon: DaemonProcess, pin: int) -> float:
    moment_s = daemon.pull(pin)
    daemon.let_go(pin)
    return moment_s


def wait_until_rearmed(daemon: DaemonProcess, pins: int, triggers: int) -> None:
    """Wait until every pin has triggered so often and may be pulled again."""
    daemon.wait_until(
        f"{triggers} triggers on each pin",
        lambda: (
            [p["triggers"] for p in daemon.get("/api/gpio/status")["pins"]] == [triggers] * pins
        ),
    )
    threading.Event().wait(REARM_S)


def rows(daemon: DaemonProcess, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(daemon.images / ".state" / "catalog.sqlite3") as connection:
        found = connection.execute(sql).fetchall()
    connection.close()
    return found


def test_every_edge_becomes_one_uploaded_picture_of_its_moment(tmp_path: Path, site: Gates) -> None:
    with (
        Receiver(keep_bodies=True) as receiver,
        uploading_daemon(tmp_path, site, receiver, 1, 2, 3) as daemon,
    ):
        daemon.start()
        daemon.wait_for_streams(3)
        threading.Event().wait(1.5)
        edges: dict[str, list[float]] = {name: [] for name in ("r1", "r2", "r3")}
        for round_number in range(1, 4):
            for name, pin in zip(edges, PINS.values(), strict=True):
                edges[name].append(pull_and_let_go(daemon, pin))
            wait_until_rearmed(daemon, 3, round_number)
        uploads = receiver.wait_for(9, PATIENCE_S)
        daemon.wait_until("all marked", lambda: len(daemon.images_of(state="uploaded")) == 9)
        images = daemon.images_of()
        assert len({upload.filename for upload in uploads}) == 9
        for name, moments in edges.items():
            of_camera = [image for image in reversed(images) if image["camera"] == name]
            assert [image["source"] for image in of_camera] == ["gpio"] * 3
            for image, moment_s in zip(of_camera, moments, strict=True):
                stored = (daemon.images / image["filename"]).read_bytes()
                assert receiver.bodies[image["filename"]] == stored
                assert hashlib.sha256(stored).hexdigest() == image["sha256"]
                site.check_picture(image, stored, moment_s)
        events = rows(daemon, "SELECT state, count(*) FROM events GROUP BY state")
        assert events == [("saved", 9)]
        daemon.wait_until(
            "an empty list of pending uploads",
            lambda: json.loads((tmp_path / "pending_uploads.json").read_text()) == [],
        )
        assert daemon.stop() == 0, daemon.log()
        assert PASSWORD not in daemon.log()
        assert "p%40ss" not in daemon.log()


def test_nothing_is_lost_by_kill_9_while_uploads_hang(tmp_path: Path, site: Gates) -> None:
    with Receiver() as receiver, uploading_daemon(tmp_path, site, receiver, 1, 2) as daemon:
        receiver.answer(Answer(hang=True))
        daemon.start()
        daemon.wait_for_streams(2)
        for round_number in range(1, 4):
            for pin in (18, 19):
                pull_and_let_go(daemon, pin)
            wait_until_rearmed(daemon, 2, round_number)
        daemon.wait_until("6 images", lambda: len(daemon.images_of()) == 6)
        saved = {image["filename"]: image["sha256"] for image in daemon.images_of()}
        daemon.pull(18)  # killed in the middle of this capture, or before it began
        daemon.kill()
        receiver.answer(Answer())
        daemon.start()
        arrived = {u.filename: u.sha256 for u in receiver.wait_for(6, PATIENCE_S)}
        daemon.wait_until("nothing pending", lambda: not daemon.images_of(state="pending"))
        arrived = {u.filename: u.sha256 for u in receiver.accepted}
        assert saved.items() <= arrived.items()
        assert {path.name for path in daemon.images.glob("*.jpg")} == {
            image["filename"] for image in daemon.images_of()
        }
        assert not list(daemon.images.glob(".*.tmp"))
        assert rows(daemon, "SELECT count(*) FROM events WHERE state = 'capturing'") == [(0,)]
        assert daemon.stop() == 0, daemon.log()


def test_offline_at_start_then_everything_goes_up(tmp_path: Path, site: Gates) -> None:
    with Receiver() as receiver, uploading_daemon(tmp_path, site, receiver, 1) as daemon:
        receiver.stop_listening()
        daemon.start()
        daemon.wait_for_streams(1)
        for _ in range(3):
            status, reply = daemon.request("/api/capture/r1", method="POST")
            assert (status, reply["image"]["source"]) == (201, "manual")
        daemon.wait_until(
            "the list on disk",
            lambda: len(json.loads((tmp_path / "pending_uploads.json").read_text())) == 3,
        )
        upload = daemon.get("/api/status")["upload"]
        assert (upload["online"], upload["pending"]) == (False, 3)
        listed = json.loads((tmp_path / "pending_uploads.json").read_text())
        assert list(listed[0]) == [
            *("filename", "camera", "captured_at"),
            *("attempts", "last_error", "next_attempt_at"),
        ]
        receiver.listen_again()
        receiver.wait_for(3, PATIENCE_S)
        daemon.wait_until("online", lambda: daemon.get("/api/status")["upload"]["online"])
        daemon.wait_until("nothing pending", lambda: not daemon.images_of(state="pending"))
        assert len(receiver.requests) == 3
        assert daemon.stop(signal.SIGINT) == 0
        assert "offline: cannot reach 127.0.0.1" in daemon.log()


@contextmanager
def scripted_rtsp(reply: bytes) -> Iterator[int]:
    """Answer every connection's first words with `reply` and close it."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(2)
                try:
                    while asked := connection.recv(4096):
                        lines = asked.decode("latin-1").splitlines()
                        cseq = next((x for x in lines if x.lower().startswith("cseq")), "CSeq: 1")
                        connection.sendall(reply.replace(b"@CSEQ", cseq.encode()))
                except OSError:
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        ended.set()
        thread.join(5)
        listener.close()


def test_what_is_wrong_with_a_camera_is_said_in_words(tmp_path: Path, site: Gates) -> None:
    sdp = b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\n"
    vp8 = (
        b"RTSP/1.0 200 OK\r\n@CSEQ\r\nContent-Type: application/sdp\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(sdp), sdp)
    )
    web = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    with scripted_rtsp(vp8) as vp8_port, scripted_rtsp(web) as web_port:
        urls = {
            1: site.url(1, "wr0ng-secret"),
            2: site.url(2, path="nowhere"),
            3: "rtsp://127.0.0.1:9/x",
            4: f"rtsp://127.0.0.1:{web_port}/x",
            5: f"rtsp://127.0.0.1:{vp8_port}/x",
        }
        words = {
            1: "wrong password (401)",
            2: "(404)",
            3: "connection refused",
            4: "not RTSP",
            5: "VP8",
        }
        settings = {f"CAMERA_{n}_RTSP": url for n, url in urls.items()}
        settings |= {f"CAMERA_{n}_ENABLED": "true" for n in urls}
        settings["CAPTURE_TIMEOUT_S"] = "0.5"
        with DaemonProcess(tmp_path, settings) as daemon:
            daemon.start()
            daemon.wait_until(
                "all cameras down",
                lambda: all(c["state"] == "down" for c in daemon.get("/api/status")["cameras"]),
            )
            for camera in daemon.get("/api/status")["cameras"]:
                assert words[int(camera["key"][-1])].lower() in camera["error"].lower()
                assert camera["hint"]
            status, reply = daemon.request("/api/capture/camera_1", method="POST")
            assert (status, reply["code"]) == (503, "camera_unavailable")
            assert "wrong password" in reply["error"]
            assert daemon.get("/api/events?state=failed")["events"][0]["reason"] == reply["error"]
            assert daemon.stop() == 0, daemon.log()
            assert "camera r1 down: wrong password (401)" in daemon.log()
            assert "wr0ng-secret" not in daemon.log()
            test = daemon.command("--test-capture")
            assert test.returncode == 1
            for said in words.values():
                assert said.lower() in test.stdout.lower()
            assert "wr0ng-secret" not in test.stdout + test.stderr


def test_capture_command_tests_every_camera_and_uploads_nothing(
    tmp_path: Path, site: Gates
) -> None:
    with Receiver() as receiver, uploading_daemon(tmp_path, site, receiver, 1, 2) as daemon:
        daemon.start()
        daemon.wait_for_streams(2)
        test = daemon.command("--test-capture")
        assert test.returncode == 0, test.stdout + test.stderr
        assert "r1 (Entry): ok, 1280x720" in test.stdout
        assert "2 of 2 cameras work." in test.stdout
        images = daemon.images_of()
        assert [(i["source"], i["state"]) for i in images] == [("test", "skipped")] * 2
        name = images[0]["filename"]
        status, reply = daemon.request("/api/uploads/retry", {"filename": name})
        assert (status, reply["code"]) == (409, "not_retryable")
        assert daemon.stop() == 0, daemon.log()
        assert receiver.requests == []


def test_gpio_command_shows_levels_and_edges(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, {"CAMERA_1_ENABLED": "true", "CAMERA_1_IP": "127.0.0.1"}) as box:
        shown = box.command("--test-gpio", "--duration", "0.2")
        assert shown.returncode == 0
        assert "r1: pin 18 is HIGH" in shown.stdout


def test_gpio_without_pins_says_why_and_all_else_works(tmp_path: Path, site: Gates) -> None:
    settings = {**camera_settings(site, 1), "GPIO_ENABLED": "true"}
    with DaemonProcess(tmp_path, settings) as daemon:
        daemon.with_fake_pins = False
        daemon.start()
        daemon.wait_for_streams(1)
        gpio = daemon.get("/api/gpio/status")
        assert (gpio["enabled"], gpio["available"]) == (True, False)
        assert "RPi.GPIO package is not installed" in gpio["error"]
        assert "GPIO_ENABLED=false" in gpio["hint"]
        assert daemon.request("/api/capture/r1", method="POST")[0] == 201
        assert daemon.get("/healthz") == {"status": "degraded"}
        assert daemon.stop() == 0, daemon.log()
        test = daemon.command("--test-gpio")
        assert test.returncode == 1
        assert "not installed" in test.stdout


def test_a_second_daemon_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, {}) as daemon:
        daemon.start()
        daemon.wait_until("the web interface", lambda: bool(daemon.get("/api/status")))
        second = daemon.command()
        assert second.returncode == 75
        assert f"process {daemon.pid}" in second.stderr
        assert daemon.stop() == 0, daemon.log()


def test_exit_codes_tell_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with DaemonProcess(tmp_path, {"IMAGE_STORAGE_PATH": "file/images"}) as daemon:
        unwritable = daemon.command()
        assert unwritable.returncode == 74
        assert "cannot write to" in unwritable.stderr
    with DaemonProcess(tmp_path, {"GPIO_BOUNCE_TIME": "soon", "BIND_PORT": "no"}) as daemon:
        wrong = daemon.command()
        assert wrong.returncode == 78
        assert "GPIO_BOUNCE_TIME='soon'" in wrong.stderr
        assert "BIND_PORT='no'" in wrong.stderr
    with DaemonProcess(tmp_path, {"CAMERA_1_ENABLED": "true"}) as daemon:
        checked = daemon.command("--check-config")
        assert checked.returncode == 0
        assert "The configuration is fine." in checked.stdout
        assert daemon.command("--version").stdout.strip()


def test_damaged_state_is_set_aside_and_said(tmp_path: Path, site: Gates) -> None:
    with Receiver() as receiver, uploading_daemon(tmp_path, site, receiver, 1) as daemon:
        receiver.stop_listening()
        daemon.start()
        daemon.wait_for_streams(1)
        names = [
            daemon.request("/api/capture/r1", method="POST")[1]["image"]["filename"]
            for _ in range(2)
        ]
        assert daemon.stop() == 0, daemon.log()
        (daemon.images / ".state" / "catalog.sqlite3").write_bytes(b"not a database" * 1000)
        listed = json.loads((tmp_path / "pending_uploads.json").read_text())
        assert [entry["filename"] for entry in listed] == names
        receiver.listen_again()
        daemon.start()
        assert {u.filename for u in receiver.wait_for(2, PATIENCE_S)} == set(names)
        assert daemon.stop() == 0, daemon.log()
        assert "the catalog is damaged" in daemon.log()
        assert list((daemon.images / ".state").glob("catalog.sqlite3.damaged-*"))
        (tmp_path / "pending_uploads.json").write_text("[{")
        daemon.start()
        daemon.wait_until(
            "the malformed list to be set aside",
            lambda: bool(list(tmp_path.glob("pending_uploads.json.malformed-*"))),
        )
        assert daemon.stop() == 0, daemon.log()
        assert "pending_uploads.json is malformed" in daemon.log()
        assert len(receiver.accepted) == 2


def test_cleanup_command_works_beside_the_daemon(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    old = images / "r1_1500000000.jpg"
    old.write_bytes(b"\xff\xd8 an old picture \xff\xd9")
    with DaemonProcess(tmp_path, {}) as daemon:
        daemon.start()
        daemon.wait_until("the old file's row", lambda: len(daemon.images_of()) == 1)
        assert daemon.images_of()[0]["state"] == "unknown"
        (images / "r1_1795000000.jpg").write_bytes(b"\xff\xd8 a new one \xff\xd9")
        daemon.stop()
        daemon.start()
        daemon.wait_until("the new file's row", lambda: len(daemon.images_of()) == 2)
        preview = daemon.get("/api/cleanup/preview")
        assert (preview["would_delete"], preview["kept_pending"]) == (1, 0)
        cleaned = daemon.command("--cleanup-now")
        assert cleaned.returncode == 0
        assert "Deleted 1 images" in cleaned.stdout
        assert not old.exists()
        assert [i["filename"] for i in daemon.images_of()] == ["r1_1795000000.jpg"]
        assert daemon.stop() == 0, daemon.log()


def test_a_stop_ends_in_time_while_camera_and_server_hang(tmp_path: Path, site: Gates) -> None:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=20) as silent,
        Receiver() as receiver,
        uploading_daemon(tmp_path, site, receiver, 1) as daemon,
    ):
        port = silent.getsockname()[1]
        daemon.settings |= {
            "CAMERA_2_ENABLED": "true",
            "CAMERA_2_RTSP": f"rtsp://127.0.0.1:{port}/x",
            "CAPTURE_TIMEOUT_S": "60",
            "UPLOAD_TIMEOUT_S": "600",
        }
        receiver.answer(Answer(hang=True))
        daemon.start()
        daemon.wait_for_streams(1)
        daemon.request("/api/capture/r1", method="POST")
        receiver.wait_for_requests(1, PATIENCE_S)
        daemon.pull(18)
        daemon.pull(19)
        daemon.wait_until(
            "both edges", lambda: len(daemon.get("/api/events?state=capturing")["events"]) > 0
        )
        assert daemon.stop(timeout_s=50) == 0, daemon.log()  # none of the two is waited for
        events = rows(daemon, "SELECT camera, state FROM events ORDER BY camera, id")
        assert events == [("r1", "saved"), ("r1", "saved"), ("r2", "failed")]
        receiver.answer(Answer())
        daemon.start()
        assert len({upload.filename for upload in receiver.wait_for(2, PATIENCE_S)}) == 2
        assert daemon.stop() == 0, daemon.log()


def test_a_burst_on_all_pins_gives_every_edge_its_own_picture(tmp_path: Path, site: Gates) -> None:
    settings = {**camera_settings(site, 1, 2, 3), **PINS_SETTINGS}
    with DaemonProcess(tmp_path, settings) as daemon:
        daemon.start()
        daemon.wait_for_streams(3)
        threading.Event().wait(1.5)
        moments: dict[str, list[float]] = {name: [] for name in ("r1", "r2", "r3")}
        for round_number in range(1, 7):
            for name, pin in zip(moments, PINS.values(), strict=True):
                moments[name].append(daemon.pull(pin))
            threading.Event().wait(0.1)
            for pin in PINS.values():
                daemon.let_go(pin)
            wait_until_rearmed(daemon, 3, round_number)
        daemon.wait_until("18 photos", lambda: len(daemon.images_of()) == 18)
        for name, edges_s in moments.items():
            of_camera = list(reversed(daemon.images_of(camera=name)))
            for image, edge_s in zip(of_camera, edges_s, strict=True):
                jpeg = (daemon.images / image["filename"]).read_bytes()
                site.check_picture(image, jpeg, edge_s)
        assert daemon.stop() == 0, daemon.log()
