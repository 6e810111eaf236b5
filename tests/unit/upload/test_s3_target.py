"""What each answer of a store means, and what is sent with a picture."""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from urllib3 import HTTPHeaderDict, HTTPResponse, PoolManager
from urllib3.exceptions import NewConnectionError, ReadTimeoutError

from config import ConfigError, S3Config
from store.catalog import Catalog
from store.rows import Image
from tests.rigs.stores import JPEG, save, storage_config, upload_config
from upload.outcomes import Deferred, Delivered, Misconfigured, Outcome, Rejected
from upload.s3_target import S3Target

Answer = tuple[int, dict[str, str], bytes]

ROOT = Path(__file__).parents[3]
MD5 = hashlib.md5(JPEG, usedforsecurity=False)
XML = {"content-type": "application/xml"}
NOT_THERE: Answer = (404, {}, b"")
PUT_OK: Answer = (200, {"etag": f'"{MD5.hexdigest()}"'}, b"")


class Script:
    """Answer what minio sends as scripted, and remember it."""

    def __init__(self) -> None:
        self.head: list[Answer | Exception] = [NOT_THERE]
        self.put: list[Answer | Exception] = [PUT_OK]
        self.sent: list[tuple[str, HTTPHeaderDict]] = []

    def urlopen(self, pool: PoolManager, method: str, url: str, **how: Any) -> HTTPResponse:
        assert how["redirect"] is False
        assert how["preload_content"] is False
        self.sent.append((method, HTTPHeaderDict(how["headers"])))
        answers = self.head if method == "HEAD" else self.put
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        status, headers, body = answer
        return HTTPResponse(
            io.BytesIO(body),
            headers=headers,
            status=status,
            request_method=method,
            preload_content=False,
        )

    @property
    def methods(self) -> list[str]:
        return [method for method, _ in self.sent]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    script = Script()
    monkeypatch.setattr(
        PoolManager,
        "urlopen",
        lambda pool, method, url, **how: script.urlopen(pool, method, url, **how),
    )
    return script


def settings(endpoint: str = "https://s3.example.org", **changes: Any) -> Any:
    s3 = S3Config(endpoint, "gate-key", "gate-secret", changes.pop("token", ""))
    return upload_config(changes.pop("url", "s3://gates/anpr"), s3=s3, **changes)


@pytest.fixture
def target(script: Script) -> Iterator[S3Target]:
    target = S3Target(settings(), "gate-1")
    yield target
    target.close()


@pytest.fixture
def image(tmp_path: Path) -> Image:
    catalog = Catalog.open_owner(storage_config(tmp_path))
    image = save(catalog)
    catalog.close()
    return image


