"""Diagnoses of tiny scripted servers on loopback."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from rtsp.dialogue import REPLY_MAX_BYTES
from rtsp.errors import Diagnosis
from tests.rigs.rtsp import diagnose
from tests.rigs.scripted_camera import WAIT_S, Peer, Script, Serve, Server, certified, serving

PASSWORD = "pä@s:s/CANARY"
USERINFO = "admin:p%C3%A4%40s%3As%2FCANARY"
SDP = "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
DIGEST = 'Digest realm="cam, 1", nonce="abc"'


@pytest.fixture
def serve() -> Iterator[Serve]:
    with serving() as start:
        yield start


def ask(server: Server, timeout_s: float = WAIT_S, scheme: str = "rtsp") -> Diagnosis:
    found = diagnose(f"{scheme}://{USERINFO}@127.0.0.1:{server.port}/live", timeout_s)
    shown = found.reason + found.hint
    assert "CANARY" not in shown
    assert shown.isascii()
    assert shown.isprintable()
    assert len(found.reason) <= 120
    assert bool(found.hint) == (found.code != "ok")
    return found


def expect(request: str, uri: str, algorithm: str, nonce: str) -> bool:
    """Check a Digest answer the way a camera would."""
    given = dict(re.findall(r'(\w+)="([^"]*)"', request))

    def digest(*parts: str) -> str:
        return hashlib.new(algorithm, ":".join(parts).encode()).hexdigest()

    count = ["00000001", given["cnonce"], "auth"] if "qop=auth" in request else []
    a1, a2 = digest("admin", "cam, 1", PASSWORD), digest("DESCRIBE", uri)
    return (given["uri"], given["response"]) == (uri, digest(a1, nonce, *count, a2))


@pytest.mark.parametrize(
    ("challenges", "algorithm"),
    [
        ([DIGEST], "md5"),
        (['Basic realm="cam"', DIGEST + ', qop="auth,auth-int", stale=FALSE'], "md5"),
        ([DIGEST + ', algorithm=SHA-256, qop="auth", Basic realm="cam"'], "sha256"),
    ],
)
def test_right_password_by_digest(serve: Serve, challenges: list[str], algorithm: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.reply("401 Unauthorized", *[f"WWW-Authenticate: {c}" for c in challenges], body="no")
        uri = f"rtsp://127.0.0.1:{server.port}/live"
        right = expect(peer.request(), uri, algorithm, "abc")
        if right:
            peer.reply("200 OK", "Content-Type: application/sdp", body=SDP)
        else:
            peer.reply("401 Unauthorized", *[f"WWW-Authenticate: {c}" for c in challenges])

    server = serve(script)
    assert ask(server).code == "ok"
    first, second = server.requests
    assert first.startswith(f"DESCRIBE rtsp://127.0.0.1:{server.port}/live RTSP/1.0\r\nCSeq: 1\r\n")
    assert "\r\nAccept: application/sdp\r\n" in first
    assert "\r\nUser-Agent: " in first
    assert "Authorization" not in first
    assert "\r\nCSeq: 2\r\n" in second


def test_right_password_by_basic(serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.reply("401 Unauthorized", 'WWW-Authenticate: Basic realm="cam"')
        wanted = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
        right = f"Authorization: Basic {wanted}\r\n" in peer.request()
        peer.reply("200 OK" if right else "401 Unauthorized", body=SDP)

    assert ask(serve(script)).code == "ok"


@pytest.mark.parametrize(
    ("after", "code", "reason"),
    [
        ("", "wrong_password", "wrong password (401)"),
        (", stale=TRUE", "server_error", "login expires before it can be used (401, stale)"),
    ],
)
def test_password_is_tried_only_once(serve: Serve, after: str, code: str, reason: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.reply("401 Unauthorized", f"WWW-Authenticate: {DIGEST}")
        while peer.request():
            peer.reply("401 Unauthorized", f"WWW-Authenticate: {DIGEST}{after}")

    server = serve(script)
    found = ask(server)
    assert (found.code, found.reason) == (code, reason)
    assert len(server.requests) == 2
    assert server.connections == 1


def test_password_required_but_none_given(serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.reply("401 Unauthorized", f"WWW-Authenticate: {DIGEST}")

    server = serve(script)
    found = diagnose(f"rtsp://127.0.0.1:{server.port}/live", WAIT_S)
    assert (found.code, found.reason) == ("wrong_password", "password required (401)")
    assert len(server.requests) == 1


def test_a_reply_that_says_to_wait_is_waited_for(serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.reply("100 Continue")
        peer.reply("200 OK", body=SDP)

    assert ask(serve(script)).code == "ok"


def test_a_question_of_the_camera_s_is_answered_at_once(serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"OPTIONS * RTSP/1.0\r\nCSeq: 77\r\n\r\n")
        if peer.request().startswith("RTSP/1.0 200 OK\r\nCSeq: 77\r\n"):
            peer.reply("200 OK", body=SDP)

    assert ask(serve(script)).code == "ok"


@pytest.mark.parametrize(("surplus", "code"), [(2, "ok"), (16, "ok"), (17, "timeout")])
def test_a_body_a_little_shorter_than_announced_is_taken(
    serve: Serve, surplus: int, code: str
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        head = f"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: {len(SDP) + surplus}\r\n\r\n"
        peer.send((head + SDP).encode())
        peer.request()

    assert ask(serve(script), 2.0).code == code


def test_a_redirect_is_followed_with_the_login(serve: Serve) -> None:
    def login(peer: Peer) -> None:
        peer.request()
        peer.reply("401 Unauthorized", f"WWW-Authenticate: {DIGEST}")
        uri = f"rtsp://127.0.0.1:{other.port}/moved"
        right = expect(peer.request(), uri, "md5", "abc")
        peer.reply("200 OK" if right else "403 Forbidden", body=SDP)

    def redirect(peer: Peer) -> None:
        peer.request()
        peer.reply("302 Moved", f"Location: rtsp://127.0.0.1:{other.port}/moved")

    other = serve(login)
    assert ask(serve(redirect)).code == "ok"


def test_a_redirect_to_another_host_is_not_given_the_login(serve: Serve) -> None:
    def login(peer: Peer) -> None:
        peer.request()
        peer.reply("401 Unauthorized", 'WWW-Authenticate: Basic realm="cam"')
        peer.request()

    def redirect(peer: Peer) -> None:
        peer.request()
        peer.reply("302 Moved", f"Location: rtsp://u:p@localhost:{other.port}/moved")

    other = serve(login)
    found = ask(serve(redirect))
    assert (found.code, found.reason) == ("wrong_password", "password required (401)")
    assert "Authorization" not in "".join(other.requests)


def test_a_redirect_in_a_circle_ends(serve: Serve) -> None:
    def redirect(peer: Peer) -> None:
        peer.request()
        peer.reply("302 Moved", f"Location: rtsp://127.0.0.1:{server.port}/live")

    server = serve(redirect)
    found = ask(server)
    assert (found.code, found.reason) == (
        "wrong_path",
        "redirects to another address (302 Moved)",
    )
    assert server.connections == 4


def test_a_camera_that_wants_to_hear_options_first(serve: Serve) -> None:
    def script(peer: Peer) -> None:
        if peer.request().startswith("OPTIONS "):
            peer.reply("200 OK", "Public: DESCRIBE, SETUP, PLAY")
            peer.request()
            peer.reply("200 OK", body=SDP)

    server = serve(script)
    assert ask(server).code == "ok"
    assert server.connections == 2


def test_a_camera_that_hangs_up_behind_its_401(serve: Serve) -> None:
    """It takes the login of its next connection; the password is still given once."""

    def script(peer: Peer) -> None:
        request = peer.request()
        if "Authorization" in request:
            right = expect(request, f"rtsp://127.0.0.1:{server.port}/live", "md5", "abc")
            peer.reply("200 OK" if right else "401 Unauthorized", body=SDP)
        else:
            peer.reply("401 Unauthorized", f"WWW-Authenticate: {DIGEST}", "Connection: Close")

    server = serve(script)
    assert ask(server).code == "ok"
    assert len(server.requests) == 2


def test_a_camera_that_hangs_up_behind_its_401_is_given_the_password_once(serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.reply("401 Unauthorized", f"WWW-Authenticate: {DIGEST}", "Connection: close")

    server = serve(script)
    found = ask(server)
    assert (found.code, found.reason) == ("wrong_password", "wrong password (401)")
    assert sum("Authorization" in request for request in server.requests) == 1


def hang_up_at_password(peer: Peer) -> None:
    peer.request()
    peer.reply("401 Unauthorized", f"WWW-Authenticate: {DIGEST}")
    peer.request()


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        (lambda p: p.reply("404 Not Found"), "wrong_path", "no such stream path (404)"),
        (lambda p: p.reply("302 Moved", "Location: http://x/"), "wrong_path", "redirects"),
        (lambda p: p.reply("302 Moved"), "wrong_path", "redirects"),
        (lambda p: p.reply("503 Busy"), "server_error", "(503 Busy)"),
        (lambda p: p.reply("403 Forbidden"), "wrong_password", "access denied (403)"),
        (lambda p: p.reply("401 Unauthorized"), "server_error", "unknown way"),
        (lambda p: p.reply("200 OK"), "no_video", "no video"),
        (lambda p: p.reply("200 OK", body=SDP.replace("H264", "V\x1bP9")),
         "unsupported_codec", "V?P9"),
        (lambda p: p.send(b"RTSP/1.0 404 Not Found"), "wrong_path", "404"),
        (lambda p: p.reply("200 OK", f"Content-Length: {'9' * 5000}"), "no_video", "no video"),
        (lambda p: p.send(b"RTSP/1.0 2000 OK\r\n\r\n"), "not_rtsp", "does not speak RTSP"),
        (lambda p: p.send(b"SSH-2.0-dropbear\r\n"), "not_rtsp", '"SSH-2.0-dropbear"'),
        (lambda p: p.send(bytes(range(256)) * 9), "not_rtsp", "does not speak RTSP"),
        (lambda p: p.send(b"\x15\x03\x03\x00\x02\x02\x46"), "not_rtsp", "speaks TLS"),
        (lambda p: p.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "not_rtsp", "web server"),
        (lambda p: None, "not_rtsp", "closes the connection at once"),
    ],
)  # fmt: skip
def test_other_replies(serve: Serve, script: Script, code: str, words: str) -> None:
    def after_request(peer: Peer) -> None:
        peer.request()
        script(peer)

    found = ask(serve(after_request))
    assert found.code == code
    assert words in found.reason


def test_close_before_the_request_is_read(serve: Serve) -> None:
    assert ask(serve(lambda peer: None)).code == "not_rtsp"


def test_hanging_up_at_the_password_is_not_called_a_wrong_one(serve: Serve) -> None:
    server = serve(hang_up_at_password)
    found = ask(server)
    assert found.code == "server_error"
    assert "hangs up" in found.reason
    assert server.connections == 1


def test_echoed_password_is_hidden(serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.reply("400 secret: CANARY")

    server = serve(script)
    found = diagnose(f"rtsp://u:CANARY@127.0.0.1:{server.port}/", WAIT_S)
    assert found.code == "wrong_path"
    assert "CANARY" not in found.reason + found.hint


def test_real_web_server() -> None:
    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Quiet) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        found = diagnose(f"rtsp://127.0.0.1:{web.server_port}/", WAIT_S)
        web.shutdown()
        thread.join(WAIT_S)
    assert found.code == "not_rtsp"
    assert "web server" in found.reason


def silence(peer: Peer) -> None:
    peer.done.wait(WAIT_S)


def trickle(peer: Peer) -> None:
    for byte in b"RTSP/1.0 200 OK\r\nX: " + b"x" * 1000:
        peer.send(bytes([byte]))
        if peer.done.wait(0.1):
            return


def unfinished(peer: Peer) -> None:
    peer.send(b"RTSP/1.0 200 OK\r\nContent-Length: 100\r\n\r\nv=0\r\n")
    peer.done.wait(WAIT_S)


@pytest.mark.parametrize(
    ("script", "words"),
    [(silence, "is silent"), (trickle, "answers too slowly"), (unfinished, "too slowly")],
)
def test_total_time_is_bounded(serve: Serve, script: Script, words: str) -> None:
    server = serve(script)
    start = time.monotonic()
    found = ask(server, timeout_s=0.5)
    assert time.monotonic() - start < WAIT_S / 2
    assert found.code == "timeout"
    assert words in found.reason


@pytest.mark.parametrize(
    "start", [b"RTSP/1.0 200 OK\r\nX: ", b"RTSP/1.0 200 OK\r\nContent-Length: 99999999\r\n\r\n"]
)
def test_reply_size_is_bounded(serve: Serve, start: bytes) -> None:
    def flood(peer: Peer) -> None:
        peer.request()
        peer.send(start)
        while not peer.done.is_set():
            peer.send(b"x" * REPLY_MAX_BYTES)

    found = ask(serve(flood))
    assert found.code == "server_error"
    assert "endless" in found.reason


def test_refused_port() -> None:
    with socket.socket() as unheard:  # bound but not listening: nobody else can take the port
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
        found = diagnose(f"rtsp://{USERINFO}@127.0.0.1:{port}/", WAIT_S)
    assert found.code == "refused"
    assert found.reason == f"nothing listens on 127.0.0.1:{port} (connection refused)"


def test_unknown_host() -> None:
    found = diagnose(f"rtsp://{USERINFO}@camera.invalid/", WAIT_S)
    assert found.code == "unknown_host"
    assert "camera.invalid" in found.reason


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    return certified(tmp_path)


def test_rtsps_accepts_a_self_signed_certificate(serve: Serve, certificate: ssl.SSLContext) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.reply("200 OK", body=SDP)

    server = serve(script, certificate)
    assert ask(server, scheme="rtsps").code == "ok"
    assert server.requests[0].startswith("DESCRIBE rtsps://127.0.0.1:")


def test_rtsps_with_a_tls_that_is_too_old_is_called_that(
    serve: Serve, certificate: ssl.SSLContext
) -> None:
    certificate.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        certificate.minimum_version = ssl.TLSVersion.TLSv1
        certificate.maximum_version = ssl.TLSVersion.TLSv1
    found = ask(serve(lambda peer: None, certificate), scheme="rtsps")
    assert found.code == "not_rtsp"
    assert "too old" in found.reason
    assert "rtsp://" in found.hint


def test_rtsps_to_a_plain_server(serve: Serve) -> None:
    found = ask(serve(lambda peer: peer.send(b"RTSP/1.0 400 Bad Request\r\n\r\n")), scheme="rtsps")
    assert found.code == "not_rtsp"
    assert "TLS" in found.reason


def test_rtsps_to_a_silent_server(serve: Serve) -> None:
    assert ask(serve(silence), timeout_s=0.5, scheme="rtsps").code == "timeout"


def test_rtsp_to_a_tls_server(serve: Serve, certificate: ssl.SSLContext) -> None:
    assert ask(serve(lambda peer: None, certificate)).code == "not_rtsp"


def test_ipv6_literal() -> None:
    try:
        unheard = socket.socket(socket.AF_INET6)
        unheard.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 on this computer")
    with unheard:
        port = unheard.getsockname()[1]
        found = diagnose(f"rtsp://[::1]:{port}/", WAIT_S)
    assert found.code == "refused"
    assert f"[::1]:{port}" in found.reason
