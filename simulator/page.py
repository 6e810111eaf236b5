"""The pretend site's page: what arrived at the upload server, and buttons that break things."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from flask import Flask, Response, abort, redirect, render_template, request, send_file, url_for
from werkzeug.wrappers import Response as BaseResponse

from simulator.faults import Faults
from simulator.receiver import UploadReceiver

_SHOWN: Final = 24
_LOCAL: Final = ("127.0.0.1", "localhost")
_CSP: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


def create_page(faults: Faults, receiver: UploadReceiver) -> Flask:
    """Build the Flask application of the page."""
    app = Flask(__name__)

    app.before_request(_refuse_foreign_pages)
    app.after_request(_add_headers)

    @app.get("/")
    def index() -> str:
        places: dict[str, list[object]] = {}
        for fault in faults.by_name.values():
            places.setdefault(fault.place, []).append(fault)
        return render_template(
            "site.html",
            active=faults.active,
            receiver=receiver,
            places=places,
            uploads=receiver.newest(_SHOWN),
        )

    @app.post("/faults/<name>")
    def set_fault(name: str) -> BaseResponse:
        try:
            faults.switch(name, request.form.get("on") == "1")
        except KeyError:
            abort(404)
        return redirect(url_for("index"), 303)

    @app.get("/received/<filename>")
    def received(filename: str) -> Response:
        path = receiver.path_of(filename)
        if path is None or not path.is_file():
            abort(404)
        return send_file(path, mimetype="image/jpeg")

    return app


def _refuse_foreign_pages() -> None:
    """Let only this computer's own page press the buttons."""
    if urlsplit(f"//{request.host}").hostname not in _LOCAL:
        abort(403)
    origin = request.headers.get("Origin")
    if request.method == "POST" and origin != f"http://{request.host}":
        abort(403)


def _add_headers(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = _CSP
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    return response
