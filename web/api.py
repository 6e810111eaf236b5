"""The JSON routes; docs and shapes are in README.md."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Blueprint, Response, jsonify, request, send_file

from web.access import Access, api_session, with_session
from web.context import CameraUnavailableError, Site
from web.documents import (
    EVENT_STATES,
    choice,
    event_document,
    image_document,
    image_filter,
    listing,
)
from web.errors import ApiError


def blueprint(site: Site, access: Access) -> Blueprint:
    """Return all JSON routes."""
    api = Blueprint("api", __name__)
    _add_state_routes(api, site)
    _add_lists(api, site)
    _add_pictures(api, site)
    _add_action_routes(api, site)
    _add_session_routes(api, access)
    return api


def _add_state_routes(api: Blueprint, site: Site) -> None:
    @api.get("/api/status")
    def status() -> Response:
        return jsonify(site.status.status())

    @api.get("/api/stats")
    def stats() -> Response:
        return jsonify(site.status.stats())

    @api.get("/api/gpio/status")
    def gpio_status() -> Response:
        return jsonify(site.status.gpio_status())

    @api.get("/healthz")
    def healthz() -> tuple[Response, int]:
        health = site.status.health()
        return jsonify(status=health), 200 if health in ("ok", "degraded") else 503


def _add_lists(api: Blueprint, site: Site) -> None:
    @api.get("/api/images")
    def images() -> Response:
        which = image_filter(site.by_name, site.timezone)
        find, total = partial(site.catalog.images, which), site.catalog.count(which)
        return jsonify(listing("images", find, image_document, total))

    @api.get("/api/events")
    def events() -> Response:
        state = choice("state", EVENT_STATES)
        counts = site.catalog.totals().events
        total = counts[state] if state else sum(counts.values())
        find = partial(site.catalog.events, state)
        return jsonify(listing("events", find, event_document, total))


def _add_pictures(api: Blueprint, site: Site) -> None:
    @api.get("/api/images/<filename>")
    def image(filename: str) -> Response:
        try:
            row = site.catalog.image(filename)
        except KeyError:
            raise ApiError(404, "not_found", f"there is no image {filename!r}") from None
        path = site.catalog.path_of(row.filename)
        if choice("size", ("thumb", "full")) == "thumb":
            path = site.catalog.thumbnail(row.filename) or path
        try:
            response = send_file(
                path,
                mimetype="image/jpeg",
                conditional=True,
                as_attachment=request.args.get("download") == "1",
                download_name=row.filename,
            )
        except OSError:
            raise ApiError(404, "not_found", f"the file of {filename!r} has gone") from None
        response.headers["Cache-Control"] = "private, max-age=31536000, immutable"
        return response

    @api.get("/api/cameras/<camera_key>/latest.jpg")
    def latest(camera_key: str) -> Response:
        camera = site.enabled_camera(camera_key)
        small = choice("size", ("thumb", "full")) == "thumb"
        try:
            picture = site.actions.latest(camera.key)
        except CameraUnavailableError as error:
            raise ApiError(503, "camera_unavailable", str(error), hint=error.hint) from None
        response = Response(picture.thumbnail if small else picture.jpeg, mimetype="image/jpeg")
        response.headers["X-Frame-Age-Ms"] = str(picture.age_ms)
        return response


def _add_action_routes(api: Blueprint, site: Site) -> None:
    @api.post("/api/capture/<camera_key>")
    def capture(camera_key: str) -> tuple[Response, int]:
        image, latency_ms = site.capture(camera_key)
        return jsonify(image=image_document(image), latency_ms=round(latency_ms, 1)), 201

    @api.get("/api/cleanup/preview")
    def cleanup_preview() -> Response:
        report = site.actions.preview_cleanup()
        return jsonify(
            would_delete=report.deleted,
            would_free_bytes=report.freed_bytes,
            kept_pending=report.kept_pending,
            held_back=report.held_back,
        )

    @api.post("/api/cleanup/run")
    def cleanup_run() -> Response:
        return jsonify(vars(site.run_cleanup()))

    @api.post("/api/uploads/retry")
    def uploads_retry() -> tuple[Response, int]:
        filename = _body().get("filename")
        if filename is not None and not isinstance(filename, str):
            raise ApiError(400, "bad_request", "filename must be a text")
        return jsonify(retried=site.retry(filename)), 202

    @api.post("/api/uploads/resolve-unknown")
    def resolve_unknown() -> Response:
        return jsonify(changed=site.resolve_unknown(_body().get("action")))


def _add_session_routes(api: Blueprint, access: Access) -> None:
    @api.get("/api/session")
    def session() -> Response:
        return api_session(access)

    @api.post("/api/password")
    def change_password() -> Response:
        body = _body()
        current, new = body.get("current"), body.get("new")
        if not isinstance(current, str) or not isinstance(new, str):
            raise ApiError(400, "bad_request", "current and new must be texts")
        return with_session(jsonify(ok=True), access.change_password(current, new))


def _body() -> dict[str, Any]:
    if not request.get_data():
        return {}
    body = request.get_json(force=True, silent=True)
    if not isinstance(body, dict):
        raise ApiError(400, "bad_request", "the body must be a JSON object")
    return body
