"""The operator's commands, with and without a running daemon."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
import termios
import threading
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from config import StorageConfig
from store.catalog import Catalog
from store.rows import Image, ImageFilter
from tests.rigs.daemon import ROOT, DaemonProcess
from tests.rigs.gates import gates
from tests.rigs.receiver import Receiver
from tests.rigs.stores import JPEG, NOON, save, save_many, storage_config

DAY = "2026-12-01"
KEEP_ALL = {"IMAGE_RETENTION_DAYS": "3650"}


def stored(tmp_path: Path, number: int, **how: object) -> tuple[StorageConfig, list[Image]]:
    config = storage_config(tmp_path)
    catalog = Catalog.open_owner(config)
    images = save_many(catalog, number, **how)
    catalog.close()
    return config, images


def test_verify_tells_what_is_missing_and_altered(tmp_path: Path) -> None:
    config, images = stored(tmp_path, 4)
    with DaemonProcess(tmp_path, KEEP_ALL) as daemon:
        whole = daemon.command("--verify")
        assert (whole.returncode, whole.stderr) == (0, "")
        assert whole.stdout == "4 photos verified, 0 missing or altered.\n"
        (config.image_dir / images[0].filename).unlink()
        (config.image_dir / images[1].filename).write_bytes(JPEG + b"!")
        for running in (False, True):
            if running:
                daemon.start()
                daemon.wait_until("the web interface", lambda: bool(daemon.get("/api/status")))
            found = daemon.command("--verify")
            assert found.returncode == 1
            lines = found.stdout.splitlines()
            assert lines[-1] == "4 photos verified, 2 missing or altered."
            assert f"{images[0].filename}: the file is missing" in lines
            assert f"{images[1].filename}: the file's content was altered" in lines
        assert daemon.stop() == 0, daemon.log()


def test_verify_finds_nothing_wrong_while_the_daemon_works(tmp_path: Path) -> None:
    """Captures, uploads and a cleanup go on while every file is looked at, again and again."""
    old = NOON - timedelta(days=400)
    config = storage_config(tmp_path)
    catalog = Catalog.open_owner(config)
    save(catalog, datetime.now(UTC))  # a clock that no picture vouches for deletes nothing
    catalog.close()
    for number in range(1200):
        path = config.image_dir / f"r2_{int(old.timestamp()) + number}.jpg"
        path.write_bytes(JPEG + b"%d" % number)
    config.pending_file.write_text("[]", encoding="utf-8")
    with gates("admin", "secret") as site, Receiver() as receiver:
        settings = {
            "CAMERA_1_ENABLED": "true",
            "CAMERA_1_RTSP": site.url(1),
            "UPLOAD_ENABLED": "true",
            "S3_API_URL": receiver.url,
            "IMAGE_RETENTION_DAYS": "100",
        }
        with DaemonProcess(tmp_path, settings) as daemon:
            daemon.start()
            daemon.wait_for_streams(1)
            daemon.wait_until("all uploads", lambda: len(receiver.accepted) > 1200, 90)
            finished = threading.Event()

            def work() -> None:
                while not finished.is_set():
                    daemon.request("/api/capture/r1", {}, "POST")

            worker = threading.Thread(target=work)
            cleanup = threading.Thread(
                target=lambda: daemon.request("/api/cleanup/run", {}, "POST")
            )
            worker.start()
            try:
                cleanup.start()
                seen = [daemon.command("--verify") for _ in range(4)]
            finally:
                finished.set()
                worker.join()
                cleanup.join()
            assert [(s.returncode, s.stdout.count("\n")) for s in seen] == [(0, 1)] * 4, seen
            assert len(daemon.images_of(camera="r2")) == 0
            assert daemon.stop() == 0, daemon.log()


def test_verify_without_a_catalog_says_so(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, {}) as daemon:
        unmounted = daemon.command("--verify")
        assert unmounted.returncode == 74
        assert "is its disk mounted?" in unmounted.stderr
        daemon.images.mkdir()
        found = daemon.command("--verify")
        assert found.returncode == 74
        assert "there is no catalog" in found.stderr


def test_a_bar_shows_how_far_it_is_on_a_terminal(tmp_path: Path) -> None:
    stored(tmp_path, 3)
    with DaemonProcess(tmp_path, KEEP_ALL) as daemon:
        daemon.write_env()
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        try:
            subprocess.run(
                [sys.executable, str(ROOT / "main.py"), "--verify"],
                cwd=tmp_path,
                env=daemon.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=theirs,
                timeout=120,
                check=True,
            )
            shown = os.read(ours, 100_000).decode()
        finally:
            os.close(ours)
            os.close(theirs)
        assert "verifying: 100%" in shown
        assert "3/3" in shown


def test_export_writes_a_day_beside_the_daemon(tmp_path: Path) -> None:
    _, images = stored(tmp_path, 3)
    settings = {**KEEP_ALL, "CAMERA_1_LABEL": "=Entry"}
    with DaemonProcess(tmp_path, settings) as daemon:
        daemon.start()
        daemon.wait_until("the web interface", lambda: bool(daemon.get("/api/status")))
        done = daemon.command("--export", DAY)
        assert (done.returncode, done.stderr) == (0, "")
        name = f"photos-gate-1-{DAY}.zip"
        assert done.stdout == f"3 photos in {name}\n"
        with zipfile.ZipFile(tmp_path / name) as zipped:
            assert zipped.testzip() is None
            assert zipped.read(images[1].filename) == JPEG + b"1"
            index = zipped.read("index.csv").decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(index)))
        assert [row["filename"] for row in rows] == [image.filename for image in images]
        assert rows[0]["label"] == "'=Entry"
        again = daemon.command("--export", DAY)
        assert again.returncode == 1
        assert "is there already" in again.stdout
        (tmp_path / "stick").mkdir()
        assert daemon.command("--export", DAY, "--to", "stick").returncode == 0
        assert daemon.command("--export", DAY, "--to", "stick/one.zip").returncode == 0
        assert {path.name for path in (tmp_path / "stick").iterdir()} == {"one.zip", name}
        assert daemon.stop() == 0, daemon.log()


def test_export_says_what_it_can_t_do(tmp_path: Path) -> None:
    stored(tmp_path, 1)
    with DaemonProcess(tmp_path, KEEP_ALL) as daemon:
        empty = daemon.command("--export", "2026-11-01")
        assert empty.returncode == 1
        assert "no photos of 2026-11-01" in empty.stdout
        for day in ("yesterday", "2026-13-01", "01.12.2026"):
            wrong = daemon.command("--export", day)
            assert wrong.returncode == 2
            assert "YYYY-MM-DD" in wrong.stderr
        nowhere = daemon.command("--export", DAY, "--to", "no/such/file.zip")
        assert nowhere.returncode == 74
        assert "cannot write" in nowhere.stderr
    assert list(tmp_path.glob("*.zip*")) == []


def test_rebuild_refuses_beside_a_daemon_and_works_without(tmp_path: Path) -> None:
    config, images = stored(tmp_path, 3)
    listed = [{"filename": images[0].filename}]
    config.pending_file.write_text(json.dumps(listed), encoding="utf-8")
    late_s = images[2].captured_at.timestamp() + 3600
    os.utime(config.pending_file, (late_s, late_s))
    with Receiver() as receiver:
        settings = {**KEEP_ALL, "UPLOAD_ENABLED": "true", "S3_API_URL": receiver.url}
        settings["OFFLINE_RETRY_INTERVAL"] = "0.5"
        with DaemonProcess(tmp_path, settings) as daemon:
            done = daemon.command("--rebuild")
            assert done.returncode == 0, done.stderr
            assert "3 photos in the new catalog: 1 pending, 2 unknown." in done.stdout
            [former] = config.state_dir.glob("catalog.sqlite3.replaced-*")
            assert str(former) in done.stdout
            daemon.start()
            daemon.wait_until("the pending one", lambda: len(receiver.accepted) == 1)
            refused = daemon.command("--rebuild")
            assert refused.returncode == 75
            assert f"process {daemon.pid}" in refused.stderr
            assert [*config.state_dir.glob("catalog.sqlite3.replaced-*")] == [former]
            assert daemon.command("--requeue-unknown").returncode == 0
            daemon.wait_until("the others", lambda: len(receiver.accepted) == 3)
            daemon.wait_until(
                "all to be noted", lambda: len(daemon.images_of(state="uploaded")) == 3
            )
            assert daemon.stop() == 0, daemon.log()
    catalog = Catalog.open_owner(config)
    assert catalog.rows.count(ImageFilter(state="uploaded")) == 3
    catalog.close()


@pytest.mark.parametrize("settings", [{"S3_API_URL": "s3://gates", "UPLOAD_ENABLED": "true"}])
def test_a_store_s_package_is_asked_for(tmp_path: Path, settings: dict[str, str]) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    with DaemonProcess(tmp_path, {**settings, **keys}) as daemon:
        assert daemon.command("--check-config").returncode == 0
        (tmp_path / "without").mkdir()
        (tmp_path / "without" / "minio.py").write_text("raise ImportError('not installed')")
        daemon.with_fake_pins = False
        environment = {**daemon.environment(), "PYTHONPATH": str(tmp_path / "without")}
        for arguments in (["--check-config"], []):
            done = subprocess.run(
                [sys.executable, str(ROOT / "main.py"), *arguments],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 78
            assert "pip install 'minio" in done.stderr
