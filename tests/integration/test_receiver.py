"""Check the upload receiver that the other tests rely on."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest
import requests

from tests.rigs.receiver import (
    Answer,
    MalformedRequest,
    Receiver,
    captive_portal,
    parse_multipart,
    redirect,
    retry_later,
    text,
)

pytestmark = pytest.mark.filterwarnings("error")

ROOT = Path(__file__).parents[2]
# Every byte value, and what a careless parser trips over: line ends, dashes, a blank at the end.
JPEG = b"\xff\xd8" + bytes(range(256)) * 40 + b"\r\n--\r\n\r\n--x--\r\n\n\r \r\n"
TIMEOUT_S = 60.0


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Return a listening receiver that keeps bodies."""
    with Receiver(keep_bodies=True) as receiver:
        yield receiver


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """Return a session that ignores proxies of the environment."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


def upload(
    session: requests.Session,
    url: str,
    *,
    name: str = "a.jpg",
    content: bytes = JPEG,
    field: str = "singleFile",
    fields: dict[str, str] | None = None,
    key: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> requests.Response:
    """Upload one image."""
    return session.post(
        url,
        files={field: (name, content, "image/jpeg")},
        data=fields,
        headers={} if key is None else {"Idempotency-Key": key},
        timeout=timeout_s,
        allow_redirects=False,
    )


def raw(receiver: Receiver, request: bytes, *, half_close: bool = True) -> bytes:
    """Send bytes as they are and return all that comes back until the close."""
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=TIMEOUT_S) as sock:
        sock.sendall(request)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        reply = b""
        while chunk := sock.recv(65_536):
            reply += chunk
    return reply


def test_upload_is_recorded_byte_for_byte(receiver: Receiver, session: requests.Session) -> None:
    """Keep every byte of the file, and all that came with it."""
    sent_s = time.monotonic()
    response = upload(session, receiver.url, name="gate 1.jpg", fields={"replay": "true"}, key="k1")
    assert response.status_code == 200
    assert "Location" in response.json()
    [received] = receiver.wait_for(1, TIMEOUT_S)
    assert receiver.requests == [received]
    assert receiver.bodies == {"gate 1.jpg": JPEG}
    assert received.sha256 == hashlib.sha256(JPEG).hexdigest()
    assert received.size_bytes == len(JPEG)
    assert (received.method, received.path) == ("POST", "/api/Common/Upload?modulename=anpr")
    assert (received.file_field, received.filename) == ("singleFile", "gate 1.jpg")
    assert received.content_type == "image/jpeg"
    assert received.fields == {"replay": "true"}
    assert received.headers["idempotency-key"] == "k1"
    assert sent_s <= received.arrived_s <= time.monotonic()
    assert (received.status, received.fault) == (200, "")


@pytest.mark.parametrize("content", [b"", b"\r\n", b"\r\n\r\n", b"--", os.urandom(3_000_000)])
def test_awkward_contents_survive(
    receiver: Receiver, session: requests.Session, content: bytes
) -> None:
    """Neither trim nor add a byte."""
    upload(session, receiver.url, content=content)
    assert receiver.bodies == {"a.jpg": content}


@pytest.mark.parametrize("name", ['qu"ote.jpg', "żółw.jpg", "back\\slash.jpg", "a;b=c.jpg"])
def test_awkward_names_survive(receiver: Receiver, session: requests.Session, name: str) -> None:
    """Read filenames as clients write them."""
    upload(session, receiver.url, name=name)
    assert [received.filename for received in receiver.accepted] == [name]


def test_chunked_body_is_read(receiver: Receiver, session: requests.Session) -> None:
    """Accept a body without Content-Length."""
    prepared = requests.Request("POST", receiver.url, files={"singleFile": ("a.jpg", JPEG)})
    body = prepared.prepare()
    assert isinstance(body.body, bytes)
    whole = body.body
    pieces = (whole[start : start + 1000] for start in range(0, len(whole), 1000))
    response = session.post(
        receiver.url,
        data=pieces,
        headers={"Content-Type": body.headers["Content-Type"]},
        timeout=TIMEOUT_S,
    )
    assert response.status_code == 200
    assert receiver.bodies == {"a.jpg": JPEG}


def test_connection_is_kept_alive(receiver: Receiver, session: requests.Session) -> None:
    """Serve several uploads on one connection."""
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        upload(session, receiver.url, name=name)
    assert [received.connection for received in receiver.accepted] == [1, 1, 1]
    assert receiver.n_connections == 1


def test_bare_connection_is_counted(receiver: Receiver) -> None:
    """Count a probe that sends nothing, and record no request for it."""
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=TIMEOUT_S):
        receiver.wait_for_connections(1, TIMEOUT_S)
    assert receiver.requests == []


@pytest.mark.parametrize("field", ["file", "singlefile", "singleFile[]"])
def test_wrong_field_is_refused(receiver: Receiver, session: requests.Session, field: str) -> None:
    """Answer as the real API does to another field name."""
    response = upload(session, receiver.url, field=field)
    assert (response.status_code, response.text) == (500, "Unexpected field")
    assert receiver.accepted == []
    assert receiver.bodies == {}
    [received] = receiver.requests
    assert (received.file_field, received.status) == (field, 500)


def test_second_file_is_refused(receiver: Receiver, session: requests.Session) -> None:
    """Accept a single file only."""
    files = [("singleFile", ("a.jpg", JPEG)), ("singleFile", ("b.jpg", JPEG))]
    response = session.post(receiver.url, files=files, timeout=TIMEOUT_S)
    assert (response.status_code, response.text) == (500, "Unexpected field")


def test_expected_field_can_be_another(session: requests.Session) -> None:
    """Expect the field name given."""
    with Receiver(field="image") as receiver:
        assert upload(session, receiver.url).status_code == 500
        assert upload(session, receiver.url, field="image").status_code == 200


def test_not_multipart_is_refused(receiver: Receiver, session: requests.Session) -> None:
    """Refuse a body that is no form, or a form without a file."""
    assert session.post(receiver.url, data=JPEG, timeout=TIMEOUT_S).status_code == 400
    form = {"replay": (None, "true")}
    response = session.post(receiver.url, files=form, timeout=TIMEOUT_S)
    assert (response.status_code, response.text) == (400, "no file part")


def test_elsewhere_is_not_found(receiver: Receiver, session: requests.Session) -> None:
    """Answer other paths and methods without using up the script."""
    receiver.script([text(503, "down")])
    assert session.get(receiver.url, timeout=TIMEOUT_S).status_code == 405
    assert session.head(receiver.url, timeout=TIMEOUT_S).status_code == 405
    other = receiver.url.replace("Upload", "upload")
    assert upload(session, other).status_code == 404
    assert upload(session, receiver.url).status_code == 503


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b\r\n",
        b"--b--\r\n",
        b'preamble\r\n--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--\r\nepilogue',
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b\r\n',
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx--b--\r\n',
        b'--b\nContent-Disposition: form-data; name="a"\n\nx\n--b--\n',
        b'--b\r\nContent-Disposition: attachment; name="a"\r\n\r\nx\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; filename="a"\r\n\r\nx\r\n--b--\r\n',
        b"--b\r\n\r\nx\r\n--b--\r\n",
    ],
)
def test_malformed_multipart_is_refused(body: bytes) -> None:
    """Show no lenience: a client that gets through here gets through anywhere."""
    with pytest.raises(MalformedRequest):
        parse_multipart("multipart/form-data; boundary=b", body)


@pytest.mark.parametrize(
    "request_bytes",
    [b"nonsense\r\n\r\n", b"POST / HTTP/1.1\r\nno colon\r\n\r\n", b"GET / HTTP/1.1\n\n"],
)
def test_malformed_http_is_refused(receiver: Receiver, request_bytes: bytes) -> None:
    """Answer 400 and close."""
    assert raw(receiver, request_bytes).startswith(b"HTTP/1.1 400 ")
    assert receiver.requests[0].problem


def test_request_cut_by_its_client_is_recorded(receiver: Receiver) -> None:
    """Accept nothing of an upload that stops halfway, as after kill -9."""
    head = b"POST /api/Common/Upload HTTP/1.1\r\nContent-Length: 1000\r\n\r\n"
    assert raw(receiver, head + b"x" * 10) == b""
    [received] = receiver.wait_for_requests(1, TIMEOUT_S)
    assert (received.fault, received.status) == ("cut", None)
    assert receiver.accepted == []


def test_expect_continue_is_answered(receiver: Receiver) -> None:
    """Ask for the body that a client holds back."""
    head = b"POST /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
    reply = raw(receiver, head + b"x")
    assert reply.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 ")


def test_default_and_script(receiver: Receiver, session: requests.Session) -> None:
    """Give scripted answers one by one, then the default."""
    receiver.answer(text(503, "down"))
    receiver.script([text(429, "slow down"), Answer(status=201)])
    statuses = [upload(session, receiver.url).status_code for _ in range(4)]
    assert statuses == [429, 201, 503, 503]
    receiver.answer(Answer())
    assert upload(session, receiver.url).status_code == 200
    assert [received.status for received in receiver.requests] == [429, 201, 503, 503, 200]
    assert [received.status for received in receiver.accepted] == [201, 200]


def test_poison_image(receiver: Receiver, session: requests.Session) -> None:
    """Refuse one image for good and the others not, by name or by predicate."""
    receiver.script([text(503, "down")])
    receiver.answer_for("bad.jpg", text(422, "not an image"))
    receiver.answer_for(lambda received: received.size_bytes == 0, text(400, "empty"))
    assert upload(session, receiver.url, name="bad.jpg").status_code == 422
    assert upload(session, receiver.url, name="empty.jpg", content=b"").status_code == 400
    assert upload(session, receiver.url).status_code == 503
    assert upload(session, receiver.url).status_code == 200
    receiver.answer_for("bad.jpg", None)
    assert upload(session, receiver.url, name="bad.jpg").status_code == 200


def test_captive_portal_accepts_nothing(receiver: Receiver, session: requests.Session) -> None:
    """Answer 200 with HTML and store nothing."""
    receiver.answer(captive_portal())
    response = upload(session, receiver.url)
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/html")
    assert receiver.accepted == []


def test_redirect_and_retry_after(receiver: Receiver, session: requests.Session) -> None:
    """Send the headers of an answer."""
    receiver.script([redirect("/login"), retry_later(7)])
    response = upload(session, receiver.url)
    assert (response.status_code, response.headers["Location"]) == (302, "/login")
    response = upload(session, receiver.url)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "7")
    assert receiver.accepted == []


def test_hang_is_released_by_the_client(receiver: Receiver, session: requests.Session) -> None:
    """Never answer; serve the next request on another connection."""
    receiver.script([Answer(hang=True)])
    with pytest.raises(requests.ReadTimeout):
        upload(session, receiver.url, timeout_s=0.2)
    assert upload(session, receiver.url).status_code == 200
    assert [received.fault for received in receiver.requests] == ["hang", ""]
    assert len(receiver.accepted) == 1


@pytest.mark.parametrize("answer", [Answer(hang=True), Answer(delay_s=600), Answer(trickle_s=600)])
@pytest.mark.parametrize("release", ["close", "stop_listening"])
def test_blocked_handlers_are_released(answer: Answer, release: str) -> None:
    """Cut a client that waits for an answer, at once."""
    errors: list[requests.RequestException] = []

    def wait_for_answer(url: str) -> None:
        with requests.Session() as session:
            session.trust_env = False
            try:
                upload(session, url, timeout_s=60)
            except requests.ConnectionError as error:
                errors.append(error)

    with Receiver() as rig:
        rig.answer(answer)
        client = threading.Thread(target=wait_for_answer, args=(rig.url,))
        client.start()
        rig.wait_for_requests(1, TIMEOUT_S)
        getattr(rig, release)()
        client.join(TIMEOUT_S)
        assert not client.is_alive()
    assert len(errors) == 1


@pytest.mark.parametrize("reset", [True, "after", "before"])
def test_reset(
    receiver: Receiver, session: requests.Session, reset: Literal[True, "after", "before"]
) -> None:
    """Fail the client's connection and accept nothing."""
    receiver.script([Answer(reset=reset)])
    with pytest.raises(requests.ConnectionError):
        upload(session, receiver.url, content=os.urandom(2_000_000))
    [received] = receiver.requests
    assert (received.fault, received.status) == ("reset", None)
    assert (received.filename is None) == (reset == "before")
    assert upload(session, receiver.url).status_code == 200
    assert len(receiver.accepted) == 1


