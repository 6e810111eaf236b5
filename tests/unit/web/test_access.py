"""Login, logout, the forced change of the default password, tokens, and who is believed."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from store.catalog import Catalog
from tests.rigs.stores import storage_config
from tests.rigs.web import make_app
from web import passwords
from web.passwords import DEFAULT_PASSWORD, Passwords, store_password

GOOD = "gate-7 opens!"
TOKEN = "canary-token-5"
PATIENCE_S = 5.0
JSON = {"Accept": "application/json"}
MakeClient = Callable[..., FlaskClient]


@pytest.fixture
def make_client(tmp_path: Path) -> Iterator[MakeClient]:
    catalog = Catalog.open_owner(storage_config(tmp_path))

    def make(password: str | None = GOOD, *, proxies: tuple[str, ...] = ()) -> FlaskClient:
        passwords = Passwords(tmp_path / ".env", {})
        if password is not None and passwords.is_default:
            passwords.change(DEFAULT_PASSWORD, password)
        app = make_app(
            catalog,
            tmp_path,
            auth_enabled=True,
            api_token=TOKEN,
            passwords=passwords,
            trusted_proxies=proxies,
        )
        return app.test_client()

    yield make
    catalog.close()


def log_in(client: FlaskClient, password: str = GOOD) -> TestResponse:
    return client.post("/login", data={"password": password})


def token(client: FlaskClient) -> str:
    return str(client.get("/api/session").get_json()["csrf_token"])


@pytest.mark.parametrize(
    "url", ["/", "/photos", "/uploads", "/system", "/cleanup", "/password", "/photos/r1_1.jpg"]
)
def test_pages_ask_for_a_login(make_client: MakeClient, url: str) -> None:
    response = make_client().get(url)
    assert response.status_code == 303
    assert response.headers["Location"].startswith("/login")


@pytest.mark.parametrize(
    "url",
    [
        "/api/status",
        "/api/stats",
        "/api/images",
        "/api/images/x.jpg",
        "/api/events",
        "/api/session",
        "/api/gpio/status",
        "/api/cleanup/preview",
        "/api/nowhere",
        "/api/cameras/r1/latest.jpg",
    ],
)
def test_the_api_asks_for_a_login(make_client: MakeClient, url: str) -> None:
    response = make_client().get(url)
    assert response.status_code == 401
    assert response.get_json()["code"] == "unauthorized"


@pytest.mark.parametrize("url", ["/login", "/healthz", "/static/app.css"])
def test_what_is_open_to_all(make_client: MakeClient, url: str) -> None:
    response = make_client().get(url)
    assert response.status_code == 200
    assert "gate-1" not in response.text, "no details without a login"
    response.close()


def test_a_login_and_a_logout(make_client: MakeClient) -> None:
    client = make_client()
    wrong = log_in(client, "nonsense")
    assert (wrong.status_code, "The password is wrong." in wrong.text) == (401, True)
    right = log_in(client)
    assert (right.status_code, right.headers["Location"]) == (303, "/")
    cookie = right.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Secure" not in cookie
    assert client.get("/").status_code == 200
    old = client.get_cookie("camera_session")
    assert old is not None
    response = client.post("/logout", data={"csrf_token": token(client)})
    assert (response.status_code, response.headers["Location"]) == (303, "/login")
    client.set_cookie("camera_session", old.value)
    assert client.get("/api/status").status_code == 401, "a stolen cookie is worth nothing now"


def test_a_login_by_a_program(make_client: MakeClient) -> None:
    client = make_client()
    wrong = client.post("/login", data={"password": "x"}, headers=JSON)
    assert (wrong.status_code, wrong.get_json()["code"]) == (401, "unauthorized")
    right = client.post("/login", data={"password": GOOD}, headers=JSON)
    assert (right.status_code, right.get_json()) == (200, {"ok": True})
    assert client.get("/api/status").status_code == 200


def test_each_login_gets_a_new_id_and_ends_the_old_one(make_client: MakeClient) -> None:
    client = make_client()
    log_in(client)
    first = client.get_cookie("camera_session")
    log_in(client)
    second = client.get_cookie("camera_session")
    assert first is not None
    assert second is not None
    assert first.value != second.value
    client.set_cookie("camera_session", first.value)
    assert client.get("/api/status").status_code == 401


def test_after_the_login_the_wanted_page_comes(make_client: MakeClient) -> None:
    client = make_client()
    asked = client.get("/photos?camera=r1")
    assert asked.headers["Location"] == "/login?next=/photos?camera%3Dr1"
    done = client.post(asked.headers["Location"], data={"password": GOOD})
    assert done.headers["Location"] == "/photos?camera=r1"


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example", "/\\evil.example"])
def test_no_login_leads_elsewhere(make_client: MakeClient, wanted: str) -> None:
    client = make_client()
    response = client.post("/login", query_string={"next": wanted}, data={"password": GOOD})
    assert response.headers["Location"] == "/"


def test_a_page_of_another_site_logs_nobody_in(make_client: MakeClient) -> None:
    response = make_client().post(
        "/login", data={"password": GOOD}, headers={"Origin": "http://evil.example"}
    )
    assert response.status_code == 403


def test_the_login_page_vouches_for_a_form_without_an_origin(make_client: MakeClient) -> None:
    """Browsers send `Origin: null` from a page that sends no referrer."""
    client = make_client()
    found = re.search(r'name="csrf_token" value="([0-9a-f]+)"', client.get("/login").text)
    assert found
    form = {"password": GOOD, "csrf_token": found[1]}
    foreign = client.application.test_client()
    null = {"Origin": "null"}
    assert foreign.post("/login", data=form, headers=null).status_code == 403
    assert client.post("/login", data={"password": GOOD}, headers=null).status_code == 403
    assert client.post("/login", data=form, headers=null).status_code == 303


def test_guesses_are_throttled(make_client: MakeClient) -> None:
    client = make_client()
    codes = [log_in(client, f"guess {n}").status_code for n in range(6)]
    assert codes == [401] * 5 + [429]
    response = client.post("/login", data={"password": GOOD}, headers=JSON)
    assert response.status_code == 429
    assert response.get_json()["code"] == "throttled"
    assert 1 <= int(response.headers["Retry-After"]) <= 11


@pytest.fixture
def hashing_held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[FlaskClient], None]]:
    """Return what lets another client's login hash for as long as the test lasts."""
    begun, enough = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def hash_long(hashed: str, password: str) -> bool:
        begun.set()
        return enough.wait(PATIENCE_S)

    def hold(client: FlaskClient) -> None:
        monkeypatch.setattr(passwords, "check_password_hash", hash_long)
        monkeypatch.setattr(passwords, "_HASHING_PATIENCE_S", 0.0)
        threads.append(threading.Thread(target=log_in, args=(client,)))
        threads[0].start()
        assert begun.wait(PATIENCE_S)

    yield hold
    enough.set()
    for thread in threads:
        thread.join()


