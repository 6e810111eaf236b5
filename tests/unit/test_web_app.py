"""Every route: shapes, codes, paging, files, headers."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.wrappers import Response

from cleanup_service import AlreadyRunningError
from store.catalog import Catalog
from store.errors import StorageError
from store.rows import ImageFilter
from tests.rigs.stores import JPEG, NOON, save, save_many, shot, storage_config
from tests.rigs.web import STATUS, FakeActions, FakeStatus, make_app


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.open_owner(storage_config(tmp_path))
    yield catalog
    catalog.close()


@pytest.fixture
def status() -> FakeStatus:
    return FakeStatus()


@pytest.fixture
def actions(catalog: Catalog) -> FakeActions:
    return FakeActions(catalog)


@pytest.fixture
def client(
    catalog: Catalog, status: FakeStatus, actions: FakeActions, tmp_path: Path
) -> FlaskClient:
    app = make_app(catalog, tmp_path, status=status, actions=actions)
    return app.test_client(use_cookies=False)


def get(client: FlaskClient, url: str, code: int = 200) -> Any:
    response = client.get(url)
    check_headers(response)
    assert response.status_code == code
    return response.get_json()


def post(client: FlaskClient, url: str, code: int, **how: Any) -> Any:
    response = client.post(url, **how)
    check_headers(response)
    assert response.status_code == code
    return response.get_json()


def check_headers(response: Response) -> None:
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Cache-Control"]


# State.


def test_documents_are_passed_on(client: FlaskClient, status: FakeStatus) -> None:
    assert get(client, "/api/status") == STATUS
    assert get(client, "/api/stats") == status.stats()
    assert get(client, "/api/gpio/status") == status.gpio_status()


@pytest.mark.parametrize(
    ("health", "code"), [("ok", 200), ("degraded", 200), ("starting", 503), ("failing", 503)]
)
def test_health(client: FlaskClient, status: FakeStatus, health: str, code: int) -> None:
    status.healthy = health
    assert get(client, "/healthz", code) == {"status": health}


def test_the_page_shows_photos_in_the_sites_time(client: FlaskClient, catalog: Catalog) -> None:
    image = save(catalog)
    response = client.get("/")
    check_headers(response)
    assert response.status_code == 200
    assert image.filename in response.text
    assert "13:00:00" in response.text
    with client.get("/static/app.css") as style:
        check_headers(style)
        assert style.status_code == 200


# Images and events.


def test_an_image_as_json(client: FlaskClient, catalog: Catalog) -> None:
    image = save(catalog, NOON.replace(microsecond=250_000))
    catalog.states.mark_waiting(image.id, "busy", NOON + timedelta(seconds=9), "server")
    body = get(client, "/api/images")
    assert {k: v for k, v in body.items() if k != "images"} == {
        "total": 1,
        "page": 1,
        "per_page": 50,
        "pages": 1,
        "next": None,
    }
    assert body["images"] == [
        {
            "filename": image.filename,
            "camera": "r1",
            "captured_at": "2026-12-01T12:00:00.250Z",
            "timestamp": int(NOON.timestamp()),
            "size": len(JPEG),
            "width": 1920,
            "height": 1080,
            "source": "gpio",
            "offset_ms": 12.5,
            "state": "pending",
            "url": f"/api/images/{image.filename}",
            "thumbnail_url": f"/api/images/{image.filename}?size=thumb",
            "sha256": image.sha256,
            "flags": [],
            "attempts": 1,
            "last_error": "busy",
            "next_attempt_at": "2026-12-01T12:00:09.000Z",
            "uploaded_at": None,
            "event_id": image.event_id,
        }
    ]


@pytest.mark.parametrize("what", ["images", "events"])
def test_cursor_pages_are_number_pages(client: FlaskClient, catalog: Catalog, what: str) -> None:
    save_many(catalog, 7)
    key = "filename" if what == "images" else "id"
    by_number: list[Any] = []
    for page in (1, 2, 3):
        body = get(client, f"/api/{what}?per_page=3&page={page}")
        assert (body["total"], body["pages"], body["page"]) == (7, 3, page)
        by_number += [each[key] for each in body[what]]
    assert get(client, f"/api/{what}?per_page=3&page=4")[what] == []
    by_cursor: list[Any] = []
    url = f"/api/{what}?per_page=3"
    while True:
        body = get(client, url)
        by_cursor += [each[key] for each in body[what]]
        if body["next"] is None:
            break
        save(catalog, NOON + timedelta(days=1, seconds=len(by_cursor)))  # shifts no cursor
        url = f"/api/{what}?per_page=3&before={body['next']}"
    assert by_cursor == by_number
    assert len(set(by_cursor)) == 7


def test_a_full_last_page_has_no_next(client: FlaskClient, catalog: Catalog) -> None:
    save_many(catalog, 4)
    first = get(client, "/api/images?per_page=2")
    assert first["next"] is not None
    assert get(client, f"/api/images?per_page=2&before={first['next']}")["next"] is None


def test_filters(client: FlaskClient, catalog: Catalog) -> None:
    save(catalog, datetime(2026, 11, 30, 23, 30, tzinfo=UTC))  # half past midnight in Berlin
    save(catalog, datetime(2026, 11, 30, 22, 30, tzinfo=UTC), camera="r2", state="uploaded")
    for query, number in (
        ("", 2),
        ("?camera=r1", 1),
        ("?camera=camera_2", 1),
        ("?camera=", 2),
        ("?state=uploaded", 1),
        ("?date=2026-12-01", 1),
        ("?date=2026-11-30&camera=r2", 1),
        ("?date=2026-11-30&camera=r1", 0),
        ("?date=2020-01-01", 0),
    ):
        body = get(client, f"/api/images{query}")
        assert (body["total"], len(body["images"])) == (number, number), query


@pytest.mark.parametrize(
    "query",
    [
        "page=0",
        "page=-1",
        "page=x",
        "page=1.5",
        "page=٣",
        "page=" + "9" * 30,
        "page=" + "0" * 19 + "1" + "9" * 30,
        "page=" + "9" * 9999,
        "per_page=0",
        "per_page=201",
        "before=-1",
        "before=x",
        "before=" + "0" * 20 + "9" * 30,
        "camera=r9",
        "camera=../r1",
        "state=sent",
        "state=pending'--",
        "date=yesterday",
        "date=2026-02-30",
        "date=9999-12-31",
    ],
)
def test_bad_queries_are_400(client: FlaskClient, query: str) -> None:
    body = get(client, f"/api/images?{query}", 400)
    assert body["code"] == "bad_request"
    assert body["error"]


@pytest.mark.parametrize("query", ["state=pending", "page=0", "before=x"])
def test_bad_event_queries_are_400(client: FlaskClient, query: str) -> None:
    assert get(client, f"/api/events?{query}", 400)["code"] == "bad_request"


def test_events_as_json(client: FlaskClient, catalog: Catalog) -> None:
    image = save(catalog)
    catalog.events.fail_unrecorded("r2", "manual", NOON + timedelta(seconds=1), "camera down")
    catalog.record_unrecorded()
    failed, saved = get(client, "/api/events")["events"]
    assert failed == {
        "id": saved["id"] + 1,
        "camera": "r2",
        "source": "manual",
        "edge_at": "2026-12-01T12:00:01.000Z",
        "flags": [],
        "state": "failed",
        "reason": "camera down",
        "images": [],
    }
    assert (saved["state"], saved["images"]) == ("saved", [image.filename])
    body = get(client, "/api/events?state=failed")
    assert (body["total"], len(body["events"])) == (1, 1)


# Files.


def fetch(client: FlaskClient, url: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    with client.get(url, headers=headers) as response:
        check_headers(response)
        return response.status_code, response.data, dict(response.headers)


def test_a_file_is_cacheable_and_the_same(client: FlaskClient, catalog: Catalog) -> None:
    url = f"/api/images/{save(catalog).filename}"
    code, content, headers = fetch(client, url)
    assert (code, content, headers["Content-Type"]) == (200, JPEG, "image/jpeg")
    assert "immutable" in headers["Cache-Control"]
    assert "attachment" not in headers.get("Content-Disposition", "")
    again = fetch(client, url, **{"If-None-Match": headers["ETag"]})
    assert (again[0], again[1]) == (304, b"")


def test_a_part_of_a_file(client: FlaskClient, catalog: Catalog) -> None:
    url = f"/api/images/{save(catalog).filename}"
    code, content, headers = fetch(client, url, Range="bytes=2-9")
    assert (code, content) == (206, JPEG[2:10])
    assert headers["Content-Range"] == f"bytes 2-9/{len(JPEG)}"
    assert fetch(client, url, Range="bytes=99999-")[0] == 416


def test_a_thumbnail_or_else_the_picture(
    client: FlaskClient, catalog: Catalog, tmp_path: Path
) -> None:
    image = save(catalog)
    url = f"/api/images/{image.filename}?size=thumb"
    assert fetch(client, url)[1] == b"thumbnail"
    (tmp_path / "images/.state/thumbnails" / image.filename).unlink()
    assert fetch(client, url)[1] == JPEG
    assert get(client, f"/api/images/{image.filename}?size=huge", 400)["code"] == "bad_request"


def test_a_download_has_its_name(client: FlaskClient, catalog: Catalog) -> None:
    image = save(catalog)
    _, content, headers = fetch(client, f"/api/images/{image.filename}?download=1")
    assert content == JPEG
    assert headers["Content-Disposition"] == f"attachment; filename={image.filename}"


def test_a_file_that_has_gone_is_404(client: FlaskClient, catalog: Catalog) -> None:
    image = save(catalog)
    catalog.rows.path_of(image.filename).unlink()
    body = get(client, f"/api/images/{image.filename}", 404)
    assert body["code"] == "not_found"


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../pending_uploads.json",
        "..%2f..%2fpending_uploads.json",
        "%2e%2e%2f.state%2fcatalog.sqlite3",
        ".state/catalog.sqlite3",
        ".state%2fcatalog.sqlite3",
        "%2fetc%2fpasswd",
        "..%5c..%5cx",
        "x%00.jpg",
        "%ff.jpg",
        "r1_1.jpg",
    ],
)
def test_no_other_file_is_served(client: FlaskClient, catalog: Catalog, name: str) -> None:
    save(catalog)
    assert get(client, f"/api/images/{name}", 404)["code"] == "not_found"


# Actions.


@pytest.mark.parametrize("key", ["camera_1", "r1"])
def test_a_capture(client: FlaskClient, catalog: Catalog, actions: FakeActions, key: str) -> None:
    actions.image = save(catalog)
    body = post(client, f"/api/capture/{key}", 201)
    assert body["image"]["filename"] == actions.image.filename
    assert body["latency_ms"] == 123.5
    assert actions.captured == ["camera_1"]


def test_captures_that_fail(client: FlaskClient, actions: FakeActions) -> None:
    assert post(client, "/api/capture/r1", 503) == {
        "error": "wrong password (401)",
        "code": "camera_unavailable",
        "hint": "Check CAMERA_USERNAME.",
    }
    assert post(client, "/api/capture/r9", 404)["code"] == "unknown_camera"
    assert post(client, "/api/capture/r3", 409)["code"] == "camera_disabled"
    assert actions.captured == ["camera_1"]


def test_cleanup(client: FlaskClient, actions: FakeActions) -> None:
    assert get(client, "/api/cleanup/preview") == {
        "would_delete": 3,
        "would_free_bytes": 4096,
        "kept_pending": 2,
        "held_back": None,
    }
    body = post(client, "/api/cleanup/run", 200)
    assert (body["deleted"], body["freed_bytes"], body["kept_pending"]) == (3, 4096, 2)
    actions.error = AlreadyRunningError("a cleanup is already running")
    assert post(client, "/api/cleanup/run", 409)["code"] == "already_running"


def test_retries(client: FlaskClient, catalog: Catalog) -> None:
    rejected = save(catalog, state="rejected")
    sent = save(catalog, NOON + timedelta(seconds=1), state="uploaded")
    tested = save(catalog, NOON + timedelta(seconds=2), source="test", state="skipped")
    url = "/api/uploads/retry"
    assert post(client, url, 202, json={"filename": rejected.filename}) == {"retried": 1}
    assert post(client, url, 202) == {"retried": 1}
    for image in (sent, tested):
        body = post(client, url, 409, json={"filename": image.filename})
        assert body["code"] == "not_retryable"
    assert post(client, url, 404, json={"filename": "r1_1.jpg"})["code"] == "not_found"
    bad: Any
    for bad in ({"filename": 5}, [], "x"):
        assert post(client, url, 400, json=bad)["code"] == "bad_request"
    for text in ("{", "null", "filename=x"):
        assert post(client, url, 400, data=text)["code"] == "bad_request"


@pytest.mark.parametrize(("action", "state"), [("send", "pending"), ("mark_sent", "uploaded")])
def test_unknown_ones_are_resolved(
    client: FlaskClient, catalog: Catalog, action: str, state: str
) -> None:
    image = save(catalog, state="unknown")
    url = "/api/uploads/resolve-unknown"
    for bad in ({}, {"action": "forget"}, {"action": ["send"]}):
        assert post(client, url, 400, json=bad)["code"] == "bad_request"
    assert post(client, url, 200, json={"action": action}) == {"changed": 1}
    assert catalog.rows.image(image.filename).state == state


# Guards and errors.

_POSTS = (
    "/api/capture/r1",
    "/api/cleanup/run",
    "/api/uploads/retry",
    "/api/uploads/resolve-unknown",
)


@pytest.mark.parametrize("url", _POSTS)
@pytest.mark.parametrize("header", ["Origin", "Referer", "Cookie"])
def test_pages_in_a_browser_change_nothing(
    client: FlaskClient, actions: FakeActions, catalog: Catalog, url: str, header: str
) -> None:
    image = save(catalog, state="unknown")
    body = post(client, url, 403, headers={header: "null"}, json={"action": "send"})
    assert body["code"] == "csrf"
    assert actions.captured == []
    assert catalog.rows.image(image.filename).state == "unknown"


def test_errors_are_json(client: FlaskClient, status: FakeStatus, actions: FakeActions) -> None:
    assert get(client, "/api/nowhere", 404)["code"] == "not_found"
    assert "no such page" in client.get("/nowhere").text
    assert get(client, "/api/capture/r1", 405)["code"] == "bad_request"
    assert post(client, "/api/status", 405)["code"] == "bad_request"
    assert post(client, "/api/uploads/retry", 413, data=b"x" * 70_000)["code"] == "bad_request"
    status.error = RuntimeError("secret detail")
    body = get(client, "/api/status", 500)
    assert body["code"]
    assert "secret" not in body["error"]
    actions.error = StorageError("the disk is full")
    assert post(client, "/api/cleanup/run", 503) == {
        "error": "the disk is full",
        "code": "storage_error",
    }


# Live pictures.


def test_the_newest_picture_in_two_sizes(client: FlaskClient, actions: FakeActions) -> None:
    full = client.get("/api/cameras/r1/latest.jpg")
    check_headers(full)
    assert (full.status_code, full.data, full.mimetype) == (200, b"full", "image/jpeg")
    assert full.headers["X-Frame-Age-Ms"] == "87"
    assert full.headers["Cache-Control"] == "no-store"
    assert client.get("/api/cameras/camera_1/latest.jpg?size=thumb").data == b"small"
    assert get(client, "/api/cameras/r9/latest.jpg", 404)["code"] == "unknown_camera"
    assert get(client, "/api/cameras/r3/latest.jpg", 409)["code"] == "camera_disabled"
    actions.live = False
    body = get(client, "/api/cameras/r1/latest.jpg", 503)
    assert (body["code"], body["hint"]) == ("camera_unavailable", "Check its power.")


# Pages.

PAGES = ("/", "/photos", "/uploads", "/system", "/cleanup", "/parts/state", "/parts/stats")


@pytest.mark.parametrize("url", PAGES)
def test_pages_hold_no_inline_code_and_no_foreign_address(client: FlaskClient, url: str) -> None:
    response = client.get(url)
    check_headers(response)
    assert response.status_code == 200
    assert " style=" not in response.text
    assert " onclick=" not in response.text
    for address in re.findall(r"""(?:src|href|action)="([^"]*)""", response.text):
        assert address.startswith(("/", "#", "data:")), address


def test_text_is_compressed_for_those_who_take_it(client: FlaskClient) -> None:
    plain = client.get("/")
    packed = client.get("/", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in packed.headers["Vary"]
    assert b"<h1" in gzip.decompress(packed.data)
    assert len(packed.data) < len(plain.data) / 2


def test_the_gallery_pages_by_cursor_and_keeps_its_filters(
    client: FlaskClient, catalog: Catalog
) -> None:
    save_many(catalog, 130)
    page, seen, url = 0, list[str](), "/photos?camera=r1"
    while url:
        text = client.get(url).text
        seen += re.findall(r'class="photo"[^>]*href="/photos/([^"]+)"', text)
        found = re.search(r'id="older" href="([^"]+)"', text)
        url = found[1].replace("&amp;", "&") if found else ""
        assert not url or "camera=r1" in url
        page += 1
    assert len(seen) == len(set(seen)) == catalog.rows.count(ImageFilter(camera="r1"))
    assert page == -(-len(seen) // 60)


def test_a_photo_has_a_page_of_its_own(client: FlaskClient, catalog: Catalog) -> None:
    image = save(catalog, state="rejected")
    text = client.get(f"/photos/{image.filename}").text
    assert "refused by the server" in text
    assert "13:00:00" in text
    assert "Upload it now" in text
    assert client.get("/photos/r1_1.jpg").status_code == 404
    assert client.get("/photos/..%2f..%2fetc%2fpasswd").status_code == 404


def test_the_pictures_of_a_burst_lead_to_each_other(client: FlaskClient, catalog: Catalog) -> None:
    first = save(catalog)
    assert first.event_id is not None
    before = replace(shot(), offset_ms=-401.0)
    saved = {"state": "pending", "beside": first}
    other = catalog.save(first.event_id, before, burst=1, **saved)  # type: ignore[arg-type]
    text = client.get(f"/photos/{first.filename}").text
    links = re.findall(r'href="/photos/([^"?]+)"( aria-current="page")?>([^<]+)</a>', text)
    assert links[-2:] == [
        (other.filename, "", "-401 ms"),
        (first.filename, ' aria-current="page"', "+12 ms"),
    ]
    alone = save(catalog, NOON + timedelta(hours=1))
    assert "Pictures of this moment" not in client.get(f"/photos/{alone.filename}").text


def test_hostile_text_is_shown_as_text(
    client: FlaskClient, catalog: Catalog, status: FakeStatus
) -> None:
    image = save(catalog)
    catalog.states.mark_rejected(image.id, "<script>alert(1)</script>")
    alert = {
        "code": "camera_down",
        "level": "error",
        "message": "<img src=x>",
        "hint": "<b>",
        "since": "2023-10-27T12:00:00.000Z",
    }
    status.document = {**status.document, "alerts": [alert]}
    for url in ("/", "/uploads", f"/photos/{image.filename}"):
        text = client.get(url).text
        assert "<script>alert" not in text
        assert "<img src=x>" not in text


def form_token(client: FlaskClient) -> str:
    found = re.search(r'name="csrf-token" content="([0-9a-f]+)"', client.get("/").text)
    assert found
    return found[1]


def test_forms_work_without_scripts(
    client: FlaskClient, catalog: Catalog, actions: FakeActions
) -> None:
    image = actions.image = save(catalog, state="rejected")
    token = {"csrf_token": form_token(client)}
    browser = {"Origin": "http://localhost", "Accept": "text/html"}
    for url, form, target in (
        ("/capture/r1", {}, f"/photos/{image.filename}?took_ms=123"),
        ("/uploads/retry", {"filename": image.filename}, "/uploads?said=retried&n=1"),
        ("/uploads/resolve-unknown", {"action": "send"}, "/uploads?said=resolved&n=0"),
        ("/cleanup", {}, "/system?said=cleaned&n=3"),
    ):
        refused = client.post(url, data=form, headers=browser)
        assert refused.status_code == 403
        assert "reload it" in refused.text
        done = client.post(url, data={**form, **token}, headers=browser)
        check_headers(done)
        assert (done.status_code, done.headers["Location"]) == (303, target)
    assert "1 photo is being sent now." in client.get("/uploads?said=retried&n=1").text
    actions.image = None
    failed = client.post("/capture/r1", data=token, headers=browser)
    assert failed.status_code == 503
    assert "Wrong password (401). Check CAMERA_USERNAME." in failed.text


@pytest.mark.parametrize("query", ["said=nonsense", "said=retried&n=<b>", "n=5"])
def test_messages_say_only_what_is_foreseen(client: FlaskClient, query: str) -> None:
    text = client.get(f"/uploads?{query}").text
    assert "<b>" not in text
    assert "nonsense" not in text


@pytest.mark.parametrize(
    ("online", "per_minute", "left", "shown"),
    [
        (True, 812.4, 110.6, "Catching up: 9876 of 100000, 812 a minute, about 111 min left"),
        (True, 60.0, 0.2, "Catching up: 9876 of 100000, 60 a minute, about 1 min left"),
        (True, 0.0, None, "Catching up: 9876 of 100000<"),
        (False, 812.4, 110.6, None),
    ],
)
def test_the_page_says_how_far_a_backlog_is_drained(
    client: FlaskClient,
    status: FakeStatus,
    online: bool,
    per_minute: float,
    left: float | None,
    shown: str | None,
) -> None:
    drain = {"total": 100_000, "done": 9876, "per_minute": per_minute, "minutes_left": left}
    upload = {**status.document["upload"], "online": online, "pending": 90_124, "drain": drain}
    status.document = {**status.document, "upload": upload}
    text = client.get("/").text
    assert (shown in text) if shown else ("Catching up" not in text)


def test_alerts_are_told_at_their_light(client: FlaskClient, status: FakeStatus) -> None:
    alert = {
        "code": "upload_offline",
        "level": "warning",
        "message": "offline: 3 images wait",
        "hint": "Check the internet access.",
        "since": "2023-10-27T12:00:00.000Z",
    }
    status.document = {
        **status.document,
        "alerts": [alert],
        "verdict": {"level": "warning", "message": "Needs attention: offline"},
        "upload": {**status.document["upload"], "online": False, "pending": 3},
    }
    text = client.get("/").text
    assert "Needs attention: offline: 3 images wait, since 27 Oct 2023 14:00:00." in text
    light = text[text.index('id="light-uploads"') : text.index('id="light-disk"')]
    assert "OFFLINE, 3 photos waiting" in light
    assert "Check the internet access." in light
    assert 'class="light warning"' in text
