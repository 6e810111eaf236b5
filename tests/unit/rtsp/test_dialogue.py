"""What can be said about a camera without asking one."""

from __future__ import annotations

import errno
import re
import socket

import pytest

from rtsp import dialogue as rtsp_dialogue
from rtsp.address import parse_url
from rtsp.auth import authorization, digest_answer, parse_challenges
from rtsp.sdp import first_video
from tests.rigs.rtsp import diagnose

SDP = "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=cam\r\nt=0 0\r\n"
RFC2617 = {
    "realm": "testrealm@host.com",
    "nonce": "dcd98b7102dd2f0e8b11d0f600bfb0c093",
    "qop": "auth,auth-int",
    "opaque": "5ccc069c403ebaf9f0171e9517f40e41",
}
RFC7616 = {
    "realm": "http-auth@example.org",
    "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
    "qop": "auth, auth-int",
    "opaque": "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS",
}
RFC7616_CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
LEGACY = {"realm": "cam", "nonce": "abc"}


def fields(answer: str | None) -> dict[str, str]:
    assert answer is not None
    assert answer.startswith("Digest ")
    return {
        name: quoted or plain
        for name, quoted, plain in re.findall(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^,\s]+))', answer)
    }


@pytest.mark.parametrize(
    ("params", "user", "password", "cnonce", "response"),
    [
        pytest.param(RFC2617, "Mufasa", "Circle Of Life", "0a4f113b",
                     "6629fae49393a05397450978507c4ef1", id="rfc2617"),
        pytest.param(RFC7616 | {"algorithm": "MD5"}, "Mufasa", "Circle of Life", RFC7616_CNONCE,
                     "8ca523f5e9506fed4657c9700eebdbec", id="rfc7616-md5"),
        pytest.param(RFC7616 | {"algorithm": "SHA-256"}, "Mufasa", "Circle of Life",
                     RFC7616_CNONCE,
                     "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
                     id="rfc7616-sha256"),
    ],
)  # fmt: skip
def test_digest_examples_of_the_rfcs(
    params: dict[str, str], user: str, password: str, cnonce: str, response: str
) -> None:
    answer = fields(digest_answer(params, user, password, "GET", "/dir/index.html", cnonce))
    assert answer["response"] == response
    assert answer["opaque"] == params["opaque"]
    assert answer["cnonce"] == cnonce
    assert (answer["qop"], answer["nc"]) == ("auth", "00000001")
    assert answer.get("algorithm") == params.get("algorithm")


def test_digest_without_qop_is_the_old_one() -> None:
    # printf 'u:cam:p' | md5sum; printf 'DESCRIBE:rtsp://h/' | md5sum; printf 'A1:abc:A2' | md5sum
    answer = fields(digest_answer(LEGACY, "u", "p", "DESCRIBE", "rtsp://h/", "unused"))
    assert answer["response"] == "6fa128d8e26b95fac88532ade0f27734"
    assert not {"qop", "nc", "cnonce", "algorithm", "opaque"} & answer.keys()


@pytest.mark.parametrize(
    "params",
    [
        {"realm": "cam"},
        LEGACY | {"algorithm": "SHA-512-256"},
        LEGACY | {"algorithm": ""},
        LEGACY | {"qop": "auth-int"},
    ],
)
def test_digest_declines_what_it_cannot_answer(params: dict[str, str]) -> None:
    assert digest_answer(params, "u", "p", "DESCRIBE", "rtsp://h/", "c") is None


