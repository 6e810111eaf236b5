"""Real S3 servers on loopback: SeaweedFS and rclone, each as its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from minio import Minio
from minio.error import S3Error
from urllib3 import PoolManager
from urllib3.exceptions import HTTPError

from tests.rigs.daemon import free_port

KEY, SECRET = "gate-key", "gate-secret-CANARY"
WRITER_KEY = "writer-key"
"""A key of SeaweedFS that may write and not read."""
_OWNER = {"accessKey": "owner-key", "secretKey": "owner-secret"}
BUCKET = "gates"
START_S = 40.0


@dataclass(frozen=True)
class Store:
    """A running store with an empty bucket."""

    endpoint_url: str
    client: Minio

    @property
    def settings(self) -> dict[str, str]:
        """Return the settings of a daemon that uploads to it."""
        return {
            "UPLOAD_ENABLED": "true",
            "S3_API_URL": f"s3://{BUCKET}/anpr",
            "S3_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }

    def names(self) -> list[str]:
        """Return the keys of all objects."""
        found = self.client.list_objects(BUCKET, recursive=True)
        return sorted(str(item.object_name) for item in found)

    def read(self, name: str) -> bytes:
        """Return an object's content."""
        response = self.client.get_object(BUCKET, name)
        try:
            return response.read()
        finally:
            response.close()
            response.release_conn()


@contextmanager
def store(kind: str, folder: Path, port: int | None = None) -> Iterator[Store]:
    """Run `seaweedfs` or `rclone` while the context lasts."""
    port = port or free_port()
    make = {"seaweedfs": _seaweedfs, "rclone": _rclone}[kind]
    command, environment = make(folder, port)
    with (folder / f"{kind}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        pool = PoolManager(retries=False, timeout=5)
        client = Minio(
            f"127.0.0.1:{port}",
            access_key=_OWNER["accessKey"],
            secret_key=_OWNER["secretKey"],
            secure=False,
            region="us-east-1",
            http_client=pool,
        )
        _wait_for_bucket(client, process, folder / f"{kind}.log")
        yield Store(f"http://127.0.0.1:{port}", client)
        pool.clear()
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_bucket(client: Minio, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            if not client.bucket_exists(BUCKET):
                client.make_bucket(BUCKET)
            return
        except (S3Error, HTTPError, OSError) as error:
            ended = process.poll() is not None
            if ended or time.monotonic() > deadline_s:
                raise RuntimeError(f"{error}\n{log.read_text()[-3000:]}") from error
            threading.Event().wait(0.2)


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _seaweedfs(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    actions = ["Read", "Write", "List", "Tagging"]
    # Whoever may do everything makes a bucket by writing into it.
    everything = {"name": "owner", "credentials": [_OWNER], "actions": [*actions, "Admin"]}
    credentials = [{"accessKey": KEY, "secretKey": SECRET}]
    gate = {"name": "gate", "credentials": credentials, "actions": actions}
    credentials = [{"accessKey": WRITER_KEY, "secretKey": SECRET}]
    writer = {"name": "writer", "credentials": credentials, "actions": ["Write"]}
    identities = {"identities": [everything, gate, writer]}
    (folder / "s3.json").write_text(json.dumps(identities), encoding="utf-8")
    (folder / "weed").mkdir(exist_ok=True)
    command = [_tool("weed"), "server", "-dir", str(folder / "weed"), "-ip", "127.0.0.1"]
    command += ["-s3", "-filer", f"-s3.port={port}", f"-s3.config={folder / 's3.json'}"]
    command += ["-ip.bind=127.0.0.1", "-volume.max=20", "-master.volumeSizeLimitMB=64"]
    ports = {"master.port": 0, "volume.port": 0, "filer.port": 0}
    command += [f"-{name}={free_port()}" for name in ports]
    command += [f"-{part}.port.grpc={free_port()}" for part in ("master", "volume", "filer", "s3")]
    return command, {}


def _rclone(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    (folder / "rclone").mkdir(exist_ok=True)
    command = [_tool("rclone"), "serve", "s3", str(folder / "rclone"), "--addr"]
    command += [f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}"]
    command += ["--auth-key", ",".join(_OWNER.values())]
    return command, {"RCLONE_CONFIG": str(folder / "none.conf")}