def test_while_others_are_checked_a_login_is_to_try_again(
    make_client: MakeClient, hashing_held: Callable[[FlaskClient], None]
) -> None:
    client = make_client()
    hashing_held(client.application.test_client())
    page = log_in(client)
    assert (page.status_code, page.headers["Retry-After"]) == (429, "5")
    assert "Many logins are being checked; try again in 5 s." in page.text
    body = client.post("/login", data={"password": GOOD}, headers=JSON)
    assert (body.status_code, body.headers["Retry-After"]) == (429, "5")
    assert body.get_json()["code"] == "throttled"


def test_while_others_are_checked_a_change_is_to_try_again(
    make_client: MakeClient, hashing_held: Callable[[FlaskClient], None]
) -> None:
    client = make_client()
    log_in(client)
    headers = {"X-CSRF-Token": token(client)}
    hashing_held(client.application.test_client())
    body = {"current": GOOD, "new": "another one 1"}
    response = client.post("/api/password", json=body, headers=headers)
    assert (response.status_code, response.headers["Retry-After"]) == (429, "5")
    assert response.get_json()["code"] == "throttled"


# The default password.


def test_the_default_password_can_only_change_itself(make_client: MakeClient) -> None:
    client = make_client(None)
    assert log_in(client, DEFAULT_PASSWORD).status_code == 303
    assert client.get("/").headers["Location"] == "/password"
    assert "Choose a password" in client.get("/password").text
    for url in ("/api/status", "/api/images"):
        response = client.get(url)
        assert response.status_code == 403
        assert response.get_json()["code"] == "password_change_required"
    headers = {"X-CSRF-Token": token(client)}
    assert client.post("/api/capture/r1", headers=headers).status_code == 403
    form = {"current": DEFAULT_PASSWORD, "new": GOOD, "again": GOOD, "csrf_token": token(client)}
    done = client.post("/password", data=form)
    assert (done.status_code, done.headers["Location"]) == (303, "/?said=password")
    assert client.get("/").status_code == 200
    assert client.get("/api/session").get_json()["password_change_required"] is False
    other = make_client()
    assert log_in(other, DEFAULT_PASSWORD).status_code == 401


