"""Who may come in: the guard before every request, login, logout, change of password."""

from __future__ import annotations

import hmac
import logging
import secrets
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import urlsplit

from flask import Blueprint, Response, g, jsonify, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from web.errors import ApiError, add_retry_after, wants_json
from web.passwords import (
    DEFAULT_PASSWORD,
    MIN_PASSWORD_LENGTH,
    BusyError,
    ManagedByEnvironmentError,
    Passwords,
    WeakPasswordError,
    WrongPasswordError,
)
from web.sessions import Session, Sessions
from web.throttle import LoginThrottle

_log = logging.getLogger(__name__)

COOKIE: Final = "camera_session"
_VISITOR_COOKIE: Final = "camera_visitor"
_PUBLIC: Final = frozenset({"static", "access.login", "access.log_in", "api.healthz"})
_WITH_DEFAULT_PASSWORD: Final = frozenset(
    {"access.password", "access.change_password", "access.log_out", "api.session"}
    | {"api.change_password"}
)
AnyResponse = TypeVar("AnyResponse", bound=BaseResponse)
_SAFE: Final = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Access:
    """Decide whether a request may pass. `api_token` is empty when none is configured."""

    enabled: bool
    api_token: str
    passwords: Passwords
    sessions: Sessions
    throttle: LoginThrottle

    def csrf_token(self) -> str:
        """Return the token for the forms of this request's page."""
        return self.sessions.csrf_token(_session_id() if self.enabled else None)

    def guard(self) -> BaseResponse | None:
        """Return `None` to let a request pass, or a redirect.

        Raises:
            ApiError: it is refused.
        """
        g.session = None
        if request.endpoint in _PUBLIC:
            return None
        if self._has_token():
            return None
        if self.enabled:
            g.session = self.sessions.find(_session_id())
            if g.session is None:
                return _turn_away()
            if _must_change() and request.endpoint not in _WITH_DEFAULT_PASSWORD:
                return _ask_for_new_password()
        self._check_csrf()
        return None

    def _has_token(self) -> bool:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not scheme:
            return False
        known = self.api_token.encode()
        is_right = hmac.compare_digest(token.strip().encode(), known)
        if scheme.lower() == "bearer" and known and is_right:
            return True
        raise ApiError(401, "unauthorized", "the API token is wrong")

    def _check_csrf(self) -> None:
        """Refuse a changing request that may come from a page of another site."""
        if request.method in _SAFE:
            return
        by_browser = any(name in request.headers for name in ("Origin", "Referer", "Cookie"))
        if not self.enabled and not by_browser:
            return
        given = request.headers.get("X-CSRF-Token") or request.form.get("csrf_token")
        if not self.sessions.is_csrf_token(_session_id() if self.enabled else None, given):
            raise ApiError(
                403, "csrf", "this page is out of date: reload it and try again (no valid token)"
            )

    def change_password(self, current: str, new: str) -> str:
        """Set a new password and return the id of a new session for the caller.

        Raises:
            ApiError: it is refused or can't be stored.
        """
        client = request.remote_addr or ""
        self._slow_down(client)
        try:
            self.passwords.change(current, new)
        except ManagedByEnvironmentError:
            text = "the password is set in the environment (ADMIN_PASSWORD_HASH); change it there"
            raise ApiError(409, "managed_by_environment", text) from None
        except WrongPasswordError:
            raise ApiError(403, "wrong_password", "the current password is wrong") from None
        except WeakPasswordError as error:
            raise ApiError(400, "weak_password", str(error)) from None
        except BusyError:
            raise _too_busy() from None
        except OSError as error:
            _log.error("the password could not be stored: %s", error)
            text = f"the password could not be written to .env: {error.strerror or error}"
            raise ApiError(503, "storage_error", text) from None
        self.throttle.succeeded(client)
        _log.info("the web password was changed from %s", client)
        self.sessions.close(_session_id())
        return self.sessions.open(must_change_password=False)

    def log_in(self, password: str) -> str:
        """Return the id of a new session.

        Raises:
            ApiError: the password is wrong, or there were too many attempts.
        """
        client = request.remote_addr or ""
        self._slow_down(client)
        try:
            if not self.passwords.check(password):
                _log.warning("web login failed from %s", client)
                raise ApiError(401, "unauthorized", "the password is wrong")
        except BusyError:
            raise _too_busy() from None
        self.throttle.succeeded(client)
        self.sessions.close(_session_id())
        return self.sessions.open(must_change_password=password == DEFAULT_PASSWORD)

    def _slow_down(self, client: str) -> None:
        wait_s = self.throttle.wait_s(client)
        if wait_s > 0:
            seconds = int(wait_s) + 1
            text = f"too many attempts; try again in {seconds} s"
            raise ApiError(429, "throttled", text, retry_after_s=seconds)


