"""Uploads straight to real S3 servers."""

from __future__ import annotations

import hashlib
import io
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from config import S3Config, UploadConfig
from store.catalog import Catalog
from store.rows import Image
from tests.rigs import s3 as rig
from tests.rigs.daemon import PATIENCE_S, DaemonProcess, free_port, free_ports
from tests.rigs.gates import gates
from tests.rigs.s3 import BUCKET, KEY, SECRET, WRITER_KEY, Store, store
from tests.rigs.stores import JPEG, NOON, save, storage_config, upload_config
from upload.outcomes import Deferred, Delivered, Misconfigured, Rejected
from upload.s3_target import S3Target

KINDS = ("seaweedfs", "rclone")
KEY_OF_NOON = f"anpr/gate-1/2026/12/01/r1_{NOON.timestamp():.0f}.jpg"


@pytest.fixture(scope="module", params=KINDS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    with store(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.open_owner(storage_config(tmp_path))
    yield catalog
    catalog.close()


def settings(server_url: str, **changes: object) -> UploadConfig:
    s3 = S3Config(endpoint_url=server_url, access_key_id=KEY, secret_access_key=SECRET)
    s3 = replace(s3, **changes)  # type: ignore[arg-type]
    return upload_config(f"s3://{BUCKET}/anpr", s3=s3, timeout_s=PATIENCE_S)


@pytest.fixture
def target(server: Store) -> Iterator[S3Target]:
    target = S3Target(settings(server.endpoint_url), "gate-1")
    yield target
    target.close()
    for name in server.names():
        server.client.remove_object(BUCKET, name)


def attempted(image: Image, times: int = 1) -> Image:
    return replace(image, attempts=times)


def test_an_object_is_what_was_saved_and_tells_what_is_known(
    server: Store, target: S3Target, catalog: Catalog
) -> None:
    image = save(catalog)
    assert target.send(image, JPEG, replay=False) == Delivered(f"s3://{BUCKET}/{KEY_OF_NOON}")
    assert server.names() == [KEY_OF_NOON]
    assert server.read(KEY_OF_NOON) == JPEG
    stored = server.client.stat_object(BUCKET, KEY_OF_NOON)
    told = {
        name.lower().removeprefix("x-amz-meta-"): value
        for name, value in (stored.metadata or {}).items()
        if name.lower().startswith("x-amz-meta-")
    }
    assert told["camera"] == "r1"
    assert told["captured-at"] == "2026-12-01T12:00:00.000Z"
    assert told["offset-ms"] == "12.5"
    assert told["sha256"] == hashlib.sha256(JPEG).hexdigest() == image.sha256
    assert told["site"] == "gate-1"
    assert told["event"] == str(image.event_id)
    assert stored.content_type == "image/jpeg"


def test_a_repeat_after_a_lost_answer_is_no_second_upload(
    server: Store, target: S3Target, catalog: Catalog
) -> None:
    image = save(catalog)
    assert isinstance(target.send(image, JPEG, replay=False), Delivered)
    before = server.client.stat_object(BUCKET, KEY_OF_NOON).last_modified
    assert isinstance(target.send(attempted(image), JPEG, replay=True), Delivered)
    assert server.client.stat_object(BUCKET, KEY_OF_NOON).last_modified == before


@pytest.mark.parametrize("attempts", [0, 1])
def test_another_picture_of_the_same_name_is_not_overwritten(
    server: Store, target: S3Target, catalog: Catalog, attempts: int
) -> None:
    image = save(catalog)
    assert isinstance(target.send(image, JPEG, replay=False), Delivered)
    other = replace(attempted(image, attempts), sha256="0" * 64)
    outcome = target.send(other, JPEG + b"other", replay=True)
    assert isinstance(outcome, Rejected)
    assert KEY_OF_NOON in outcome.reason
    assert server.read(KEY_OF_NOON) == JPEG


def test_a_picture_that_was_cut_off_in_the_store_is_made_whole(
    server: Store, target: S3Target, catalog: Catalog
) -> None:
    image = save(catalog)
    half = JPEG[:-9]
    put = server.client.put_object
    put(BUCKET, KEY_OF_NOON, io.BytesIO(half), len(half), metadata={"sha256": image.sha256 or ""})
    assert isinstance(target.send(image, JPEG, replay=True), Delivered)
    assert server.read(KEY_OF_NOON) == JPEG


def test_a_key_that_may_only_write_is_enough(tmp_path: Path, catalog: Catalog) -> None:
    image = save(catalog)
    with store("seaweedfs", tmp_path) as server:
        target = S3Target(settings(server.endpoint_url, access_key_id=WRITER_KEY), "gate-1")
        assert isinstance(target.send(image, JPEG, replay=False), Delivered)
        assert server.read(KEY_OF_NOON) == JPEG
        again = target.send(image, JPEG + b"other", replay=True)
        target.close()
        assert isinstance(again, Deferred), "whose picture that is can't be told, so it stays here"
        assert server.read(KEY_OF_NOON) == JPEG


@pytest.mark.parametrize(
    ("change", "hint"),
    [({"secret_access_key": "wrong"}, "AWS_"), ({"access_key_id": "nobody"}, "AWS_")],
)
def test_wrong_keys_pause(
    server: Store, catalog: Catalog, change: dict[str, str], hint: str
) -> None:
    target = S3Target(settings(server.endpoint_url, **change), "gate-1")
    outcome = target.send(save(catalog), JPEG, replay=False)
    target.close()
    assert isinstance(outcome, Misconfigured)
    assert hint in outcome.hint
    assert SECRET not in str(outcome)


def test_no_such_bucket_pauses(server: Store, catalog: Catalog) -> None:
    config = replace(settings(server.endpoint_url), url="s3://nowhere-at-all/x")
    target = S3Target(config, "gate-1")
    outcome = target.send(save(catalog), JPEG, replay=False)
    target.close()
    assert isinstance(outcome, Misconfigured), outcome


def test_a_store_that_is_not_there_is_waited_for(catalog: Catalog) -> None:
    target = S3Target(settings(f"http://127.0.0.1:{free_port()}"), "gate-1")
    outcome = target.send(save(catalog), JPEG, replay=False)
    target.close()
    assert isinstance(outcome, Deferred)
    assert outcome.cause == "connection"


def test_names_of_other_days_and_sites(target: S3Target, catalog: Catalog) -> None:
    late = save(catalog, NOON + timedelta(hours=11, minutes=59, seconds=59))
    early = save(catalog, NOON + timedelta(hours=12))
    assert target.key_of(late).startswith("anpr/gate-1/2026/12/01/")
    assert target.key_of(early).startswith("anpr/gate-1/2026/12/02/")


def test_a_corrected_time_changes_no_key(target: S3Target, catalog: Catalog) -> None:
    """An attempt before the correction may have arrived: another key would make it twice."""
    image = save(catalog, clock_trusted=False)
    corrected = replace(image, captured_at=NOON + timedelta(days=40), clock_trusted=True)
    assert target.key_of(corrected) == target.key_of(image)


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_loses_its_port_to_another_takes_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Only of the rig: tests run beside a demo and each other."""
    with socket.create_server(("127.0.0.1", 0)) as winner:
        taken = winner.getsockname()[1]
        offered = [[taken, *free_ports(7)], free_ports(8)]
        monkeypatch.setattr(rig, "free_ports", lambda number: offered.pop(0))
        with store(kind, tmp_path) as running:
            assert running.names() == []
            assert offered == []
            assert f":{taken}" not in running.endpoint_url


def test_the_daemon_delivers_when_the_store_comes(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    port = free_port()
    with gates("admin", "secret") as site:
        wanted = {
            "CAMERA_1_ENABLED": "true",
            "CAMERA_1_RTSP": site.url(1),
            "UPLOAD_ENABLED": "true",
            "S3_API_URL": f"s3://{BUCKET}/anpr",
            "S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "OFFLINE_RETRY_INTERVAL": "0.5",
            "CONNECTIVITY_CHECK_INTERVAL": "0.5",
        }
        with DaemonProcess(tmp_path, wanted) as daemon:
            daemon.start()
            daemon.wait_for_streams(1)
            names = [
                daemon.request("/api/capture/r1", {}, "POST")[1]["image"]["filename"] for _ in "ab"
            ]
            status = daemon.get("/api/status")["upload"]
            assert (status["pending"], status["online"]) == (2, False)
            with store("seaweedfs", tmp_path / "store", port) as server:
                daemon.wait_until("uploaded", lambda: len(daemon.images_of(state="uploaded")) == 2)
                found = server.names()
                assert [name.rpartition("/")[2] for name in found] == sorted(names)
                for name in found:
                    stored = (daemon.images / name.rpartition("/")[2]).read_bytes()
                    assert server.read(name) == stored
            assert "CANARY" not in daemon.log()
            assert daemon.stop() == 0