def test_the_default_password_set_by_the_script_must_be_changed_too(
    make_client: MakeClient, tmp_path: Path
) -> None:
    client = make_client(None)
    store_password(tmp_path / ".env", DEFAULT_PASSWORD)
    log_in(client, DEFAULT_PASSWORD)
    assert client.get("/").headers["Location"] == "/password"


@pytest.mark.parametrize(
    ("current", "new", "again", "words"),
    [
        ("nonsense", "another one 1", "another one 1", "current password is wrong"),
        (GOOD, "short", "short", "at least 8 characters"),
        (GOOD, "another one 1", "another one 2", "two new passwords differ"),
        (GOOD, GOOD, GOOD, "must differ"),
    ],
)
def test_a_bad_change_says_why(
    make_client: MakeClient, current: str, new: str, again: str, words: str
) -> None:
    client = make_client()
    log_in(client)
    form = {"current": current, "new": new, "again": again, "csrf_token": token(client)}
    response = client.post("/password", data=form)
    assert response.status_code in (400, 403)
    assert words in response.text


def test_a_change_ends_all_other_sessions(make_client: MakeClient) -> None:
    mine = make_client()
    other = mine.application.test_client()
    log_in(mine)
    log_in(other)
    body = {"current": GOOD, "new": "another one 1"}
    response = mine.post("/api/password", json=body, headers={"X-CSRF-Token": token(mine)})
    assert (response.status_code, response.get_json()) == (200, {"ok": True})
    assert mine.get("/api/status").status_code == 200
    assert other.get("/api/status").status_code == 401


def test_codes_of_a_change_by_the_api(make_client: MakeClient) -> None:
    client = make_client()
    log_in(client)
    headers = {"X-CSRF-Token": token(client)}
    for body, status, code in (
        ({"current": GOOD, "new": "short"}, 400, "weak_password"),
        ({"current": "x", "new": "another one 1"}, 403, "wrong_password"),
        ({"current": GOOD}, 400, "bad_request"),
        ({"current": 5, "new": "another one 1"}, 400, "bad_request"),
    ):
        response = client.post("/api/password", json=body, headers=headers)
        assert (response.status_code, response.get_json()["code"]) == (status, code)


