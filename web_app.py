"""The embedded web interface: one Flask application from the routes in `web/`."""

from __future__ import annotations

import gzip
import hashlib
import ipaddress
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flask import Flask, request
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.wrappers import Response

from runtime.version import __version__
from web import access as access_routes
from web import api, pages, words
from web.access import Access
from web.context import Site
from web.errors import add_errors

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_MAX_BODY_BYTES: Final = 64_000
_MIN_GZIP_BYTES: Final = 500
_GZIPPED: Final = frozenset(
    {"text/html", "text/css", "text/javascript", "application/json", "image/svg+xml"}
)
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def create_app(site: Site, access: Access, *, trusted_proxies: Iterable[str] = ()) -> Flask:
    """Build the Flask application."""
    app = Flask(__name__)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config["MAX_CONTENT_LENGTH"] = _MAX_BODY_BYTES
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.before_request(access.guard)
    add_errors(app)
    app.register_blueprint(access_routes.blueprint(access))
    app.register_blueprint(api.blueprint(site, access))
    app.register_blueprint(pages.blueprint(site))
    app.after_request(_compress)
    app.after_request(_add_headers)
    _add_words(app, site, access)
    proxies = [ipaddress.ip_network(proxy, strict=False) for proxy in trusted_proxies]
    if proxies:
        app.wsgi_app = _TrustedProxies(app.wsgi_app, proxies)  # type: ignore[method-assign]
    return app


def _add_words(app: Flask, site: Site, access: Access) -> None:
    """Give templates words, times in the site's zone, names, and the token for forms."""
    zone = site.timezone
    filters: dict[str, Callable[..., str]] = {
        "ago": words.ago,
        "at": lambda moment: words.clock_time(moment, zone),
        "day": lambda moment: words.day(moment, zone),
        "size": words.size,
        "duration": words.duration,
        "counted": words.count,
        "flag": words.flag,
        "state": words.state,
        "level": words.level,
    }
    app.jinja_env.filters.update(filters)
    labels = {camera.name: camera.label for camera in site.cameras}
    versions = _versions(Path(app.static_folder or ""))

    @app.context_processor
    def add() -> dict[str, Any]:
        return {
            "version": __version__,
            "csrf_token": access.csrf_token,
            "auth_enabled": access.enabled,
            "labels": labels,
            "cameras": site.cameras,
            "asset": lambda path: f"/static/{path}?v={versions.get(path, '')}",
        }


def _versions(folder: Path) -> dict[str, str]:
    """Return a short hash of every static file, so that browsers may keep it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        for path in folder.rglob("*")
        if path.is_file()
    }


def _add_headers(response: Response) -> Response:
    response.headers.update(_HEADERS)
    if request.endpoint == "static" and response.status_code < 400:
        kept = "public, max-age=31536000, immutable" if request.args.get("v") else "no-cache"
        response.headers["Cache-Control"] = kept
    else:
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def _compress(response: Response) -> Response:
    """Send text compressed, since waitress does not."""
    if (
        response.status_code != 200
        or response.mimetype not in _GZIPPED
        or "Content-Encoding" in response.headers
        or not request.accept_encodings["gzip"]
    ):
        return response
    response.direct_passthrough = False
    body = response.get_data()
    if len(body) >= _MIN_GZIP_BYTES:
        response.set_data(gzip.compress(body, 6, mtime=0))
        response.headers["Content-Encoding"] = "gzip"
    response.vary.add("Accept-Encoding")
    return response


class _TrustedProxies:
    """Believe `X-Forwarded-*` only from the networks of trusted proxies."""

    def __init__(
        self,
        app: WSGIApplication,
        networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network],
    ) -> None:
        self._app = app
        self._behind_proxy = ProxyFix(app, x_for=1, x_proto=1, x_host=1)
        self._networks = networks

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        app = self._behind_proxy if self._is_trusted(environ) else self._app
        return app(environ, start_response)

    def _is_trusted(self, environ: WSGIEnvironment) -> bool:
        try:
            peer = ipaddress.ip_address(environ.get("REMOTE_ADDR", ""))
        except ValueError:
            return False
        return any(peer in network for network in self._networks)