def test_no_more_of_an_answer_is_read_than_somebody_needs(
    target: S3Target, script: Script, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, headers, body = told(500, "InternalError")
    script.put = [(status, headers, body + b"x" * 1_000_000)]
    read: list[int] = []

    class Body(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            found = super().read(size)
            read.append(len(found))
            return found

    monkeypatch.setattr(io, "BytesIO", Body)
    outcome = target.send(image, JPEG, replay=False)
    assert outcome == Deferred("the store answered 500 InternalError: m of InternalError", "server")
    assert 0 < sum(read) < 200_000


def told(status: int, code: str, kind: str = "application/xml") -> Answer:
    body = f"<Error><Code>{code}</Code><Message>m of {code}</Message></Error>"
    return status, {"content-type": kind}, body.encode()


# The answer to a put, and what becomes of the picture.
TABLE: list[tuple[Answer, type[Outcome]]] = [
    (PUT_OK, Delivered),
    ((200, {"etag": '"aaaaaaaa-2"'}, b""), Delivered),
    ((200, {"etag": '"' + "0" * 32 + '"'}, b""), Deferred),
    (
        (200, {"etag": '"' + "0" * 32 + '"', "x-amz-server-side-encryption": "aws:kms"}, b""),
        Delivered,
    ),
    *(
        (told(403, code), Misconfigured)
        for code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Whatever")
    ),
    (told(400, "ExpiredToken"), Misconfigured),
    (told(403, "RequestTimeTooSkewed"), Misconfigured),
    (told(400, "RequestExpired"), Misconfigured),
    (told(404, "NoSuchBucket"), Misconfigured),
    (told(404, "NoSuchBucket", "text/xml; charset=utf-8"), Misconfigured),  # rclone
    (told(400, "AuthorizationHeaderMalformed"), Misconfigured),
    (told(400, "InvalidRequest"), Misconfigured),
    (told(301, "PermanentRedirect"), Misconfigured),
    ((302, {"location": "https://elsewhere/"}, b""), Misconfigured),
    ((404, {"content-type": "text/html"}, b"<html>"), Misconfigured),
    ((405, {}, b""), Misconfigured),
    (told(400, "EntityTooLarge"), Rejected),
    (told(400, "MetadataTooLarge"), Rejected),
    *(((status, {}, b""), Rejected) for status in (400, 413, 415, 422)),
    (told(400, "BadDigest"), Deferred),
    (told(400, "XAmzContentSHA256Mismatch"), Deferred),
    (told(400, "IncompleteBody"), Deferred),
    (told(400, "RequestTimeout"), Deferred),
    (told(503, "SlowDown"), Deferred),
    (told(500, "InternalError"), Deferred),
    *(((status, {}, b"oops"), Deferred) for status in (408, 425, 429, 500, 502, 503, 504, 599)),
    *(((status, {}, b""), Deferred) for status in (402, 410, 411, 418)),
    ((500, XML, b"<not xml"), Deferred),
    ((503, {"content-type": "text/plain"}, b"\xff\xfe"), Deferred),
]


@pytest.mark.parametrize(("answer", "meaning"), TABLE)
def test_answers(
    target: S3Target, script: Script, image: Image, answer: Answer, meaning: type[Outcome]
) -> None:
    script.put = [answer]
    outcome = target.send(image, JPEG, replay=False)
    assert type(outcome) is meaning, outcome
    if not isinstance(outcome, Delivered) and answer[0] != 200:
        assert str(answer[0]) in outcome.reason
    if isinstance(outcome, Deferred):
        assert outcome.cause == "server"
        assert not outcome.captive_portal


@pytest.mark.parametrize(
    ("status", "code", "word"),
    [
        (403, "RequestTimeTooSkewed", "clock"),
        (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        (404, "NoSuchBucket", "S3_API_URL"),
    ],
)
def test_what_to_do_is_said(
    target: S3Target, script: Script, image: Image, status: int, code: str, word: str
) -> None:
    script.head = [(403, {}, b"")]  # without words; those come with the put
    script.put = [told(status, code)]
    outcome = target.send(image, JPEG, replay=False)
    assert isinstance(outcome, Misconfigured)
    assert word in outcome.hint
    assert code in outcome.reason
    assert f"m of {code}" in outcome.reason


def test_retry_after_is_read(target: S3Target, script: Script, image: Image) -> None:
    script.put = [(503, {"retry-after": "17"}, b"")]
    outcome = target.send(image, JPEG, replay=False)
    assert isinstance(outcome, Deferred)
    assert outcome.retry_after_s == 17


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/html; charset=utf-8", "etag": f'"{MD5.hexdigest()}"'},
        {"content-type": "text/plain", "content-length": str(len(JPEG))},
        {},  # cut off after the status
    ],
)
@pytest.mark.parametrize("where", ["head", "put"])
def test_what_does_not_answer_as_a_store_does_delivers_nothing(
    target: S3Target, script: Script, image: Image, where: str, headers: dict[str, str]
) -> None:
    setattr(script, where, [(200, headers, b"" if where == "head" else JPEG)])
    outcome = target.send(image, JPEG, replay=False)
    assert isinstance(outcome, Deferred)
    assert outcome.captive_portal


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (NewConnectionError(None, "refused"), "connection"),  # type: ignore[arg-type]
        (ReadTimeoutError(None, "/", "late"), "silent"),  # type: ignore[arg-type]
        (ConnectionResetError("gone"), "silent"),
    ],
)
@pytest.mark.parametrize("where", ["head", "put"])
def test_no_answer_is_waited_for(
    target: S3Target, script: Script, image: Image, where: str, error: Exception, cause: str
) -> None:
    setattr(script, where, [error])
    outcome = target.send(image, JPEG, replay=False)
    assert isinstance(outcome, Deferred)
    assert outcome.cause == cause


def test_an_old_answer_is_not_taken_for_that_of_a_broken_connection(
    target: S3Target, script: Script, image: Image
) -> None:
    script.put = [told(403, "AccessDenied"), ConnectionResetError("gone")]
    assert isinstance(target.send(image, JPEG, replay=False), Misconfigured)
    assert isinstance(target.send(image, JPEG, replay=False), Deferred)


# What is there already.


def stored(image: Image, **changes: str) -> Answer:
    headers = {
        "etag": f'"{MD5.hexdigest()}"',
        "content-length": str(len(JPEG)),
        "x-amz-meta-sha256": str(image.sha256),
    }
    return 200, {**headers, **{name.replace("_", "-"): text for name, text in changes.items()}}, b""