def test_reset_sends_rst(receiver: Receiver) -> None:
    """Reset, not close: the client reads ECONNRESET, not an end of file."""
    receiver.answer(Answer(reset=True))
    head = b"POST /api/Common/Upload HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(ConnectionResetError):
        raw(receiver, head, half_close=False)


def test_dropped_reply_is_stored(receiver: Receiver, session: requests.Session) -> None:
    """Store the upload though its client never hears of it."""
    receiver.script([Answer(drop_reply=True)])
    with pytest.raises(requests.ConnectionError):
        upload(session, receiver.url)
    [received] = receiver.wait_for(1, TIMEOUT_S)
    assert (received.fault, received.status) == ("drop_reply", None)
    assert receiver.bodies == {"a.jpg": JPEG}


def test_delay_accepts_late(receiver: Receiver, session: requests.Session) -> None:
    """Hold an answer back, with its upload."""
    receiver.answer(Answer(delay_s=0.1))
    started_s = time.monotonic()
    assert upload(session, receiver.url).status_code == 200
    assert time.monotonic() - started_s >= 0.1
    assert len(receiver.accepted) == 1


def test_trickle(receiver: Receiver, session: requests.Session) -> None:
    """Send the head byte by byte, and still a whole answer."""
    receiver.answer(Answer(status=200, body=b"{}", trickle_s=0.002))
    started_s = time.monotonic()
    response = upload(session, receiver.url)
    assert response.content == b"{}"
    head_bytes = len("HTTP/1.1 200 OK\r\n") + len("Content-Type: application/json\r\n")
    assert time.monotonic() - started_s >= 0.002 * head_bytes