def blueprint(access: Access) -> Blueprint:
    """Return login, logout and the password's page."""
    pages = Blueprint("access", __name__)
    _add_login(pages, access)
    _add_password(pages, access)
    return pages


def _add_login(pages: Blueprint, access: Access) -> None:
    @pages.get("/login")
    def login() -> BaseResponse:
        if not access.enabled or access.sessions.find(_session_id()):
            return redirect(url_for("pages.index"), 303)
        return _login_page(access, None, 200)

    @pages.post("/login")
    def log_in() -> BaseResponse:
        _refuse_foreign_form(access)
        try:
            session_id = access.log_in(request.form.get("password", ""))
        except ApiError as error:
            if wants_json():
                raise
            response = _login_page(access, error.sentence, error.status)
            add_retry_after(response, error)
            return response
        response = jsonify(ok=True) if wants_json() else redirect(_next_page(), 303)
        return with_session(response, session_id)

    @pages.post("/logout")
    def log_out() -> BaseResponse:
        access.sessions.close(_session_id())
        response = redirect(url_for("access.login"), 303)
        response.delete_cookie(COOKIE, httponly=True, samesite="Lax", secure=request.is_secure)
        return response


def _add_password(pages: Blueprint, access: Access) -> None:
    @pages.get("/password")
    def password() -> str:
        return _password_page(access, None)

    @pages.post("/password")
    def change_password() -> BaseResponse | tuple[str, int]:
        if request.form.get("new") != request.form.get("again"):
            return _password_page(access, "The two new passwords differ."), 400
        try:
            session_id = access.change_password(
                request.form.get("current", ""), request.form.get("new", "")
            )
        except ApiError as error:
            return _password_page(access, error.sentence), error.status
        return with_session(redirect(url_for("pages.index", said="password"), 303), session_id)


def api_session(access: Access) -> Response:
    """Return the document of `/api/session`."""
    by_token = "Authorization" in request.headers
    return jsonify(
        authenticated=g.session is not None or not access.enabled or by_token,
        auth_enabled=access.enabled,
        password_change_required=_must_change(),
        csrf_token=access.csrf_token(),
    )


def with_session(response: AnyResponse, session_id: str) -> AnyResponse:
    """Give the caller the cookie of its session."""
    response.set_cookie(COOKIE, session_id, httponly=True, samesite="Lax", secure=request.is_secure)
    return response


def _must_change() -> bool:
    """Tell whether this request's session was opened with the default password."""
    session: Session | None = g.session
    return session is not None and session.must_change_password


def _session_id() -> str | None:
    return request.cookies.get(COOKIE)


def _turn_away() -> BaseResponse:
    if wants_json():
        raise ApiError(401, "unauthorized", "log in first")
    wanted = request.full_path.rstrip("?") if request.method == "GET" else "/"
    return redirect(url_for("access.login", next=None if wanted == "/" else wanted), 303)


def _ask_for_new_password() -> BaseResponse:
    if wants_json():
        raise ApiError(403, "password_change_required", "change the default password first")
    return redirect(url_for("access.password"), 303)


def _login_page(access: Access, error: str | None, status: int) -> BaseResponse:
    visitor = request.cookies.get(_VISITOR_COOKIE) or secrets.token_urlsafe(16)
    page = render_template(
        "login.html",
        error=error,
        login_token=access.sessions.csrf_token(f"visitor {visitor}"),
    )
    response = Response(page, status)
    response.set_cookie(
        _VISITOR_COOKIE, visitor, httponly=True, samesite="Lax", secure=request.is_secure
    )
    return response


def _refuse_foreign_form(access: Access) -> None:
    """Refuse a login posted by a page of another site.

    Our own form comes with `Origin: null`, since we send no referrer: its token decides.
    """
    origin = request.headers.get("Origin")
    if origin is None or urlsplit(origin).netloc == request.host:
        return
    visitor = request.cookies.get(_VISITOR_COOKIE)
    token = request.form.get("csrf_token")
    if not visitor or not access.sessions.is_csrf_token(f"visitor {visitor}", token):
        raise ApiError(403, "csrf", "reload the page of the login and try again")


def _next_page() -> str:
    wanted = request.args.get("next", "/")
    is_own = wanted.startswith("/") and not wanted.startswith(("//", "/\\"))
    return wanted if is_own and "\n" not in wanted and "\r" not in wanted else "/"


def _password_page(access: Access, error: str | None) -> str:
    return render_template(
        "password.html",
        error=error,
        forced=_must_change(),
        managed=access.passwords.managed_by_environment,
        enabled=access.enabled,
        min_length=MIN_PASSWORD_LENGTH,
    )


def _too_busy() -> ApiError:
    text = "many logins are being checked; try again in 5 s"
    return ApiError(429, "throttled", text, retry_after_s=5)