def test_digest_escapes_quotes_and_session_variant_differs() -> None:
    answer = digest_answer(LEGACY | {"realm": 'a "b"'}, 'u"x', "p", "DESCRIBE", "rtsp://h/", "c")
    assert answer is not None
    assert r'username="u\"x", realm="a \"b\""' in answer
    plain = fields(digest_answer(LEGACY, "u", "p", "DESCRIBE", "rtsp://h/", "c"))
    session = LEGACY | {"algorithm": "MD5-sess"}
    other = fields(digest_answer(session, "u", "p", "DESCRIBE", "rtsp://h/", "c"))
    assert other["response"] != plain["response"]
    assert other["cnonce"] == "c"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], []),
        (['Basic realm="cam"'], [("basic", {"realm": "cam"})]),
        (
            ['Basic realm="a"', 'DIGEST Realm = "b, c=d", nonce="n",stale=TRUE, algorithm=MD5'],
            [
                ("basic", {"realm": "a"}),
                ("digest", {"realm": "b, c=d", "nonce": "n", "stale": "TRUE", "algorithm": "MD5"}),
            ],
        ),
        (
            ['Digest realm="x", nonce="n=", qop="auth,auth-int", Basic realm="y"'],
            [
                ("digest", {"realm": "x", "nonce": "n=", "qop": "auth,auth-int"}),
                ("basic", {"realm": "y"}),
            ],
        ),
        ([r'Digest realm="say \"hi\""'], [("digest", {"realm": 'say "hi"'})]),
        (['Digest realm="open end, nonce=x'], [("digest", {"realm": "open end, nonce=x"})]),
        (["Negotiate, Basic realm=z"], [("negotiate", {}), ("basic", {"realm": "z"})]),
        (['realm="nobody\'s"', ",,= ;"], []),
        (["Digest realm=, nonce="], [("digest", {"realm": "", "nonce": ""})]),
    ],
)
def test_challenges(headers: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(headers) == expected


@pytest.mark.parametrize(
    ("challenges", "start"),
    [
        (['Basic realm="r"', 'Digest realm="r", nonce="n"'], "Digest "),
        (['Digest realm="r", nonce="n", algorithm=SHA-999, Basic realm="r"'], "Basic dTpw"),
        (['Digest realm="r", nonce="n", algorithm=SHA-999'], None),
        (["NTLM"], None),
        ([], None),
    ],
)
def test_digest_is_preferred_to_basic(challenges: list[str], start: str | None) -> None:
    answer = authorization(parse_challenges(challenges), "u", "p", "DESCRIBE", "rtsp://h/")
    if start is None:
        assert answer is None
    else:
        assert answer is not None
        assert answer.startswith(start)


@pytest.mark.parametrize(
    ("media", "codec"),
    [
        ("m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n", "H264"),
        ("m=audio 0 RTP/AVP 0\r\nm=video 0 RTP/AVP 97\r\na=rtpmap:97 h265/90000\r\n", "H265"),
        ("m=video 0 RTP/AVP 26\r\n", "JPEG"),
        ("m=video 0 RTP/AVP 26\nm=audio 0 RTP/AVP 26\na=rtpmap:26 PCMU/8000\n", "JPEG"),
        ("m=video 0 RTP/AVP 96\r\na=rtpmap:96 MP4V-ES/90000\r\n", "MP4V-ES"),
        ("m=video 0 RTP/AVP 96\r\n", "payload type 96"),
        ("m=video\r\n", "payload type ?"),
        ("m=audio 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n", None),
        ("", None),
    ],
)
def test_codec_of_the_first_video_section(media: str, codec: str | None) -> None:
    video = first_video(SDP + media)
    assert (video and video.codec) == codec


@pytest.mark.parametrize(
    ("url", "uri"),
    [
        ("rtsp://u:p%40ss@cam/a%20b?c=1#d", "rtsp://cam:554/a%20b?c=1#d"),
        ("rtsp://u:p@ss@cam:8554/x y", "rtsp://cam:8554/x%20y"),
        ("rtsp://[::1]/x", "rtsp://[::1]:554/x"),
        ("rtsps://cam", "rtsps://cam:322"),
        ("RTSP://CAM/\u00e4", "rtsp://cam:554/%C3%A4"),
        ("rtsp://cam/x?user=a&password=P@ss", "rtsp://cam:554/x?user=a&password=P@ss"),
    ],
)
def test_request_uri_has_no_credentials(url: str, uri: str) -> None:
    assert parse_url(url).uri == uri


@pytest.mark.parametrize(
    "url",
    [
        "", "cam", "http://cam/", "rtsp://", "rtsp:///x", "rtsp://cam:0/", "rtsp://cam:99999/",
        "rtsp://u:CANARY@cam:port/", "rtsp://[::1/", "rtsp://u:12/CANARY@cam/x",
        "rtsp://u:CANARY#x@cam/x", "rtsp://u:12?CANARY@cam/x", "rtsp://u%0d%0aX: y:CANARY@cam/", "rtsp://u:\ud800@cam/",
    ],
)  # fmt: skip
def test_unusable_addresses_are_said_without_showing_them(url: str) -> None:
    found = diagnose(url)
    assert (found.code, found.reason) == ("not_rtsp", "not a usable rtsp:// address")
    assert "CANARY" not in found.hint


@pytest.mark.parametrize(
    ("status", "phrase", "code", "reason"),
    [
        (301, "Moved", "wrong_path", "redirects to another address (301 Moved)"),
        (400, "Bad\x1b[31m", "wrong_path", "request refused (400 Bad?[31m)"),
        (400, "no CANARY", "wrong_path", "request refused ((text hidden))"),
        (401, "Unauthorized", "wrong_password", "wrong password (401)"),
        (403, "Forbidden", "wrong_password", "access denied (403)"),
        (404, "Not Found", "wrong_path", "no such stream path (404)"),
        (454, "Session Not Found", "wrong_path", "no such stream path (454)"),
        (453, "Not Enough Bandwidth", "server_error", "too many viewers (453)"),
        (503, "x" * 99, "server_error", f"camera reports an error (503 {'x' * 33}...)"),
        (461, "Unsupported Transport", "unsupported_transport", "refuses this transport (461)"),
    ],
)
def test_status_in_words(status: int, phrase: str, code: str, reason: str) -> None:
    target = parse_url("rtsp://u:CANARY@cam/")
    found = rtsp_dialogue._refusal(rtsp_dialogue.Reply(status, phrase), target).diagnosis
    assert (found.code, found.reason) == (code, reason)
    assert found.hint


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "refused",
         "nothing listens on cam:554 (connection refused)"),
        (TimeoutError(), "timeout", "no answer from cam:554 (timeout)"),
        (OSError(errno.EHOSTUNREACH, "x"), "unreachable",
         "cam:554 cannot be reached (no route to host)"),
        (OSError(errno.ENETUNREACH, "x"), "unreachable",
         "cam:554 cannot be reached (network unreachable)"),
        (OSError(errno.EPERM, "Operation not permitted"), "unreachable",
         "cam:554 cannot be reached (operation not permitted)"),
    ],
)  # fmt: skip
def test_failed_connections_in_words(
    monkeypatch: pytest.MonkeyPatch, error: OSError, code: str, reason: str
) -> None:
    class FakeSocket:
        def __init__(self, *_: object) -> None: ...
        def settimeout(self, _: float) -> None: ...
        def close(self) -> None: ...
        def connect(self, _: object) -> None:
            raise error

    found_address = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 554))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found_address)
    monkeypatch.setattr(socket, "socket", FakeSocket)
    found = diagnose("rtsp://cam/")
    assert (found.code, found.reason) == (code, reason)
    assert found.hint


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), "unknown host cam"),
        (UnicodeError("label empty"), "unknown host cam"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "cannot look up cam (no answer from DNS)"),
    ],
)
def test_failed_lookups_in_words(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    found = diagnose("rtsp://cam/")
    assert (found.code, found.reason) == ("unknown_host", reason)