def test_reply_cut_short(receiver: Receiver, session: requests.Session) -> None:
    """Promise more bytes than are sent."""
    receiver.answer(Answer(body=b"{", headers={"Content-Length": "100"}))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        upload(session, receiver.url)
    assert len(receiver.accepted) == 1


def test_stop_listening_and_listen_again(receiver: Receiver, session: requests.Session) -> None:
    """Refuse connections in between, also on the connection kept alive, on the same port."""
    url = receiver.url
    assert upload(session, url).status_code == 200
    for _ in range(3):
        receiver.stop_listening()
        receiver.stop_listening()
        with pytest.raises(requests.ConnectionError):
            upload(session, url)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", receiver.port), timeout=TIMEOUT_S)
        receiver.listen_again()
        receiver.listen_again()
        assert upload(session, url).status_code == 200
    assert receiver.url == url
    assert len(receiver.wait_for(4, TIMEOUT_S)) == 4


def test_keys_are_honoured(session: requests.Session) -> None:
    """Store once per Idempotency-Key, and refuse a key for another file."""
    with Receiver(honour_keys=True) as receiver:
        receiver.script([text(503, "down"), Answer(drop_reply=True)])
        assert upload(session, receiver.url, key="k1").status_code == 503
        with pytest.raises(requests.ConnectionError):
            upload(session, receiver.url, key="k1")
        assert upload(session, receiver.url, key="k1").status_code == 200
        assert upload(session, receiver.url, key="k2").status_code == 200
        assert upload(session, receiver.url, key="k2", content=b"other").status_code == 422
        assert upload(session, receiver.url).status_code == 200
        keys = [received.headers.get("idempotency-key") for received in receiver.accepted]
        assert keys == ["k1", "k2", None]
        assert [received.index for received in receiver.repeats] == [2]


