"""The pretend upload server: stores what it gets, and fails when it is told to."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from flask import Flask, Response, jsonify, request

from web.server import WebServer

UPLOAD_PATH: Final = "/api/Common/Upload"
_HOST: Final = "127.0.0.1"
_FIELD: Final = "singleFile"
_MOST_KEPT: Final = 200
_SLOW_S: Final = 6.0
_STOP_S: Final = 3.0
_NAME: Final = re.compile(r"[a-z0-9-]{1,16}_\d{1,12}(_b?\d{1,3})*\.jpg")
_PORTAL: Final = "<!doctype html><title>Hotel Wi-Fi</title><p>Accept our terms to go online.</p>"


@dataclass(frozen=True)
class Upload:
    """One picture that arrived."""

    filename: str
    received_at: datetime
    size_bytes: int


class UploadReceiver:
    """Accept uploads on `port` and keep the newest few hundred in `folder`.

    A repeated upload (the same Idempotency-Key) is counted, not stored again.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.url = f"http://{_HOST}:{port}{UPLOAD_PATH}"
        self.received = 0
        self.repeated = 0
        self._port = port
        self._uploads: deque[Upload] = deque()
        self._keys: set[str] = set()
        self._lock = threading.Lock()
        self._mode = "ok"
        self._ending = threading.Event()
        self._server: WebServer | None = None
        self._answers: dict[str, Callable[[], Response]] = {
            "ok": self._accept,
            "slow": self._accept_slowly,
            "error-503": lambda: _refuse(503, "the pretend server is overloaded"),
            "unauthorized": lambda: _refuse(401, "the pretend server wants another token"),
            "captive-portal": lambda: Response(_PORTAL, 200, mimetype="text/html"),
        }

    def start(self) -> None:
        """Listen."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._listen()

    def stop(self) -> None:
        """End."""
        self._ending.set()
        self._close()

    @property
    def mode(self) -> str:
        """Return how uploads are treated now."""
        return self._mode

    def set_mode(self, mode: str) -> None:
        """Treat uploads so: ok, slow, error-503, unauthorized, captive-portal, or offline."""
        if mode != "offline" and mode not in self._answers:
            raise ValueError(f"there is no mode {mode!r}")
        self._mode = mode
        if mode == "offline":
            self._close()
        elif self._server is None:
            self._listen()

    def newest(self, count: int) -> list[Upload]:
        """Return what arrived last, newest first."""
        with self._lock:
            return list(self._uploads)[: -count - 1 : -1]

    def path_of(self, filename: str) -> Path | None:
        """Return where a picture lies that is still kept."""
        with self._lock:
            known = any(upload.filename == filename for upload in self._uploads)
        return self.folder / filename if known else None

    def _listen(self) -> None:
        app = Flask(__name__, static_folder=None)
        app.add_url_rule(UPLOAD_PATH, "upload", self._answer, methods=["POST"])
        self._server = WebServer(app, _HOST, self._port, "pretend upload server")
        self._server.start()

    def _close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.stop()
            server.join(_STOP_S)

    def _answer(self) -> Response:
        return self._answers.get(self._mode, self._accept)()

    def _accept_slowly(self) -> Response:
        self._ending.wait(_SLOW_S)
        return self._accept()

    def _accept(self) -> Response:
        file = request.files.get(_FIELD)
        if file is None:
            return _refuse(500, "Unexpected field")
        name = file.filename or ""
        if not _NAME.fullmatch(name):
            return _refuse(400, "not the name of a picture")
        image = file.read()
        key = request.headers.get("Idempotency-Key", name)
        with self._lock:
            if key in self._keys:
                self.repeated += 1
            else:
                self._store(name, image)
                self._keys.add(key)
        return jsonify(Location=f"http://{_HOST}/received/{name}")

    def _store(self, name: str, image: bytes) -> None:
        (self.folder / name).write_bytes(image)
        self._uploads.append(Upload(name, datetime.now(UTC), len(image)))
        self.received += 1
        if len(self._uploads) > _MOST_KEPT:
            (self.folder / self._uploads.popleft().filename).unlink(missing_ok=True)


def _refuse(status: int, words: str) -> Response:
    return Response(f"{words}\n", status, mimetype="text/plain")
