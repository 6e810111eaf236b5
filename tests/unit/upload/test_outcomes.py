"""What each answer of a server means."""

from __future__ import annotations

import email.utils
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, ReadTimeoutError

from store.catalog import Catalog
from store.rows import Image
from tests.rigs.stores import save, storage_config
from upload.outcomes import (
    Deferred,
    Delivered,
    Misconfigured,
    Outcome,
    Rejected,
    classify,
    failure_of,
    idempotency_key,
)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    catalog = Catalog.open_owner(storage_config(tmp_path))
    image = save(catalog)
    catalog.close()
    return image


JSON = {"content-type": "application/json"}
HTML = {"content-type": "text/html; charset=utf-8"}

TABLE: list[tuple[int, dict[str, str], bytes, type[Outcome]]] = [
    *((status, JSON, b"{}", Delivered) for status in (200, 201, 202, 204, 299)),
    (200, {}, b"", Delivered),
    (200, HTML, b"<html>", Deferred),
    (200, {"content-type": "Text/HTML"}, b"<html>", Deferred),
    *((status, {}, b"", Deferred) for status in (408, 425, 429, 500, 502, 503, 504, 599)),
    *((status, {}, b"", Deferred) for status in (402, 406, 409, 410, 411, 418, 431, 451, 600)),
    *((status, {}, b"", Misconfigured) for status in (300, 301, 302, 303, 304, 307, 308, 399)),
    *((status, {}, b"", Misconfigured) for status in (401, 403, 404, 405)),
    (500, {}, b"MulterError: Unexpected field", Misconfigured),
    (503, {}, b"<pre>UNEXPECTED FIELD</pre>", Misconfigured),
    *((status, JSON, b'{"error": "no"}', Rejected) for status in (400, 413, 415, 422)),
    (400, {}, b"Unexpected field", Rejected),
]


@pytest.mark.parametrize(("status", "headers", "body", "meaning"), TABLE)
def test_answers(status: int, headers: dict[str, str], body: bytes, meaning: type[Outcome]) -> None:
    outcome = classify(status, headers, body)
    assert type(outcome) is meaning
    if isinstance(outcome, Deferred):
        assert outcome.cause == "server"
        assert outcome.captive_portal is (200 <= status < 300)
    if not isinstance(outcome, Delivered):
        assert 200 <= status < 300 or str(status) in outcome.reason


def test_a_busy_server_is_told_from_one_that_fails() -> None:
    answers = {s: classify(s, {}, b"") for s in (408, 429, 500, 502, 503, 504, 507)}
    busy = [s for s, o in answers.items() if isinstance(o, Deferred) and o.busy]
    assert busy == [429, 502, 503, 504]


def test_what_to_do_is_said() -> None:
    hints = {s: _misconfigured(s).hint for s in (302, 401, 403, 404, 405)}
    assert "S3_API_URL" in hints[302]
    assert "UPLOAD_AUTH_TOKEN" in hints[401]
    assert "UPLOAD_AUTH_TOKEN" in hints[403]
    assert "S3_API_URL" in hints[404]
    assert "S3_API_URL" in hints[405]
    field = classify(500, {}, b"Unexpected field")
    assert isinstance(field, Misconfigured)
    assert "UPLOAD_FIELD_NAME" in field.hint


def _misconfigured(status: int, location: str = "") -> Misconfigured:
    outcome = classify(status, {"location": location}, b"")
    assert isinstance(outcome, Misconfigured)
    return outcome


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://user:secret@there/x?key=secret", "https://there/x"),
        ("/login\r\n\x1b[31m", "/login"),
        ("http://[broken", "an address that makes no sense"),
    ],
)
def test_a_redirect_says_where_to_without_secrets(location: str, shown: str) -> None:
    reason = _misconfigured(302, location).reason
    assert shown in reason
    assert reason.isprintable()
    assert "secret" not in reason