def test_a_password_from_the_environment_is_not_changed_here(
    make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_client()
    line = (tmp_path / ".env").read_text().split("ADMIN_PASSWORD_HASH=")[-1].splitlines()[0]
    catalog = Catalog.open_owner(storage_config(tmp_path / "other"))
    passwords = Passwords(tmp_path / "none", {"ADMIN_PASSWORD_HASH": line.strip("'")})
    app = make_app(catalog, tmp_path / "state", auth_enabled=True, passwords=passwords)
    client = app.test_client()
    log_in(client)
    body = {"current": GOOD, "new": "another one 1"}
    response = client.post("/api/password", json=body, headers={"X-CSRF-Token": token(client)})
    assert (response.status_code, response.get_json()["code"]) == (409, "managed_by_environment")
    assert "ADMIN_PASSWORD_HASH" in client.get("/password").text
    catalog.close()


# Tokens.


def test_what_changes_something_needs_the_sessions_token(make_client: MakeClient) -> None:
    client = make_client()
    log_in(client)
    other = client.application.test_client()
    log_in(other)
    for headers in ({}, {"X-CSRF-Token": "nonsense"}, {"X-CSRF-Token": token(other)}):
        response = client.post("/api/uploads/retry", headers=headers)
        assert (response.status_code, response.get_json()["code"]) == (403, "csrf")
    page = client.get("/").text
    found = re.search(r'name="csrf-token" content="([0-9a-f]+)"', page)
    assert found
    response = client.post("/api/uploads/retry", headers={"X-CSRF-Token": found[1]})
    assert response.status_code == 202


def test_the_api_token_opens_everything_without_a_session(make_client: MakeClient) -> None:
    client = make_client(None)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert client.get("/api/status", headers=headers).status_code == 200
    assert client.post("/api/uploads/retry", headers=headers).status_code == 202


@pytest.mark.parametrize(
    "header", ["Bearer nonsense", "Bearer", "Bearer ", "Basic YTpi", f"bearer x{TOKEN}", "Bearer é"]
)
def test_a_wrong_token_opens_nothing(make_client: MakeClient, header: str) -> None:
    client = make_client()
    log_in(client)
    response = client.get("/api/status", headers={"Authorization": header})
    assert (response.status_code, response.get_json()["code"]) == (401, "unauthorized")


def test_without_a_configured_token_an_empty_one_opens_nothing(tmp_path: Path) -> None:
    catalog = Catalog.open_owner(storage_config(tmp_path))
    client = make_app(catalog, tmp_path, auth_enabled=True).test_client()
    assert client.get("/api/status", headers={"Authorization": "Bearer "}).status_code == 401
    catalog.close()


# Without authentication, and behind a proxy.


def test_without_authentication_browsers_need_the_token_and_curl_does_not(tmp_path: Path) -> None:
    catalog = Catalog.open_owner(storage_config(tmp_path))
    client = make_app(catalog, tmp_path).test_client()
    session = client.get("/api/session").get_json()
    assert (session["authenticated"], session["auth_enabled"]) == (True, False)
    assert client.get("/login").headers["Location"] == "/"
    assert client.post("/api/uploads/retry").status_code == 202
    browser = {"Origin": "http://evil.example"}
    assert client.post("/api/uploads/retry", headers=browser).status_code == 403
    browser["X-CSRF-Token"] = session["csrf_token"]
    assert client.post("/api/uploads/retry", headers=browser).status_code == 202
    catalog.close()


@pytest.mark.parametrize(("peer", "believed"), [("10.1.2.3", True), ("192.168.1.9", False)])
def test_forwarded_headers_are_believed_from_named_proxies_only(
    make_client: MakeClient, peer: str, believed: bool
) -> None:
    client = make_client(proxies=("10.0.0.0/8",))
    response = client.post(
        "/login",
        data={"password": GOOD},
        headers={"X-Forwarded-Proto": "https", "X-Forwarded-For": "1.2.3.4"},
        environ_base={"REMOTE_ADDR": peer},
    )
    assert ("Secure" in response.headers["Set-Cookie"]) is believed


def test_no_secret_is_shown(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client()
    log_in(client)
    hashed = (tmp_path / ".env").read_text().split("ADMIN_PASSWORD_HASH=")[-1].splitlines()[0]
    for url in ("/", "/system", "/password", "/api/status", "/api/stats", "/api/session"):
        text = client.get(url).text
        assert TOKEN not in text
        assert hashed not in text
        assert GOOD not in text
