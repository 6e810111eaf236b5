"""Where an upload connects to, and what it means when no answer comes."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import requests
from urllib3.exceptions import MaxRetryError, NewConnectionError

from store.catalog import Catalog
from store.rows import Image
from tests.rigs.stores import JPEG, save, storage_config, upload_config
from upload.http_target import HttpTarget, first_hop
from upload.outcomes import Deferred, Misconfigured, Outcome


@pytest.fixture
def image(tmp_path: Path) -> Image:
    catalog = Catalog.open_owner(storage_config(tmp_path))
    image = save(catalog)
    catalog.close()
    return image


@pytest.mark.parametrize(
    ("url", "proxies", "hop"),
    [
        ("https://gate.example/api", {}, ("gate.example", 443)),
        ("http://gate.example:8080/api", {"https_proxy": "http://p:3128"}, ("gate.example", 8080)),
        ("https://gate.example/api", {"https_proxy": "http://me:pw@p:3128"}, ("p", 3128)),
        ("https://gate.example/api", {"https_proxy": "p:3128"}, ("p", 3128)),
        ("http://gate.example/api", {"all_proxy": "socks5://p"}, ("p", 1080)),
        (
            "https://gate.example/api",
            {"https_proxy": "http://p:3128", "no_proxy": ".example"},
            ("gate.example", 443),
        ),
    ],
)
def test_the_first_hop_may_be_a_proxy(
    monkeypatch: pytest.MonkeyPatch, url: str, proxies: dict[str, str], hop: tuple[str, int]
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in proxies.items():
        monkeypatch.setenv(name, value)
    assert first_hop(upload_config(url)) == hop


def _send(image: Image, monkeypatch: pytest.MonkeyPatch, error: Exception) -> Outcome:
    target = HttpTarget(upload_config("https://there/api"), "gate-1")

    def send(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(target._session, "send", send)
    try:
        return target.send(image, JPEG, replay=False)
    finally:
        target.close()


def test_a_refused_certificate_is_a_wrong_set_up(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = ssl.SSLCertVerificationError(1, "certificate has expired")
    retries = MaxRetryError(None, "/api", refused)  # type: ignore[arg-type]
    outcome = _send(image, monkeypatch, requests.exceptions.SSLError(retries))
    assert isinstance(outcome, Misconfigured)
    assert "certificate has expired" in outcome.reason
    assert "clock" in outcome.hint


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (requests.exceptions.SSLError("handshake failure"), "silent"),
        (requests.exceptions.ReadTimeout("read timed out"), "silent"),
        (requests.exceptions.ConnectionError(ConnectionResetError(104, "reset")), "silent"),
        (requests.exceptions.ChunkedEncodingError("broken"), "silent"),
        (requests.exceptions.InvalidURL("no"), "silent"),
    ],
)
def test_a_broken_connection_is_for_later(
    image: Image, monkeypatch: pytest.MonkeyPatch, error: Exception, cause: str
) -> None:
    outcome = _send(image, monkeypatch, error)
    assert isinstance(outcome, Deferred)
    assert outcome.cause == cause
    assert "there" in outcome.reason


def test_a_timeout_of_requests_is_no_answer(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = _send(image, monkeypatch, requests.exceptions.ReadTimeout("read timed out"))
    assert outcome == Deferred("there gave no answer within 5 s", "silent")


def test_no_connection_is_for_later_and_says_why(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = NewConnectionError(
        None,  # type: ignore[arg-type]
        f"Failed: {socket.gaierror(-2, 'Name or service not known')}",
    )
    retries = MaxRetryError(None, "/api", unknown)  # type: ignore[arg-type]
    outcome = _send(image, monkeypatch, requests.exceptions.ConnectionError(retries))
    assert isinstance(outcome, Deferred)
    assert outcome.cause == "connection"
    assert outcome.reason.startswith("cannot reach there: ")