def _http_date(seconds: float) -> str:
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("3600", 3600),
        ("3601", 3600),
        ("9" * 30, 3600),
        ("9" * 5000, 3600),
        (600, 600),
        (86400 * 365, 3600),
        (-600, 0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("nan", None),
        ("inf", None),
        ("Wed, 21 Oct 99999999999 07:28:00 GMT", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after(status: int, value: str | int, seconds: float | None) -> None:
    if isinstance(value, int):  # a date so many seconds from now
        value = _http_date(value)
    outcome = classify(status, {"retry-after": value}, b"")
    assert isinstance(outcome, Deferred)
    if seconds is None or outcome.retry_after_s is None:
        assert outcome.retry_after_s == seconds
    else:
        assert outcome.retry_after_s == pytest.approx(seconds, abs=30)
        assert 0 <= outcome.retry_after_s <= 3600


@pytest.mark.parametrize(
    ("body", "location"),
    [
        (b'{"Location": "http://there/x.jpg"}', "http://there/x.jpg"),
        (b'{"Location": "a\\u0000b\\u001b[2J\\r\\nSet-Cookie"}', "a b [2J  Set-Cookie"),
        (b'{"Location": "\\ud800x"}', "x"),
        (json.dumps({"Location": "x" * 99_999}).encode(), "x" * 1000),
        (b'{"Location": ""}', None),
        (b'{"Location": 5}', None),
        (b'{"Location": ["x"]}', None),
        (b'["Location"]', None),
        (b"null", None),
        (b"OK", None),
        (b"", None),
        (b"\xff\xfe\x00", None),
        (b"[" * 100_000, None),
        (b"1" * 10_000, None),
    ],
)
def test_a_strangers_location_is_harmless(body: bytes, location: str | None) -> None:
    assert classify(200, JSON, body) == Delivered(location)


def test_a_rejections_words_are_short_and_printable() -> None:
    outcome = classify(400, {}, b"\x1b[31mbad\r\n" + b"x" * 5000)
    assert isinstance(outcome, Rejected)
    assert outcome.reason.isprintable()
    assert len(outcome.reason) < 300


NO_CONNECTION = Deferred("cannot reach there: no answer", "connection")
NO_ANSWER = Deferred("there gave no answer within 5 s", "silent")
BROKEN = Deferred("there broke the connection off: reset", "silent")


@pytest.mark.parametrize(
    ("error", "timed_out", "outcome"),
    [
        (ConnectTimeoutError("late"), False, NO_CONNECTION),
        (ConnectTimeoutError("late"), True, NO_CONNECTION),
        (MaxRetryError(None, "/api", ConnectTimeoutError("late")), False, NO_CONNECTION),  # type: ignore[arg-type]
        (ReadTimeoutError(None, "/", "late"), False, NO_ANSWER),  # type: ignore[arg-type]
        (TimeoutError("late"), False, NO_ANSWER),
        (ConnectionResetError(104, "reset"), True, NO_ANSWER),
        (ConnectionResetError(104, "reset"), False, BROKEN),
        (ValueError("a: b: reset"), False, BROKEN),
    ],
)
def test_no_answer(error: Exception, timed_out: bool, outcome: Outcome) -> None:
    assert failure_of(error, "there", 5.0, timed_out=timed_out) == outcome


def test_the_key_is_of_site_name_and_content(image: Image) -> None:
    key = idempotency_key("gate-1", image)
    again = replace(image, id=99, attempts=7, state="unknown", event_id=None)
    assert idempotency_key("gate-1", again) == key
    others = {
        idempotency_key("gate-2", image),
        idempotency_key("gate-1", replace(image, filename="r1_2.jpg")),
        idempotency_key("gate-1", replace(image, sha256="0" * 64)),
    }
    assert key not in others
    assert len(others) == 3
    pinned = replace(image, filename="r1_1.jpg", sha256="0" * 64)
    assert idempotency_key("gate-1", pinned) == (
        "ef673874b86556d201e7050e10479e701d607090e3ece1dd32f318a3eaa4cf28"
    )
