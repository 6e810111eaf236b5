"""The embedded web interface: JSON routes and the page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any, Final, Protocol
from zoneinfo import ZoneInfo

from flask import Flask, Response, jsonify, render_template, request, send_file, url_for
from werkzeug.exceptions import HTTPException

from capture_service import CaptureOutcome
from catalog import Catalog
from cleanup_service import AlreadyRunningError, CleanupReport
from config import CameraConfig
from image_files import StorageError
from records import IMAGE_STATES, Event, Image, ImageFilter, iso

_log = logging.getLogger(__name__)

_EVENT_STATES: Final = ("capturing", "saved", "failed")
_MAX_PER_PAGE: Final = 200
_PAGE_IMAGES: Final = 12
_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class StatusSource(Protocol):
    """What the routes show of the state."""

    def status(self) -> dict[str, Any]:
        """Return the document of `/api/status`."""

    def stats(self) -> dict[str, Any]:
        """Return the document of `/api/stats`."""

    def gpio_status(self) -> dict[str, Any]:
        """Return the document of `/api/gpio/status`."""

    def health(self) -> str:
        """Return ok, degraded, starting or failing."""


@dataclass(frozen=True)
class Actions:
    """What the routes can do; each is called on a server thread."""

    capture: Callable[[str], CaptureOutcome]
    run_cleanup: Callable[[], CleanupReport]
    preview_cleanup: Callable[[], CleanupReport]
    retry_uploads: Callable[[str | None], int]
    resolve_unknown: Callable[[str], int]


class ApiError(Exception):
    """An answer that is not a success, as JSON."""

    def __init__(self, status: int, code: str, error: str, **more: object) -> None:
        super().__init__(error)
        self.status = status
        self.document = {"error": error, "code": code, **more}


def create_app(
    *,
    cameras: tuple[CameraConfig, ...],
    timezone: ZoneInfo,
    catalog: Catalog,
    status: StatusSource,
    actions: Actions,
) -> Flask:
    """Build the Flask application."""
    app = Flask(__name__)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config["MAX_CONTENT_LENGTH"] = 64_000
    by_name = {word: camera for camera in cameras for word in (camera.key, camera.name)}
    _add_guards(app)
    _add_errors(app)
    _add_state_routes(app, status, catalog, timezone)
    _add_image_routes(app, catalog, by_name, timezone)
    _add_action_routes(app, by_name, actions)
    return app


def _add_guards(app: Flask) -> None:
    @app.before_request
    def refuse_foreign_pages() -> None:
        """Until there is a login: no page in a browser may change anything."""
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return
        if any(header in request.headers for header in ("Origin", "Referer", "Cookie")):
            raise ApiError(403, "csrf", "pages of other sites can't do this")

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = _CSP
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers.setdefault("Cache-Control", "no-store")
        return response


def _add_errors(app: Flask) -> None:
    @app.errorhandler(ApiError)
    def tell(error: ApiError) -> tuple[Response, int]:
        return jsonify(error.document), error.status

    @app.errorhandler(HTTPException)
    def tell_http(error: HTTPException) -> tuple[Response, int]:
        code = {404: "not_found", 500: "internal"}.get(error.code or 500, "bad_request")
        return jsonify(error=error.description, code=code), error.code or 500

    @app.errorhandler(StorageError)
    def tell_storage(error: StorageError) -> tuple[Response, int]:
        _log.error("%s", error)
        return jsonify(error=str(error), code="storage_error"), 503


def _add_state_routes(
    app: Flask, status: StatusSource, catalog: Catalog, timezone: ZoneInfo
) -> None:
    @app.get("/")
    def index() -> str:
        images = catalog.images(ImageFilter(), limit=_PAGE_IMAGES)
        return render_template("index.html", status=status.status(), images=images, zone=timezone)

    @app.get("/api/status")
    def api_status() -> Response:
        return jsonify(status.status())

    @app.get("/api/stats")
    def api_stats() -> Response:
        return jsonify(status.stats())

    @app.get("/api/gpio/status")
    def api_gpio_status() -> Response:
        return jsonify(status.gpio_status())

    @app.get("/healthz")
    def healthz() -> tuple[Response, int]:
        health = status.health()
        return jsonify(status=health), 200 if health in ("ok", "degraded") else 503


def _add_image_routes(
    app: Flask, catalog: Catalog, by_name: Mapping[str, CameraConfig], timezone: ZoneInfo
) -> None:
    @app.get("/api/images")
    def api_images() -> Response:
        which = _image_filter(by_name, timezone)
        page, per_page, before = _paging()
        skip = 0 if before else (page - 1) * per_page
        images = catalog.images(which, limit=per_page + 1, before_id=before, skip=skip)
        total = catalog.count(which)
        return jsonify(
            images=[image_document(image) for image in images[:per_page]],
            **_paging_document(total, page, per_page, [image.id for image in images]),
        )

    @app.get("/api/events")
    def api_events() -> Response:
        state = _choice("state", _EVENT_STATES)
        page, per_page, before = _paging()
        skip = 0 if before else (page - 1) * per_page
        events = catalog.events(state, limit=per_page + 1, before_id=before, skip=skip)
        counts = catalog.totals().events
        total = counts[state] if state else sum(counts.values())
        return jsonify(
            events=[event_document(event) for event in events[:per_page]],
            **_paging_document(total, page, per_page, [event.id for event in events]),
        )

    @app.get("/api/images/<filename>")
    def api_image_file(filename: str) -> Response:
        try:
            image = catalog.image(filename)
        except KeyError:
            raise ApiError(404, "not_found", f"there is no image {filename!r}") from None
        path = catalog.folder.path / image.filename
        if _choice("size", ("thumb", "full")) == "thumb":
            path = catalog.thumbnail(image.filename) or path
        try:
            response = send_file(
                path,
                mimetype="image/jpeg",
                conditional=True,
                as_attachment=request.args.get("download") == "1",
                download_name=image.filename,
            )
        except OSError:
            raise ApiError(404, "not_found", f"the file of {filename!r} has gone") from None
        response.headers["Cache-Control"] = "private, max-age=31536000, immutable"
        return response


def _add_action_routes(app: Flask, by_name: Mapping[str, CameraConfig], actions: Actions) -> None:
    @app.post("/api/capture/<camera_key>")
    def api_capture(camera_key: str) -> tuple[Response, int]:
        camera = by_name.get(camera_key)
        if camera is None:
            raise ApiError(404, "unknown_camera", f"there is no camera {camera_key!r}")
        if not camera.enabled:
            raise ApiError(409, "camera_disabled", f"camera {camera.name} is disabled")
        outcome = actions.capture(camera.key)
        if outcome.image is None:
            raise ApiError(
                503, "camera_unavailable", outcome.reason or "no picture", hint=outcome.hint
            )
        document = image_document(outcome.image)
        return jsonify(image=document, latency_ms=round(outcome.latency_ms, 1)), 201

    @app.get("/api/cleanup/preview")
    def api_cleanup_preview() -> Response:
        report = actions.preview_cleanup()
        return jsonify(
            would_delete=report.deleted,
            would_free_bytes=report.freed_bytes,
            kept_pending=report.kept_pending,
            held_back=report.held_back,
        )

    @app.post("/api/cleanup/run")
    def api_cleanup_run() -> Response:
        try:
            report = actions.run_cleanup()
        except AlreadyRunningError as error:
            raise ApiError(409, "already_running", str(error)) from None
        return jsonify(vars(report))

    @app.post("/api/uploads/retry")
    def api_uploads_retry() -> tuple[Response, int]:
        filename = _body().get("filename")
        if filename is not None and not isinstance(filename, str):
            raise ApiError(400, "bad_request", "filename must be a text")
        try:
            retried = actions.retry_uploads(filename)
        except KeyError:
            raise ApiError(404, "not_found", f"there is no image {filename!r}") from None
        if filename is not None and not retried:
            raise ApiError(409, "not_retryable", f"{filename} is not to be sent")
        return jsonify(retried=retried), 202

    @app.post("/api/uploads/resolve-unknown")
    def api_resolve_unknown() -> Response:
        action = _body().get("action")
        states = {"send": "pending", "mark_sent": "uploaded"}
        if not isinstance(action, str) or action not in states:
            raise ApiError(400, "bad_request", "action must be send or mark_sent")
        return jsonify(changed=actions.resolve_unknown(states[action]))


def image_document(image: Image) -> dict[str, Any]:
    """Return an image as the API shows it."""
    url = url_for("api_image_file", filename=image.filename)
    return {
        "filename": image.filename,
        "camera": image.camera,
        "captured_at": iso(image.captured_at),
        "timestamp": int(image.captured_at.timestamp()),
        "size": image.size_bytes,
        "width": image.width,
        "height": image.height,
        "source": image.source,
        "offset_ms": image.offset_ms,
        "state": image.state,
        "url": url,
        "thumbnail_url": f"{url}?size=thumb",
        "sha256": image.sha256,
        "flags": image.flags,
        "attempts": image.attempts,
        "last_error": image.last_error,
        "next_attempt_at": iso(image.next_attempt_at),
        "uploaded_at": iso(image.uploaded_at),
        "event_id": image.event_id,
    }


def event_document(event: Event) -> dict[str, Any]:
    """Return an event as the API shows it."""
    return {
        "id": event.id,
        "camera": event.camera,
        "source": event.source,
        "edge_at": iso(event.edge_at),
        "flags": event.flags,
        "state": event.state,
        "reason": event.reason,
        "images": event.filenames,
    }


def _image_filter(by_name: Mapping[str, CameraConfig], timezone: ZoneInfo) -> ImageFilter:
    camera = request.args.get("camera") or None
    if camera is not None:
        if camera not in by_name:
            raise ApiError(400, "bad_request", f"there is no camera {camera!r}")
        camera = by_name[camera].name
    since = until = None
    day_text = request.args.get("date")
    if day_text:
        try:
            day = datetime.strptime(day_text, "%Y-%m-%d").date()  # noqa: DTZ007 - a day only
            since = datetime.combine(day, time(), timezone)
            until = datetime.combine(day + timedelta(days=1), time(), timezone)
        except (ValueError, OverflowError):
            raise ApiError(400, "bad_request", "date must be like 2026-01-31") from None
    return ImageFilter(camera, _choice("state", IMAGE_STATES), since, until)


def _choice(name: str, options: tuple[str, ...]) -> str | None:
    value = request.args.get(name)
    if not value:
        return None
    if value not in options:
        raise ApiError(400, "bad_request", f"{name} must be one of {', '.join(options)}")
    return value


def _paging() -> tuple[int, int, int | None]:
    """Return the page, its length, and the cursor, which replaces the page."""
    page = _number("page", 1, 1, 10_000_000)
    per_page = _number("per_page", 50, 1, _MAX_PER_PAGE)
    before = _number("before", 0, 0, 1 << 62)
    return page, per_page, before or None


def _number(name: str, default: int, low: int, high: int) -> int:
    text = request.args.get(name)
    if not text:
        return default
    is_number = text.isascii() and text.isdecimal() and len(text) <= 20
    if not is_number or not low <= int(text) <= high:
        raise ApiError(400, "bad_request", f"{name} must be a whole number from {low} to {high}")
    return int(text)


def _paging_document(total: int, page: int, per_page: int, ids: list[int]) -> dict[str, Any]:
    return {
        "total": total,
        "page": page,
        "per_page": per_page,
        "pages": -(-total // per_page),
        "next": str(ids[per_page - 1]) if len(ids) > per_page else None,
    }


def _body() -> dict[str, Any]:
    if not request.get_data():
        return {}
    body = request.get_json(force=True, silent=True)
    if not isinstance(body, dict):
        raise ApiError(400, "bad_request", "the body must be a JSON object")
    return body