LOOKS: list[tuple[Callable[[Image], Answer], type[Outcome], list[str]]] = [
    (lambda i: stored(i), Delivered, ["HEAD"]),
    (lambda i: stored(i, x_amz_meta_sha256=""), Delivered, ["HEAD"]),  # a store without metadata
    (lambda i: stored(i, etag='"aa-2"'), Delivered, ["HEAD"]),
    (
        lambda i: stored(i, x_amz_meta_sha256="0" * 64, etag='"' + "0" * 32 + '"'),
        Rejected,
        ["HEAD"],
    ),
    (lambda i: stored(i, x_amz_meta_sha256="", etag='"aa-2"'), Rejected, ["HEAD"]),
    # The label is of this picture and the bytes are not: it was damaged on its way.
    (lambda i: stored(i, etag='"' + "0" * 32 + '"'), Delivered, ["HEAD", "PUT"]),
    (lambda i: stored(i, content_length="5"), Delivered, ["HEAD", "PUT"]),
    (lambda i: (500, {}, b""), Deferred, ["HEAD"]),
    (lambda i: (403, {}, b""), Delivered, ["HEAD", "PUT"]),  # a key that may only write
]


@pytest.mark.parametrize(("answer", "meaning", "methods"), LOOKS)
def test_what_is_there_already_is_looked_at(
    target: S3Target,
    script: Script,
    image: Image,
    answer: Callable[[Image], Answer],
    meaning: type[Outcome],
    methods: list[str],
) -> None:
    script.head = [answer(image)]
    assert type(target.send(image, JPEG, replay=False)) is meaning
    assert script.methods == methods


@pytest.mark.parametrize("status", [409, 412])
@pytest.mark.parametrize(
    ("second_look", "meaning"),
    [("same", Delivered), ("other", Rejected), ("unreadable", Deferred), ("gone", Deferred)],
)
def test_a_name_taken_meanwhile_counts_only_when_it_is_this_picture(
    target: S3Target,
    script: Script,
    image: Image,
    status: int,
    second_look: str,
    meaning: type[Outcome],
) -> None:
    looks: dict[str, Answer] = {
        "same": stored(image),
        "other": stored(image, x_amz_meta_sha256="0" * 64, etag='"' + "0" * 32 + '"'),
        "unreadable": (403, {}, b""),
        "gone": NOT_THERE,
    }
    script.head = [NOT_THERE, looks[second_look]]
    script.put = [told(status, "PreconditionFailed")]
    assert type(target.send(image, JPEG, replay=False)) is meaning
    assert script.methods == ["HEAD", "PUT", "HEAD"]


def test_a_store_is_asked_to_refuse_a_taken_name_and_to_check_the_bytes(
    target: S3Target, script: Script, image: Image
) -> None:
    target.send(image, JPEG, replay=False)
    headers = script.sent[1][1]
    assert headers["If-None-Match"] == "*"
    assert headers["Content-MD5"] == base64.b64encode(MD5.digest()).decode()


def test_a_store_that_does_not_know_the_condition_goes_without(
    target: S3Target, script: Script, image: Image
) -> None:
    script.put = [told(501, "NotImplemented"), PUT_OK]
    assert isinstance(target.send(image, JPEG, replay=False), Delivered)
    assert isinstance(target.send(image, JPEG, replay=False), Delivered)
    puts = [headers for method, headers in script.sent if method == "PUT"]
    assert ["If-None-Match" in headers for headers in puts] == [True, False, False]


def test_a_store_that_knows_nothing_at_all_pauses(
    target: S3Target, script: Script, image: Image
) -> None:
    script.put = [told(501, "NotImplemented")]
    assert isinstance(target.send(image, JPEG, replay=False), Misconfigured)
    assert script.methods == ["HEAD", "PUT", "PUT"]


def test_a_damaged_object_is_replaced_without_the_condition(
    target: S3Target, script: Script, image: Image
) -> None:
    script.head = [stored(image, content_length="5")]
    target.send(image, JPEG, replay=False)
    assert "If-None-Match" not in script.sent[1][1]


# Settings.


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("s3://gates", "gate-1/2026/12/01/"),
        ("s3://gates/", "gate-1/2026/12/01/"),
        ("s3://gates/a/b/", "a/b/gate-1/2026/12/01/"),
    ],
)
def test_the_key(image: Image, url: str, key: str) -> None:
    target = S3Target(settings(url=url), "gate-1")
    assert target.key_of(image) == key + image.filename
    target.close()


def test_an_endpoint_that_can_t_be_used_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError) as caught:
        S3Target(settings("https://key:c4n4ry@s3.example.org"), "gate-1")
    assert "S3_ENDPOINT_URL" in caught.value.problems[0]
    assert "c4n4ry" not in caught.value.problems[0]


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minio", None)
    with pytest.raises(ConfigError) as caught:
        S3Target(settings(), "gate-1")
    assert "pip install" in caught.value.problems[0]


def test_the_package_is_not_loaded_by_a_program_that_does_not_need_it() -> None:
    text = "import sys, main; sys.exit('minio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, check=False, timeout=60)
    assert done.returncode == 0
