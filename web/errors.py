"""The answers to refused and failed requests: JSON for programs, a page for people."""

from __future__ import annotations

import logging
from typing import Any

from flask import Flask, Response, jsonify, render_template, request
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from store.errors import StorageError

_log = logging.getLogger(__name__)

_CODES = {404: "not_found", 405: "bad_request", 413: "bad_request", 500: "internal"}


class ApiError(Exception):
    """A request is refused: HTTP status, code, reason; `more` may hold `hint`, `retry_after_s`."""

    def __init__(self, status: int, code: str, error: str, **more: Any) -> None:
        super().__init__(error)
        self.status = status
        self.code = code
        self.more = more

    @property
    def sentence(self) -> str:
        """Return the reason as a sentence for a page, followed by the hint."""
        text = str(self)
        words = text[:1].upper() + text[1:]
        hint = self.more.get("hint")
        return f"{words.rstrip('.')}. {hint or ''}".strip()


def wants_json() -> bool:
    """Tell whether the client is a program."""
    if request.path.startswith("/api/"):
        return True
    accept = request.accept_mimetypes
    return bool(accept) and accept["application/json"] > accept["text/html"]


def add_errors(app: Flask) -> None:
    """Answer each kind of error as JSON or as a page, whichever the client wants."""

    app.register_error_handler(ApiError, _answer)

    @app.errorhandler(HTTPException)
    def tell_http(error: HTTPException) -> BaseResponse:
        if error.code is None or error.code < 400:
            return error.get_response()
        code = _CODES.get(error.code, "bad_request")
        words = error.description or error.name
        if error.code == 404:
            words = "there is no such page" if not wants_json() else "there is no such route"
        response = _answer(ApiError(error.code, code, words))
        allowed = getattr(error, "valid_methods", None)
        if allowed:
            response.headers["Allow"] = ", ".join(allowed)
        return response

    @app.errorhandler(StorageError)
    def tell_storage(error: StorageError) -> BaseResponse:
        _log.error("%s", error)
        return _answer(ApiError(503, "storage_error", str(error)))

    @app.errorhandler(Exception)
    def tell_defect(error: Exception) -> BaseResponse:
        _log.error("%s %s failed", request.method, request.path, exc_info=error)
        return _answer(ApiError(500, "internal", "a defect in this program; the log has its cause"))


def _answer(error: ApiError) -> BaseResponse:
    if wants_json():
        hint = {"hint": error.more["hint"]} if error.more.get("hint") else {}
        response: BaseResponse = jsonify(error=str(error), code=error.code, **hint)
        response.status_code = error.status
    else:
        page = render_template("error.html", status=error.status, sentence=error.sentence)
        response = Response(page, error.status)
    add_retry_after(response, error)
    return response


def add_retry_after(response: BaseResponse, error: ApiError) -> None:
    """Say when to try again, if the error does."""
    if "retry_after_s" in error.more:
        response.headers["Retry-After"] = str(error.more["retry_after_s"])
