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

from tests.rigs.daemon import free_ports

KEY, SECRET = "gate-key", "gate-secret-CANARY"
WRITER_KEY = "writer-key"
"""A key of SeaweedFS that may write and not read."""
_OWNER = {"accessKey": "owner-key", "secretKey": "owner-secret"}
BUCKET = "gates"
START_S = 120.0  # a busy machine takes long
_ATTEMPTS = 3
_WEED_PORTS = (
    *("s3.port", "master.port", "volume.port", "filer.port"),
    *("s3.port.grpc", "master.port.grpc", "volume.port.grpc", "filer.port.grpc"),
)


@dataclass(frozen=True)
class Store:
    """A running store with an empty bucket."""

    endpoint_url: str
    client: Minio
    connections: PoolManager

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
    """Run `seaweedfs` or `rclone` while the context lasts, on this port or a free one."""
    process, running = _start(kind, folder, port)
    try:
        yield running
    finally:
        _end(process, running)


def _start(kind: str, folder: Path, port: int | None) -> tuple[subprocess.Popen[bytes], Store]:
    """Start a store; somebody else may take a port between its choice and its use.

    Raises:
        RuntimeError: it does not start.
    """
    words = ""
    for attempt in range(_ATTEMPTS):
        log_path = folder / f"{kind}-{attempt}.log"
        s3_port, *others = free_ports(len(_WEED_PORTS))
        process = _launch(kind, folder, log_path, [port or s3_port, *others])
        running = _reach(port or s3_port)
        try:
            if _has_bucket(running.client, process):
                return process, running
        except BaseException:
            _end(process, running)
            raise
        ended = process.poll() is not None
        _end(process, running)
        words = log_path.read_text(errors="replace")
        if not (ended and "address already in use" in words):
            break
    raise RuntimeError(f"{kind} does not start\n{words[-3000:]}")


def _launch(kind: str, folder: Path, log_path: Path, ports: list[int]) -> subprocess.Popen[bytes]:
    make = {"seaweedfs": _seaweedfs, "rclone": _rclone}[kind]
    command, environment = make(folder, ports)
    with log_path.open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _end(process: subprocess.Popen[bytes], running: Store) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    running.connections.clear()


def _reach(port: int) -> Store:
    connections = PoolManager(retries=False, timeout=30)
    client = Minio(
        f"127.0.0.1:{port}",
        access_key=_OWNER["accessKey"],
        secret_key=_OWNER["secretKey"],
        secure=False,
        region="us-east-1",
        http_client=connections,
    )
    return Store(f"http://127.0.0.1:{port}", client, connections)


def _has_bucket(client: Minio, process: subprocess.Popen[bytes]) -> bool:
    """Make the bucket as soon as the store answers; `False` when it ends or never does."""
    deadline_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            if not client.bucket_exists(BUCKET):
                client.make_bucket(BUCKET)
        except (S3Error, HTTPError, OSError):
            threading.Event().wait(0.2)
        else:
            return True
    return False


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _seaweedfs(folder: Path, ports: list[int]) -> tuple[list[str], dict[str, str]]:
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
    command += ["-s3", "-filer", f"-s3.config={folder / 's3.json'}", "-ip.bind=127.0.0.1"]
    command += ["-volume.max=20", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"]
    command += [f"-{name}={port}" for name, port in zip(_WEED_PORTS, ports, strict=True)]
    # Two more catalogs, which nobody asks here, would listen on 8181 and 9101.
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    return command, {}


def _rclone(folder: Path, ports: list[int]) -> tuple[list[str], dict[str, str]]:
    (folder / "rclone").mkdir(exist_ok=True)
    command = [_tool("rclone"), "serve", "s3", str(folder / "rclone"), "--addr"]
    command += [f"127.0.0.1:{ports[0]}", "--auth-key", f"{KEY},{SECRET}"]
    command += ["--auth-key", ",".join(_OWNER.values())]
    return command, {"RCLONE_CONFIG": str(folder / "none.conf")}