def test_wait_tells_what_came_in(receiver: Receiver, session: requests.Session) -> None:
    """Sum up on timeout."""
    receiver.answer(text(503, "down"))
    upload(session, receiver.url)
    with pytest.raises(AssertionError, match=r"wanted 1 accepted.*have 0(?s:.*)a\.jpg.*: 503"):
        receiver.wait_for(1, timeout_s=0)


def test_many_at_once(receiver: Receiver) -> None:
    """Lose none of many concurrent uploads."""

    def run(worker: int) -> None:
        with requests.Session() as session:
            session.trust_env = False
            for image in range(10):
                upload(session, receiver.url, name=f"{worker}-{image}.jpg")

    workers = [threading.Thread(target=run, args=(worker,)) for worker in range(8)]
    for worker in workers:
        worker.start()
    accepted = receiver.wait_for(80, TIMEOUT_S)
    for worker in workers:
        worker.join(TIMEOUT_S)
    assert len({received.filename for received in accepted}) == 80
    assert [received.index for received in receiver.requests] == list(range(80))


@pytest.mark.parametrize("fault", [{"hang": True, "reset": True}, {"reset": "sometime"}])
def test_contradictory_answer_is_refused(fault: dict[str, bool]) -> None:
    """Refuse faults that exclude each other."""
    with pytest.raises(ValueError, match="reset"):
        Answer(**fault)  # type: ignore[arg-type]


def test_own_process(tmp_path: Path, session: requests.Session) -> None:
    """Append a line per accepted upload before the answer; stop, listen again and end by signal."""
    command = [sys.executable, "-W", "error", "-m", "tests.rigs.receiver", "--honour-keys"]
    command += ["--port", "0", "--store", str(tmp_path / "store")]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            word, url = process.stdout.readline().split()
            assert word == "listening"
            assert upload(session, url, name="a.jpg", key="k1").status_code == 200
            assert upload(session, url, name="a.jpg", key="k1").status_code == 200
            assert upload(session, url, name="b.jpg", field="file").status_code == 500
            process.send_signal(signal.SIGUSR1)
            assert process.stdout.readline() == "stopped\n"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), TIMEOUT_S)
            process.send_signal(signal.SIGUSR2)
            assert process.stdout.readline() == f"listening {url}\n"
            assert upload(session, url, name="c.jpg", key="k2").status_code == 200
            lines = (tmp_path / "store" / "received.jsonl").read_text().splitlines()
            stored = [json.loads(line) for line in lines]
            assert [line["filename"] for line in stored] == ["a.jpg", "c.jpg"]
            assert stored[0]["sha256"] == hashlib.sha256(JPEG).hexdigest()
            process.terminate()
            assert process.wait(TIMEOUT_S) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()
